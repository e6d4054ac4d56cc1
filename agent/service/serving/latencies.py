"""Latencies of one model: the recent ones for the percentiles of status, and all of them as a histogram.

Guarded by whoever owns it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import accumulate
from typing import Final

from agent.schema.metric import Histogram

BOUNDS_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
)  # fmt: skip
"""From a tiny classifier to a long text; three a decade bound a percentile's error by a factor of 2.5."""
RECENT: Final = 512
"""Latencies kept for the percentiles shown in status."""


class Latencies:
    """In seconds."""

    def __init__(self) -> None:
        self._recent_s: deque[float] = deque(maxlen=RECENT)
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """One answer."""
        self._recent_s.append(seconds)
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    @property
    def sum_s(self) -> float:
        """Of all answers."""
        return self._sum_s

    def recent(self) -> list[float]:
        """The newest ones, the fastest first."""
        return sorted(self._recent_s)

    def recent_ms(self, share: float) -> float | None:
        """The latency that so many of the newest ones do not exceed, in milliseconds; None without any."""
        recent = self.recent()
        return recent[round(share * (len(recent) - 1))] * 1e3 if recent else None

    def histogram(self) -> Histogram:
        """All of them."""
        *counts, count = accumulate(self._counts)
        return Histogram(BOUNDS_S, tuple(counts), count, self._sum_s)
