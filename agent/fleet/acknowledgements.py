"""Acknowledgements: which rows boards may forget, told as soon as the link has room for it.

What cannot be told yet is joined with what is stored meanwhile, so that the more waits, the more one message says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.fleet.messages import BoardKey, Rows, acknowledgement
from agent.mqtt.topics import Topics
from agent.storage.spans import Spans

MAX_WAITING = 10_000
"""Streams that wait; a board whose rows are not told to be stored sends them again, and hears of it then."""
MAX_RANGES = 256
"""Of one message: some six kilobytes."""

StreamKey = tuple[BoardKey, int, str]
"""Board, boot, class."""


class Acknowledgements:
    """Of one consumer, in its thread."""

    def __init__(self, send: Callable[[str, bytes], bool]) -> None:
        """`send`: whether the link took a message for a topic."""
        self._send = send
        self._waiting: dict[StreamKey, Spans] = {}

    def add(self, stored: Iterable[Rows]) -> None:
        """These rows are in the database."""
        for rows in stored:
            key = (rows.board, rows.boot, rows.cls)
            if key not in self._waiting:
                if len(self._waiting) >= MAX_WAITING:
                    continue
                self._waiting[key] = Spans()
            self._waiting[key].add(rows.first, rows.first + len(rows.payloads) - 1)

    def tell(self) -> int:
        """Send what waits, the longest first, until the link takes no more; how many messages it took."""
        told = 0
        while self._waiting:
            key = next(iter(self._waiting))
            board, boot, cls = key
            spans = self._waiting.pop(key)
            ranges = list(spans)
            if not self._send(Topics(*board).ack, acknowledgement(boot, cls, ranges[:MAX_RANGES])):
                self._waiting[key] = spans  # at the end: what is never taken must not be in the way of the others
                break
            told += 1
            if len(ranges) > MAX_RANGES:
                self._waiting[key] = _spans(ranges[MAX_RANGES:])
        return told


def _spans(ranges: Iterable[tuple[int, int]]) -> Spans:
    found = Spans()
    for low, high in ranges:
        found.add(low, high)
    return found
