"""Child lane: the life of a lane's process, whatever work it does: start, vital signs, permit, end.

The end of the channel tells of the process's death at once; what was under way then, the kind of lane knows. Must not
import any runtime.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Final

from agent.backends import segments
from agent.backends.io import LaneIO, settle
from agent.backends.messages import Channel, Closed, pair
from agent.backends.process import Child
from agent.backends.vitals import PAGE_BYTES, VitalsPage
from agent.errors import LaneDied, Overloaded
from agent.ports import Clock, LaneSpec, LaneVitals

REAP_S: Final = 0.1
"""Longest wait for what a process that has closed its end said before, and then for its exit status."""
_LAST_WORDS: Final = 64
"""Most looks in a row at what a process said before its end: others wait for the reader thread."""

Failing = Callable[[LaneDied], None]


class ChildLane(ABC):
    """Every public method may be called from any thread. `io` is the reader thread; without it, one of its own."""

    def __init__(self, spec: LaneSpec, clock: Clock, io: LaneIO | None) -> None:
        self.spec = spec
        self._clock = clock
        self._io = io or LaneIO(clock)
        self._owns_io = io is None
        self._lock = threading.RLock()
        self._listening = threading.Lock()
        """Held by whoever reads what the process says."""
        self._numbers = 0
        self._child: Child | None = None
        self._channel: Channel | None = None
        self._vitals: VitalsPage | None = None
        self._on_death: Callable[[str], None] = _ignore
        self._cause: str | None = "it was not started"
        self._stopping = False
        self._ended = threading.Event()

    # ------------------------------------------------------------------ what kinds of lanes differ in

    @abstractmethod
    def _make_child(self, channel_fd: int, vitals_fd: int) -> Child:
        """Begin the process. Raises LaneDied."""

    @abstractmethod
    def _readable(self) -> None:
        """The process has said something, or is gone; on the thread that serves the doorbells."""

    @abstractmethod
    def _take_all(self) -> tuple[bool, list[Failing]]:
        """Forget what is under way: whether work was left unanswered, and how to fail each part. Under the lock."""

    @abstractmethod
    def expire(self, now_s: float) -> float:
        """Fail what is overdue; when to look again. On the reader thread."""

    # ------------------------------------------------------------------ life

    def start(self, on_death: Callable[[str], None]) -> None:
        """Start the process. Raises LaneDied when that is impossible. A lane starts once."""
        if self._child is not None or self._ended.is_set():
            raise LaneDied(f"{self.spec.accelerator}: a lane starts once; make a new one")
        self._on_death = on_death
        # The kernel ties the child's life to the thread that started it: so the one that lives longest does.
        self._io.call(self._spawn).result()

    def _spawn(self) -> None:
        ours, theirs = pair()
        vitals_fd, memory = segments.create("vitals", PAGE_BYTES)
        try:
            page = VitalsPage(memory)
            page.clear()
            child = self._make_child(theirs.fileno(), vitals_fd)
        except LaneDied:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(vitals_fd)
        with self._lock:
            self._child, self._channel, self._vitals = child, Channel(ours), page
            self._cause = None
        self._io.watch_bell(ours.fileno(), self._listen)
        self._io.watch_end(ours.fileno(), self._closed)
        self._io.watch(child.output_fd, self._printed)
        self._io.join(self)

    def alive(self) -> bool:
        """Whether work is accepted."""
        return self._cause is None and not self._stopping

    def pid(self) -> int | None:
        """Process id, None when dead."""
        child = self._child
        return child.pid if child is not None and self._cause is None else None

    def vitals(self) -> LaneVitals | None:
        """Last sign of life, None before the first."""
        page, child = self._vitals, self._child
        signs = page.signs() if page is not None else None
        waited_s, stopped = child.scheduling() if child is not None and self._cause is None else (None, False)
        if page is None or signs is None:
            # A process that is held before its first sign would be waited for as if it still started.
            return LaneVitals(0.0, 0, None, stopped=True) if stopped else None
        return LaneVitals(*signs, waited_s=waited_s, stopped=stopped, busy_s=page.busy_s())

    def renew_permit(self, valid_until_s: float) -> None:
        """Extend (or, with 0, withdraw) the permission to run."""
        if self._vitals is not None:
            self._vitals.renew_permit(valid_until_s)

    def set_pace(self, share: float) -> None:
        """Let it be busy for at most this share of its time, in (0, 1]."""
        if self._vitals is not None:
            self._vitals.pace(share)

    def kill(self, cause: str) -> None:
        """End the process at once; what is under way fails with LaneDied(cause)."""
        if self._child is not None and self._cause is None:
            with suppress(LaneDied):  # it may be dying at this moment
                self._io.call(lambda: self._die(cause)).result()

    def _kill_unless_ended(self, timeout_s: float) -> None:
        if not self._ended.wait(timeout_s):
            self.kill(f"{self.spec.accelerator} did not stop within {timeout_s:g} s")

    # ------------------------------------------------------------------ under the lock

    def _require(self) -> Channel:
        if self._cause is not None or self._channel is None or self._stopping:
            raise LaneDied(f"{self.spec.accelerator}: {self._cause or 'it is stopping'}")
        return self._channel

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    @contextmanager
    def _sending(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            raise Overloaded(f"{self.spec.accelerator} does not read its messages") from None
        except Closed as error:
            raise LaneDied(f"{self.spec.accelerator}: its process is gone") from error

    # ------------------------------------------------------------------ whoever serves the doorbells

    def _listen(self) -> None:
        """Hear the process, unless another thread is at it."""
        if self._listening.acquire(blocking=False):
            try:
                self._readable()
            finally:
                self._listening.release()

    def _gone(self, channel: Channel) -> None:
        """Nothing more will come: end as the process did."""
        self._io.forget_bell(channel.sock.fileno())
        self._on_reader(self._end_of_file)

    def _give_up(self, channel: Channel, cause: str) -> None:
        """Whatever it says now cannot be trusted."""
        self._io.forget_bell(channel.sock.fileno())
        self._on_reader(lambda: self._die(cause))

    def _on_reader(self, function: Callable[[], None]) -> None:
        with suppress(LaneDied):  # the reader thread has ended, and every lane with it
            self._io.call(function)

    # ------------------------------------------------------------------ reader thread

    def _printed(self) -> None:
        child = self._child
        if child is not None and not child.read_output():
            self._io.forget(child.output_fd)

    def _closed(self) -> None:
        """The process has closed its end. Whoever serves the doorbells may be busy for long with something else."""
        channel = self._channel
        if channel is not None:
            self._io.forget(channel.sock.fileno())  # or it would be told again and again
            until_s = self._clock.monotonic_s() + REAP_S
            self._io.retry(lambda: self._heard_out(until_s))

    def _heard_out(self, until_s: float) -> bool:
        """Take what it said last, at whose end the lane ends; so it does when another thread takes long over that."""
        for _ in range(_LAST_WORDS):
            if self._cause is not None:
                return True
            self._listen()
        if self._clock.monotonic_s() >= until_s:
            self._end_of_file()
        return self._cause is not None

    def reader_failed(self, cause: str) -> None:
        """The reader thread ends: so does the lane."""
        self._die(cause)

    def _end_of_file(self) -> None:
        child = self._child
        if child is None or self._cause is not None:
            return
        child.kill()  # nothing if it is gone; without its channel it is useless
        child.wait(REAP_S)
        child.read_output()
        self._die(f"{self.spec.accelerator}: {child.epitaph()}")

    def _die(self, cause: str) -> None:
        with self._lock:
            child, channel = self._child, self._channel
            if self._cause is not None or child is None or channel is None:
                return
            self._cause = cause
            unanswered, fails = self._take_all()
        child.kill()
        self._io.forget_bell(channel.sock.fileno())
        self._io.forget(channel.sock.fileno())
        channel.close()
        self._io.leave(self)
        self._io.retry(lambda: self._reaped(child))
        for fail in fails:
            fail(LaneDied(cause))
        if not self._stopping or unanswered:
            self._on_death(cause)
        self._ended.set()
        if self._owns_io:
            self._io.close()

    def _reaped(self, child: Child) -> bool:
        if not child.gone():
            return False
        self._io.forget(child.output_fd)
        child.close()
        return True


def failing(future: Future[Any]) -> Failing:
    """How to fail somebody's future."""

    def fail(error: LaneDied) -> None:
        settle(future, error=error)

    return fail


def _ignore(_: str) -> None:
    return None
