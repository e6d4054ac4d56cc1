"""Process lane: an accelerator's child process as the agent sees it.

Owns the queue of calls, the rings their tensors cross in, and the end of the process. The parent holds every deadline:
it never waits for a native runtime. Must not import any runtime.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

from agent.backends import calls, segments
from agent.backends.calls import Call, CallQueue
from agent.backends.faults import Kind, injection
from agent.backends.head_start import Spare
from agent.backends.io import LaneIO, settle
from agent.backends.messages import Channel, Closed, Header, pair, parse
from agent.backends.models import Load, ModelTable, error_of
from agent.backends.packets import DONE, unpack_done
from agent.backends.process import Child
from agent.backends.transfer import read_reply
from agent.backends.vitals import PAGE_BYTES, VitalsPage
from agent.errors import BackendError, LaneDied, ModelLoadFailed, NotLoaded, Overloaded, QeilError
from agent.ports import Clock, LaneReply, LaneSpec, LaneVitals, LoadReport, LoadSpec, Tensors

WINDOW: Final = 8
"""Calls the process holds at once: enough that it never waits for the agent, few enough that the socket never fills."""
REAP_S: Final = 0.1

Refusal = tuple[Call, QeilError]


class ProcessLane:
    """`ports.Lane` in a child process. `io` is the reader thread shared by all lanes; without it, one of its own."""

    def __init__(self, spec: LaneSpec, clock: Clock, io: LaneIO | None = None, spare: Spare | None = None) -> None:
        """`spare` is a process that has begun already."""
        self.spec = spec
        self._spare = spare
        self._clock = clock
        self._io = io or LaneIO(clock)
        self._owns_io = io is None
        self._lock = threading.RLock()
        self._queue = CallQueue(spec.accelerator, spec.max_queue)
        self._models = ModelTable(spec.accelerator)
        self._numbers = 0
        self._child: Child | None = None
        self._channel: Channel | None = None
        self._vitals: VitalsPage | None = None
        self._on_death: Callable[[str], None] = _ignore
        self._cause: str | None = "it was not started"
        self._stopping = False
        self._ended = threading.Event()

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
            child = Child(self.spec, theirs.fileno(), vitals_fd, spare=self._spare)
        except LaneDied:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(vitals_fd)
        with self._lock:
            self._child, self._channel, self._vitals = child, Channel(ours), page
            self._cause = None
        self._io.watch_bell(ours.fileno(), self._readable)
        self._io.watch(child.output_fd, self._printed)
        self._io.join(self)

    def alive(self) -> bool:
        """Whether calls are accepted."""
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
        if signs is None:  # a process that is held before its first sign would be waited for as if it still started
            return LaneVitals(0.0, 0, None, stopped=True) if stopped else None
        return LaneVitals(
            *signs, waited_s=waited_s, stopped=stopped, busy_s=page.busy_s() if page is not None else None
        )

    def renew_permit(self, valid_until_s: float) -> None:
        """Extend (or, with 0, withdraw) the permission to run."""
        if self._vitals is not None:
            self._vitals.renew_permit(valid_until_s)

    def set_pace(self, share: float) -> None:
        """Let it be busy for at most this share of its time."""
        if self._vitals is not None:
            self._vitals.pace(share)

    def queue_length(self) -> int:
        """Calls accepted and not answered by the process, given-up ones included."""
        return len(self._queue)

    def kill(self, cause: str) -> None:
        """End the process at once; pending futures fail with LaneDied(cause)."""
        if self._child is not None and self._cause is None:
            with suppress(LaneDied):  # it may be dying at this moment
                self._io.call(lambda: self._die(cause)).result()

    def stop(self, timeout_s: float) -> None:
        """Answer what was accepted, then end; killed when that takes longer. Not from a future's callback."""
        with self._lock:
            running = self._cause is None
            self._stopping = True
            refused = self._pump()
        self._refuse(refused)
        if running and not self._ended.wait(timeout_s):
            self.kill(f"{self.spec.accelerator} did not stop within {timeout_s:g} s")
        if self._owns_io:
            self._io.close()

    # ------------------------------------------------------------------ models

    def load(self, spec: LoadSpec, timeout_s: float) -> Future[LoadReport]:
        """Load beside what is loaded; a model of the same name is replaced when the new one is ready."""
        load = Load(spec, self._clock.monotonic_s() + timeout_s)
        with self._lock, self._sending():
            self._models.begin_load(self._require(), self._next_number(), load)
        self._io.remind(load.deadline_s)
        return load.future

    def unload(self, model: str) -> Future[None]:
        """Forget a model after the calls that were accepted for it."""
        with self._lock, self._sending():
            later = self._queue.awaits(model)
            return self._models.begin_unload(self._require(), self._next_number(), model, later)

    def reserve(self, model: str, shapes: dict[str, tuple[int, ...]] | None = None) -> Tensors | None:
        """Input arrays inside shared memory to write into and submit, which saves a copy; None where impossible.

        `shapes` is needed for inputs with free dimensions. The slot is held while the arrays are referenced.
        """
        with self._lock:
            loaded = self._models.get(model)
            return None if loaded is None else loaded.reserve(shapes or {})

    def submit(
        self, model: str, inputs: Tensors, outputs: tuple[str, ...] | None, deadline_s: float
    ) -> Future[LaneReply]:
        """Run once. Raises Overloaded (queue full, model not loaded), LaneDied; see `ports.Lane` for the future."""
        with self._lock:
            self._require()
            if self._models.get(model) is None:
                raise NotLoaded(f"{model} is not loaded on {self.spec.accelerator}")
            call = Call(self._next_number(), model, inputs, outputs, deadline_s)
            if deadline_s <= self._clock.monotonic_s():
                settle(call.future, error=calls.too_late(call, self.spec.accelerator))
                return call.future
            self._queue.add(call)
            refused = self._pump()
        self._refuse(refused)
        call.future.add_done_callback(partial(self._cancelled, call.number))
        self._io.remind(deadline_s)
        return call.future

    def inject(self, kind: Kind, runs: int = 1, delay_s: float = 0.0) -> None:
        """Arm a fault for the next runs; refused (BackendError) unless the lane is simulated."""
        message = injection(self.spec, kind, runs, delay_s)
        with self._lock, self._sending():
            self._require().send(message)

    # ------------------------------------------------------------------ inside, under the lock

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

    def _pump(self) -> list[Refusal]:
        """Send waiting calls while there is room, then the stop message if that is what is left to do.

        Returns the calls that cannot be sent, for `_refuse` outside the lock: futures run their owners' callbacks.
        """
        queue, channel = self._queue, self._channel
        refused: list[Refusal] = []
        if channel is None or self._cause is not None:
            return []
        try:
            while len(queue.sent) < WINDOW and (call := queue.first()) is not None:
                try:
                    if not self._send_call(channel, call):
                        break
                except Closed:
                    raise
                except QeilError as error:
                    refused.append((call, error))
                queue.waiting.pop(call.number, None)
            if self._models.retiring:
                self._models.unload_idle(channel, self._next_number, queue.awaits)
            if self._stopping and not queue.waiting:
                channel.send({"k": "stop"})
        except (BlockingIOError, Closed):
            pass  # the next answer, or the end of the channel, comes here again
        return refused

    def _send_call(self, channel: Channel, call: Call) -> bool:
        """Hand over a call unless its future is settled; False when no slot is free."""
        if call.future.done():
            return True
        loaded = self._models.get(call.model)
        if loaded is None:
            raise Overloaded(f"{call.model} was unloaded from {self.spec.accelerator}")
        if not loaded.send(channel, call):
            return False
        self._queue.sent[call.number] = call
        return True

    @staticmethod
    def _refuse(refused: list[Refusal]) -> None:
        for call, error in refused:
            settle(call.future, error=error)

    def _cancelled(self, number: int, done: Future[LaneReply]) -> None:
        # By number: a future that referred to its own call would keep the answer's slot until the next collection.
        if done.cancelled():
            with self._lock:
                self._queue.drop(number)

    # ------------------------------------------------------------------ whoever serves the doorbells

    def _readable(self) -> None:
        channel = self._channel
        if channel is None or self._cause is not None:
            return
        try:
            for _ in range(WINDOW):
                packet, fd = channel.receive()
                if packet[0] == DONE:
                    self._answered(packet, fd)
                else:
                    self._told(channel, parse(packet))
                if not self._queue.sent or self._cause is not None:
                    return  # nothing can have followed it, or whoever took the answer has ended the lane
        except BlockingIOError:
            return
        except Closed:
            self._io.forget_bell(channel.sock.fileno())
            self._on_reader(self._end_of_file)
        except BackendError as error:
            cause = f"{self.spec.accelerator}: {error.message}"
            self._io.forget_bell(channel.sock.fileno())
            self._on_reader(lambda: self._die(cause))

    def _on_reader(self, function: Callable[[], None]) -> None:
        with suppress(LaneDied):  # the reader thread has ended, and every lane with it
            self._io.call(function)

    def _told(self, channel: Channel, header: Header) -> None:
        kind = header.get("k")
        if kind == "failed":
            self._failed(header)
        elif kind == "loaded":
            self._load_answered(channel, header)
        elif kind == "unloaded":
            with self._lock:
                unload = self._models.unload_answered(header)
            if unload is not None:
                settle(unload)

    def _answered(self, packet: bytes, fd: int | None) -> None:
        done = unpack_done(packet)
        with self._lock:
            call = self._queue.sent.pop(done.number, None)
        if call is None:
            raise BackendError("its process answered a call that nobody made")
        try:
            settle(call.future, read_reply(call, done, fd))
        finally:
            self._go_on(call)

    def _failed(self, header: Header) -> None:
        with self._lock:
            call = self._queue.sent.pop(header["id"], None)
        if call is not None:
            settle(call.future, error=error_of(header))
            self._go_on(call)

    def _go_on(self, call: Call) -> None:
        """The call's slot may serve the next one."""
        call.lease = None
        if self._queue.waiting or self._stopping or self._models.retiring:
            with self._lock:
                refused = self._pump()
            self._refuse(refused)

    def _load_answered(self, channel: Channel, header: Header) -> None:
        with self._lock:
            load, outcome = self._models.load_answered(channel, header)
        if load is not None and isinstance(outcome, QeilError):
            settle(load.future, error=outcome)
        elif load is not None:
            settle(load.future, outcome)

    # ------------------------------------------------------------------ reader thread

    def expire(self, now_s: float) -> float:
        """Fail what is overdue (called by the reader thread)."""
        with self._lock:
            late, next_s = self._queue.overdue(now_s)
            late_loads, next_load_s = self._models.overdue(now_s)
        for call in late:
            settle(call.future, error=calls.too_late(call, self.spec.accelerator))
        for load in late_loads:
            sentence = f"{load.spec.model} did not load on {self.spec.accelerator} in time"
            settle(load.future, error=ModelLoadFailed(sentence))
        return min(next_s, next_load_s)

    def _printed(self) -> None:
        child = self._child
        if child is not None and not child.read_output():
            self._io.forget(child.output_fd)

    # ------------------------------------------------------------------ death
    def reader_failed(self, cause: str) -> None:
        """The reader thread ends: so does the lane."""
        self._die(cause)

    def _end_of_file(self) -> None:
        child = self._child
        assert child is not None  # noqa: S101  (its channel was read)
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
            pending = self._queue.take_all()
            futures: list[Future[Any]] = [call.future for call in pending]
            futures += self._models.take_all()
        child.kill()
        self._io.forget_bell(channel.sock.fileno())
        channel.close()
        self._io.leave(self)
        self._io.retry(lambda: self._reaped(child))
        for future in futures:
            settle(future, error=LaneDied(cause))
        if not self._stopping or pending:
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


def _ignore(_: str) -> None:
    return None
