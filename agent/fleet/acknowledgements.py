"""Acknowledgements: which rows boards may forget, told as soon as the link has room for it.

What cannot be told yet is joined with what is stored meanwhile, so that the more waits, the more one message says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from agent.fleet.messages import BoardKey, Rows, acknowledgement
from agent.mqtt.topics import Topics
from agent.storage.spans import Spans

MAX_WAITING, MAX_OF_BOARD = 10_000, 16
"""Streams that wait, of all boards and of one, which may name as many starts as it likes; a board whose rows are not
told to be stored sends them again, and hears of it then."""
MAX_RANGES, MAX_KEPT = 256, 1024
"""Ranges of one message, at most nine kilobytes, and of what waits of one stream."""

StreamKey = tuple[BoardKey, int, str]
"""Board, boot, class."""


class Acknowledgements:
    """Of one consumer, in its thread."""

    def __init__(self, send: Callable[[str, bytes], bool]) -> None:
        """`send`: whether the link took a message for a topic."""
        self._send = send
        self._waiting: dict[StreamKey, Spans] = {}
        self._streams: Counter[BoardKey] = Counter()
        self._ranges = MAX_RANGES
        """Of a message now: fewer where the link refused one, which may have been too long for the broker."""

    def add(self, stored: Iterable[Rows]) -> None:
        """These rows are in the database."""
        for rows in stored:
            spans = self._spans((rows.board, rows.boot, rows.cls))
            if spans is not None and len(spans) < MAX_KEPT:
                spans.add(rows.first, rows.first + len(rows.payloads) - 1)

    def _spans(self, key: StreamKey) -> Spans | None:
        """What waits of a stream; None where there is no room for another one."""
        known = self._waiting.get(key)
        if known is None and len(self._waiting) < MAX_WAITING and self._streams[key[0]] < MAX_OF_BOARD:
            known = self._waiting[key] = Spans()
            self._streams[key[0]] += 1
        return known

    def tell(self) -> int:
        """Send what waits, the longest first, until the link takes no more; how many messages it took."""
        told = 0
        while self._waiting:
            key = next(iter(self._waiting))
            board, boot, cls = key
            ranges = list(self._waiting[key])
            if not self._send(Topics(*board).ack, acknowledgement(boot, cls, ranges[: self._ranges])):
                self._waiting[key] = self._waiting.pop(key)  # to the end: it must not be in the way of the others
                self._ranges = max(1, min(self._ranges, len(ranges)) // 2)
                break
            told += 1
            self._told(key, ranges[self._ranges :])
            self._ranges = min(MAX_RANGES, 2 * self._ranges)
        return told

    def _told(self, key: StreamKey, rest: Iterable[tuple[int, int]]) -> None:
        """`rest` is what still waits of it."""
        del self._waiting[key]
        spans = Spans()
        for low, high in rest:
            spans.add(low, high)
        if len(spans):
            self._waiting[key] = spans
            return
        self._streams[key[0]] -= 1
        if not self._streams[key[0]]:
            del self._streams[key[0]]
