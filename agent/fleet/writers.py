"""Writers: several consumers behind one link, so that one stores while another waits for its commit.

A board always has the same one: its messages stay in order, and no two writers change the same rows.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

from agent.fleet.consumer import Consumer
from agent.mqtt.inbound import Inbound

_BOARD_LEVELS = 4
"""qeil/v1/TENANT/BOARD."""


class Writers:
    """Looks like one consumer."""

    def __init__(self, consumers: Sequence[Consumer]) -> None:
        """At least one."""
        self.consumers = tuple(consumers)

    def on_request(self, inbound: Inbound) -> None:
        """Hand over to the board's writer; called by the link's thread."""
        board = "/".join(inbound.topic.split("/", _BOARD_LEVELS)[:_BOARD_LEVELS])
        self.consumers[zlib.crc32(board.encode()) % len(self.consumers)].on_request(inbound)

    def start(self) -> None:
        """Begin."""
        for consumer in self.consumers:
            consumer.start()

    def stop(self) -> None:
        """End each after the batch that it is storing."""
        for consumer in self.consumers:
            consumer.stop()

    def alive(self) -> bool:
        """Whether every thread runs."""
        return all(consumer.alive() for consumer in self.consumers)

    @property
    def failing(self) -> str | None:
        """Why the last batch of any could not be stored."""
        return next((consumer.failing for consumer in self.consumers if consumer.failing is not None), None)

    @property
    def counters(self) -> dict[str, int]:
        """Sums."""
        total: Counter[str] = Counter()
        for consumer in self.consumers:
            for name, value in consumer.counters.items():
                total[name] += value
        return dict(total)

    @property
    def refused(self) -> Counter[tuple[str, str]]:
        """By (tenant/board, code)."""
        total: Counter[tuple[str, str]] = Counter()
        for consumer in self.consumers:
            total.update(dict(consumer.refused))
        return total
