"""Board loop: many boards' real outboxes, publishers and links, turned by one epoll loop in one thread.

Time comes from a heap of things to do, work from epoll: thousands of connections cost neither threads nor timers.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from agent.mqtt.link import Link
from agent.mqtt.publisher import Publisher
from agent.storage.outbox import Outbox

CHECK_S, IDLE_CHECK_S = 1.0, 5.0
"""Between two looks at a board that nothing calls: resends, keep-alives, deletions of what was acknowledged."""


class LoopBoard(ABC):
    """One board; everything happens when the loop says so. Subclasses say what it produces."""

    def __init__(self, name: str, outbox: Outbox, publisher: Publisher, link: Link) -> None:
        self.name, self.outbox, self.publisher, self.link = name, outbox, publisher, link
        publisher.attach(link)
        self.online = False
        """A connection is there or under way."""
        self.fd = -1

    @abstractmethod
    def produce(self) -> None:
        """One window of telemetry."""


class BoardLoop:
    """Used by one thread. `producing`: whether boards make telemetry."""

    def __init__(self, boards: Sequence[LoopBoard], period_s: float, seed: int) -> None:
        self.boards = tuple(boards)
        self.producing = False
        self._period_s = period_s
        self._rng = random.Random(seed)  # noqa: S311  (spreads work, no secret)
        self._epoll = select.epoll()
        self._by_fd: dict[int, LoopBoard] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when_s: float, act: Callable[[], None]) -> None:
        """Do it then, by the monotonic clock."""
        self._count += 1
        heapq.heappush(self._due, (when_s, self._count, act))

    def begin(self) -> None:
        """Connect all, and spread their windows over a period."""
        now_s = time.monotonic()
        for i, board in enumerate(self.boards):
            self._later(now_s, self._connect, board)
            self._later(now_s + self._rng.uniform(0, self._period_s), self._produce, board)
            self._later(now_s + CHECK_S * (1 + i / len(self.boards)), self._check, board)

    def _later(self, when_s: float, act: Callable[[LoopBoard], None], board: LoopBoard) -> None:
        self.at(when_s, lambda: act(board))

    def turn(self, most_s: float) -> None:
        """Wait for work at most this long and do it."""
        now_s = time.monotonic()
        wait_s = min(most_s, max(0.0, self._due[0][0] - now_s)) if self._due else most_s
        for fd, _ in self._epoll.poll(wait_s):
            board = self._by_fd.get(fd)
            if board is not None:
                self.work(board)
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            heapq.heappop(self._due)[2]()

    def _connect(self, board: LoopBoard) -> None:
        wait_s = board.link.begin()
        if wait_s is not None:
            self._later(time.monotonic() + wait_s, self._connect, board)
            return
        board.online, board.fd = True, board.link.fileno()
        self._by_fd[board.fd] = board
        self._epoll.register(board.fd, select.EPOLLIN)
        self.work(board)

    def work(self, board: LoopBoard) -> None:
        """Take in and send what there is."""
        if not board.online:
            return
        alive = board.link.step(0.0)
        if alive:
            board.publisher.round()
            alive = board.link.step(0.0)
        if not alive:
            self._lost(board)

    def _lost(self, board: LoopBoard) -> None:
        board.online = False
        if self._by_fd.pop(board.fd, None) is not None:
            with contextlib.suppress(OSError):  # closed by the client already
                self._epoll.unregister(board.fd)
        self._later(time.monotonic() + board.link.ended(), self._connect, board)

    def _produce(self, board: LoopBoard) -> None:
        if self.producing:
            board.produce()
            self.work(board)
        self._later(time.monotonic() + self._period_s, self._produce, board)

    def _check(self, board: LoopBoard) -> None:
        board.outbox.flush()
        self.work(board)
        self._later(time.monotonic() + (IDLE_CHECK_S if board.publisher.idle else CHECK_S), self._check, board)

    def close(self) -> None:
        """Say goodbye for every board and give files and connections back. Nothing is turned after it."""
        for board in self.boards:
            board.link.stop()
            board.outbox.stop()
        self._epoll.close()
