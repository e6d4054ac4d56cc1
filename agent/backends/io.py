"""The reader thread that all lanes share: sockets, stderr pipes, deadlines and the ends of processes.

The lanes' sockets ring in a set of their own, the doorbells. An event loop may adopt that set and serve it itself: an
answer then reaches the request that waits for it without a change of thread. Deadlines, output and deaths stay here, as
does the end of a socket, which a loop at work on a large answer would see late. Whoever completes a future first wins
(`settle`).
"""

from __future__ import annotations

import math
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from agent.errors import LaneDied
from agent.ports import Clock

IDLE_TICK_S: Final = 0.5
"""Longest sleep. Deadlines nearer than the planned wake-up interrupt it."""
MAX_EVENTS: Final = 64
_RETRY_S: Final = 0.02
"""Pause between looks at a process that was killed and is not gone yet."""

T = TypeVar("T")


class Member(Protocol):
    """What the reader thread does for one lane besides its descriptors."""

    def expire(self, now_s: float) -> float:
        """Fail what is overdue; the next deadline, infinity if none."""
        ...

    def reader_failed(self, cause: str) -> None:
        """The reader thread ends because of a programming error."""
        ...


class LaneIO:
    """See module. Starts with its first user; `close` ends it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.watch(self._wake_fd, self._woken)
        self._bells = select.epoll()
        self._rung: dict[int, Callable[[], None]] = {}
        self._lone: Callable[[], None] | None = None
        """Where only one bell is watched: whoever comes here need not ask which one rang."""
        self.watch(self._bells.fileno(), self.serve)
        self._calls: deque[Callable[[], None]] = deque()
        self._members: list[Member] = []
        self._retries: list[Callable[[], bool]] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._rescan = False
        self.next_wake_s = 0.0

    # ------------------------------------------------------------------ any thread

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a short function on the reader thread; at once when called from it."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001  (the caller's future is the thread root here)
                future.set_exception(error)

        if threading.current_thread() is self._thread:
            run()
            return future
        with self._lock:
            if self._closing:
                raise LaneDied("the lanes' reader thread has ended")
            self._calls.append(run)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lanes", daemon=True)
                self._thread.start()
        self.wake()
        return future

    def wake(self) -> None:
        """Look at calls and deadlines now; nothing once it is closed."""
        with self._lock:
            if not self._closing:
                os.eventfd_write(self._wake_fd, 1)

    def remind(self, deadline_s: float) -> None:
        """Make sure that the thread is awake at that time."""
        if deadline_s < self.next_wake_s:
            self.wake()

    def close(self) -> None:
        """End the thread, once what it waits for is gone. Its lanes must have ended before."""
        with self._lock:
            if not self._closing:
                os.eventfd_write(self._wake_fd, 1)
                self._closing = True
                if self._thread is None:
                    self._release()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _release(self) -> None:
        self._epoll.close()
        self._bells.close()
        os.close(self._wake_fd)

    # ------------------------------------------------------------------ doorbells: reader thread, or who adopted them

    def fileno(self) -> int:
        """Becomes readable when a lane has answered."""
        return self._bells.fileno()

    def serve(self) -> None:
        """Read what has arrived; never waits."""
        lone = self._lone
        if lone is not None:
            lone()
            return
        for fd, _ in self._bells.poll(0, MAX_EVENTS):
            ready = self._rung.get(fd)
            if ready is not None:
                ready()

    def adopt(self) -> None:
        """From now on the caller watches `fileno` and calls `serve`; the reader thread does not."""
        self.call(lambda: self.forget(self._bells.fileno())).result()

    def release(self) -> None:
        """Give the doorbells back to the reader thread."""
        with suppress(LaneDied):  # it has ended, and the lanes with it
            self.call(lambda: self.watch(self._bells.fileno(), self.serve)).result()

    def watch_bell(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready`, on the thread that serves the doorbells, whenever the socket can be read or ended."""
        self._bells.register(fd, select.EPOLLIN)
        with self._lock:
            self._rung[fd] = ready
            self._lone = ready if len(self._rung) == 1 else None

    def forget_bell(self, fd: int) -> None:
        """Stop watching a socket (if it is), before it is closed; from any thread."""
        with self._lock:
            known = self._rung.pop(fd, None)
            self._lone = next(iter(self._rung.values())) if len(self._rung) == 1 else None
        if known is not None:
            self._bells.unregister(fd)

    # ------------------------------------------------------------------ reader thread only

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready` whenever the descriptor can be read or ended."""
        self._epoll.register(fd, select.EPOLLIN)
        self._watched[fd] = ready

    def watch_end(self, fd: int, ended: Callable[[], None]) -> None:
        """Call `ended` while the other side of a socket is closed, whatever there is to read."""
        self._epoll.register(fd, 0)  # of errors and hang-ups the kernel always tells
        self._watched[fd] = ended

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor (if it is), before it is closed."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def join(self, member: Member) -> None:
        """Watch a lane's deadlines."""
        self._members.append(member)

    def leave(self, member: Member) -> None:
        """Stop watching them."""
        if member in self._members:
            self._members.remove(member)

    def retry(self, done: Callable[[], bool]) -> None:
        """Call again every few milliseconds until it returns True."""
        if not done():
            self._retries.append(done)

    def _run(self) -> None:
        try:
            while not self._closing or self._retries:
                self._turn()
        except Exception as error:
            for member in list(self._members):
                member.reader_failed(f"the lanes' reader thread failed: {type(error).__name__}: {error}")
            raise
        finally:
            with self._lock:
                self._closing = True
                self._release()

    def _turn(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._rescan or now_s >= self.next_wake_s:
            self._expire(now_s)
        timeout_s = 0.0 if self._calls else max(0.0, self.next_wake_s - now_s)
        if self._retries:
            timeout_s = min(timeout_s, _RETRY_S)
        for fd, _ in self._epoll.poll(timeout_s, MAX_EVENTS):
            ready = self._watched.get(fd)
            if ready is not None:
                ready()
        while self._calls:
            self._calls.popleft()()
        if self._retries:
            self._retries = [done for done in self._retries if not done()]

    def _expire(self, now_s: float) -> None:
        self._rescan = False
        # A deadline that arrives during the scan must wake us, whatever was planned before it.
        self.next_wake_s = math.inf
        next_s = min((member.expire(now_s) for member in list(self._members)), default=math.inf)
        self.next_wake_s = min(next_s, now_s + IDLE_TICK_S)

    def _woken(self) -> None:
        os.eventfd_read(self._wake_fd)
        self._rescan = True


def settle(future: Future[Any], result: object = None, error: BaseException | None = None) -> bool:
    """Complete a future unless its owner cancelled it or it is complete; whether it took the news."""
    try:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    except InvalidStateError:
        return False
    return True
