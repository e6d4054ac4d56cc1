"""Boards of the fleet benchmark: the agent's own outbox, publisher and link, many of them turned by one epoll loop."""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import random
import resource
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from agent.mqtt.link import Link
from agent.mqtt.publisher import Publisher
from agent.mqtt.topics import Topics
from agent.schema.settings import MqttSettings
from agent.service import logs
from agent.service.clock import SystemClock
from agent.storage.outbox import Outbox

CHECK_S = 1.0
PADDING = "x" * 800
"""A row is about a kilobyte, as a window of a board with three models is."""


@dataclass(frozen=True)
class Load:
    """What one process simulates."""

    first: int
    boards: int
    folder: str
    port: int
    certificates: str
    period_s: float
    delete_on: str
    seed: int


class Board:
    """One board; everything happens when the loop says so."""

    def __init__(self, number: int, load: Load) -> None:
        self.name = f"board-{number:05d}"
        base = Path(load.certificates)
        settings = MqttSettings.model_validate(
            {
                "host": "localhost", "port": load.port, "tenant": "acme", "keepalive_s": 60, "resend_s": 8,
                "delete_on": load.delete_on,
                "tls": {"ca": base / "ca.crt", "certificate": base / "boards.crt", "key": base / "boards.key"},
            }
        )  # fmt: skip
        clock, topics = SystemClock(), Topics("acme", self.name)
        self.outbox = Outbox(Path(load.folder) / f"{self.name}.db", 1, 1 << 24, 1.0, clock)
        self.publisher = Publisher(self.outbox, topics, settings, clock)
        self.link = Link(
            settings, topics, 1, clock, dict, self.publisher.on_message, self.publisher.on_published,
            self.publisher.on_connected,
        )  # fmt: skip
        self.publisher.attach(self.link)
        self.produced = 0
        self.online = False
        """A connection is there or under way."""
        self.fd = -1

    def produce(self) -> None:
        """One row, committed at once: its group commit would only delay it."""
        self.outbox.append("tlm", {"i": self.produced, "padding": PADDING})
        self.produced += 1
        self.outbox.flush()


class Boards:
    """The loop. Time comes from a heap of things to do, work from epoll."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._rng = random.Random(load.seed)
        self._epoll = select.epoll()
        self._boards = [Board(load.first + i, load) for i in range(load.boards)]
        self._by_fd: dict[int, Board] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.producing = False

    def at(self, when_s: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (when_s, self._count, act))

    def begin(self) -> None:
        now_s = time.monotonic()
        for i, board in enumerate(self._boards):
            self.at(now_s, lambda board=board: self._connect(board))
            self.at(now_s + self._rng.uniform(0, self._load.period_s), lambda board=board: self._produce(board))
            self.at(now_s + CHECK_S * (1 + i / len(self._boards)), lambda board=board: self._check(board))

    def turn(self, most_s: float) -> None:
        """Wait for work at most this long and do it."""
        now_s = time.monotonic()
        wait_s = min(most_s, max(0.0, self._due[0][0] - now_s)) if self._due else most_s
        for fd, _ in self._epoll.poll(wait_s):
            board = self._by_fd.get(fd)
            if board is not None:
                self._work(board)
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            heapq.heappop(self._due)[2]()

    def _connect(self, board: Board) -> None:
        wait_s = board.link.begin()
        if wait_s is not None:
            self.at(time.monotonic() + wait_s, lambda: self._connect(board))
            return
        board.online, board.fd = True, board.link.fileno()
        self._by_fd[board.fd] = board
        self._epoll.register(board.fd, select.EPOLLIN)
        self._work(board)

    def _work(self, board: Board) -> None:
        if not board.online:
            return
        alive = board.link.step(0.0)
        if alive:
            board.publisher.round()
            alive = board.link.step(0.0)
        if not alive:
            self._lost(board)

    def _lost(self, board: Board) -> None:
        board.online = False
        if self._by_fd.pop(board.fd, None) is not None:
            with contextlib.suppress(OSError):  # closed by the client already
                self._epoll.unregister(board.fd)
        self.at(time.monotonic() + board.link.ended(), lambda: self._connect(board))

    def _produce(self, board: Board) -> None:
        if self.producing:
            board.produce()
            self._work(board)
        self.at(time.monotonic() + self._load.period_s, lambda: self._produce(board))

    def _check(self, board: Board) -> None:
        board.outbox.flush()
        self._work(board)
        self.at(time.monotonic() + CHECK_S, lambda: self._check(board))

    def facts(self) -> dict[str, Any]:
        return {
            "connected": sum(b.link.connected for b in self._boards),
            "produced": sum(b.produced for b in self._boards),
            "committed": {b.name: b.outbox.counters["committed"] for b in self._boards},
            "left": sum(b.outbox.depth() for b in self._boards),
            "connections": sum(b.link.status().connections for b in self._boards),
            "resent": sum(b.publisher.counters["resent"] for b in self._boards),
            "callback_errors": sum(b.link.counters["callback_errors"] for b in self._boards),
            "cpu_s": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
            "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def serve(load: Load, orders: Connection) -> None:
    """A process's life: obeys `produce`, `rest`, `connected`, `facts` and `stop`."""
    logs.configure("error")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    boards = Boards(load)
    boards.begin()
    orders.send("ready")
    while True:
        boards.turn(0.05)
        while orders.poll():
            order = orders.recv()
            if order in {"produce", "rest"}:
                boards.producing = order == "produce"
            elif order == "connected":
                orders.send(sum(b.link.connected for b in boards._boards))  # noqa: SLF001
            elif order == "facts":
                orders.send(json.dumps(boards.facts()))
            else:
                os._exit(0)  # closing thousands of databases in order proves nothing
