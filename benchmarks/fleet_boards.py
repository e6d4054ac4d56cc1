"""Boards of the fleet benchmark: the agent's own outbox, publisher and link, many of them turned by one epoll loop."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from agent.fleet.board_loop import BoardLoop, LoopBoard
from agent.mqtt.link import Link
from agent.mqtt.publisher import Publisher
from agent.mqtt.topics import Topics
from agent.schema.settings import MqttSettings
from agent.service import logs
from agent.service.clock import SystemClock
from agent.storage.outbox import Outbox

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


class Board(LoopBoard):
    """A board that makes rows of one size."""

    def __init__(self, number: int, load: Load) -> None:
        name = f"board-{number:05d}"
        base = Path(load.certificates)
        settings = MqttSettings.model_validate(
            {
                "host": "localhost", "port": load.port, "tenant": "acme", "keepalive_s": 60, "resend_s": 8,
                "delete_on": load.delete_on,
                "tls": {"ca": base / "ca.crt", "certificate": base / "boards.crt", "key": base / "boards.key"},
            }
        )  # fmt: skip
        clock, topics = SystemClock(), Topics("acme", name)
        outbox = Outbox(Path(load.folder) / f"{name}.db", 1, 1 << 24, 1.0, clock)
        publisher = Publisher(outbox, topics, settings, clock)
        link = Link(
            settings, topics, 1, clock, dict, publisher.on_message, publisher.on_published, publisher.on_connected
        )
        super().__init__(name, outbox, publisher, link)
        self.produced = 0

    def produce(self) -> None:
        """One row, committed at once: its group commit would only delay it."""
        self.outbox.append("tlm", {"i": self.produced, "padding": PADDING})
        self.produced += 1
        self.outbox.flush()


class Boards(BoardLoop):
    """The loop of one process."""

    def __init__(self, load: Load) -> None:
        self.mine = [Board(load.first + i, load) for i in range(load.boards)]
        super().__init__(self.mine, load.period_s, load.seed)

    def facts(self) -> dict[str, Any]:
        return {
            "connected": sum(b.link.connected for b in self.mine),
            "produced": sum(b.produced for b in self.mine),
            "committed": {b.name: b.outbox.counters["committed"] for b in self.mine},
            "left": sum(b.outbox.depth() for b in self.mine),
            "connections": sum(b.link.status().connections for b in self.mine),
            "resent": sum(b.publisher.counters["resent"] for b in self.mine),
            "callback_errors": sum(b.link.counters["callback_errors"] for b in self.mine),
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
                orders.send(sum(b.link.connected for b in boards.mine))
            elif order == "facts":
                orders.send(json.dumps(boards.facts()))
            else:
                os._exit(0)  # closing thousands of databases in order proves nothing
