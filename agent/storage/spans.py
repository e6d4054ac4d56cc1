"""Spans: sets of row numbers as sorted, disjoint ranges with both ends included."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator


class Spans:
    """A million acknowledged numbers in a row cost one pair."""

    def __init__(self) -> None:
        self._pairs: list[tuple[int, int]] = []

    def add(self, low: int, high: int) -> None:
        """Take `low` to `high` in; nothing happens if low > high."""
        if low > high:
            return
        kept = []
        for first, last in self._pairs:
            if last < low - 1 or first > high + 1:
                kept.append((first, last))
            else:
                low, high = min(low, first), max(high, last)
        self._pairs = sorted([*kept, (low, high)])

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._pairs, (number, 1 << 63))
        return at > 0 and self._pairs[at - 1][1] >= number

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(tuple(self._pairs))

    def __len__(self) -> int:
        return len(self._pairs)
