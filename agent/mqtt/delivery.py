"""Delivery: which rows go next – new ones first, then those that nobody acknowledged in time. No thread, no clock.

At most a window of rows per class is under way. A row whose acknowledgement is overdue leaves the window and is sent
again by a sweep from the oldest row; where nobody ever acknowledges, each sweep waits twice as long as the last.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from agent.ports import OutboxRow

CLASSES = ("evt", "gap", "tlm")
WINDOW_ROWS = 256
MAX_RESEND_S = 3600.0

Key = tuple[int, int]
_BEFORE_ALL: Key = (-1, -1)


class RowSource(Protocol):
    """What delivery needs of the outbox."""

    def rows_after(self, cls: str, after: Key | None, limit: int) -> list[OutboxRow]:
        """Committed, unacknowledged rows of a class behind (boot, seq), in order."""
        ...


class Delivery:
    """Used by one thread."""

    def __init__(self, source: RowSource, resend_s: float, now_s: float, rng: random.Random) -> None:
        self.silent = False
        """A whole resend time passed without an acknowledgement of rows that were sent."""
        self.resent = 0
        self._source = source
        self._resend_s = resend_s
        self._pause_s = resend_s
        self._rng = rng
        self._fresh: dict[str, Key] = {}
        self._under_way: dict[str, dict[Key, float]] = {cls: {} for cls in CLASSES}
        self._overdue = False
        self._sweep: dict[str, Key] = {}
        self._sweep_s = now_s
        self._answered = True

    def next_rows(self, now_s: float) -> list[OutboxRow]:
        """Rows to send now, by class and in order. Those that are sent must be given to `sent`."""
        self._expire(now_s)
        rows: list[OutboxRow] = []
        for cls in CLASSES:
            room = WINDOW_ROWS - len(self._under_way[cls])
            if room > 0:
                rows += self._source.rows_after(cls, self._fresh.get(cls), room)
        return rows or self._again(now_s)

    def _expire(self, now_s: float) -> None:
        for under_way in self._under_way.values():
            late = [key for key, due_s in under_way.items() if due_s <= now_s]
            for key in late:
                del under_way[key]
            self._overdue = self._overdue or bool(late)

    def _again(self, now_s: float) -> list[OutboxRow]:
        """The next rows of the sweep over what is overdue; half of each window stays free for new rows."""
        if not self._sweep:
            if not self._overdue or now_s < self._sweep_s:
                return []
            self._begin_sweep(now_s)
        rows: list[OutboxRow] = []
        for cls in list(self._sweep):
            under_way = self._under_way[cls]
            room = WINDOW_ROWS // 2 - len(under_way)
            if room > 0:
                found = self._source.rows_after(cls, self._sweep[cls], room)
                old = [row for row in found if (row.boot, row.seq) <= self._fresh.get(cls, _BEFORE_ALL)]
                due = [row for row in old if (row.boot, row.seq) not in under_way]
                if not old:
                    del self._sweep[cls]
                elif not due:
                    self._sweep[cls] = (old[-1].boot, old[-1].seq)
                rows += due
        return rows

    def _begin_sweep(self, now_s: float) -> None:
        self._sweep = dict.fromkeys(CLASSES, _BEFORE_ALL)
        self._overdue = False
        if self._answered:
            self._pause_s = self._resend_s
        else:
            self._pause_s = min(MAX_RESEND_S, 2 * self._pause_s)
        self.silent = not self._answered
        self._answered = False
        self._sweep_s = now_s + self._pause_s * self._rng.uniform(1.0, 1.3)

    def sent(self, rows: Sequence[OutboxRow], now_s: float) -> None:
        """These are on their way."""
        due_s = now_s + self._resend_s * self._rng.uniform(1.0, 1.3)
        for row in rows:
            self._under_way[row.cls][row.boot, row.seq] = due_s
            self.skipped(row)

    def skipped(self, row: OutboxRow) -> None:
        """Neither new nor due any more, whether it was sent or can never be."""
        key = (row.boot, row.seq)
        if key > self._fresh.get(row.cls, _BEFORE_ALL):
            self._fresh[row.cls] = key
        else:
            self._sweep[row.cls] = key
            self.resent += 1

    def acknowledged(self, boot: int, cls: str, cumulative: int | None, ranges: Sequence[tuple[int, int]]) -> None:
        """Somebody stores them: no reason to send them again."""
        spans = [(0, cumulative)] if cumulative is not None else []
        spans += ranges
        under_way = self._under_way.get(cls, {})
        for key in [k for k in under_way if k[0] == boot and any(low <= k[1] <= high for low, high in spans)]:
            del under_way[key]
        self._answered = True
        self.silent = False
        self._pause_s = self._resend_s

    def reconnected(self) -> None:
        """A new connection: whatever was not acknowledged is sent again."""
        self._fresh.clear()
        self._sweep.clear()
        for under_way in self._under_way.values():
            under_way.clear()
        self._overdue = False
