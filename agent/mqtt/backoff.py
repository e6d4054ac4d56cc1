"""Back-off: how long to wait before the next connection attempt. No thread, no clock.

Half a second at first, doubled to half a minute, less a random half so that a fleet does not return in one instant
and yet is back within a minute of its broker. Sessions that end within seconds of their beginning, again and again,
are what two clients with one id do to each other (the broker often gives no reason): then only a long pause helps.
"""

from __future__ import annotations

import random

FIRST_S, MAX_S = 0.5, 30.0
STABLE_S = 10.0
"""A session that lived longer was a good one."""
STORM_SESSIONS, STORM_WINDOW_S, STORM_PAUSE_S = 3, 60.0, 300.0


class Backoff:
    """Used by one thread."""

    def __init__(self, rng: random.Random) -> None:
        self.storms = 0
        self._rng = rng
        self._base_s = FIRST_S
        self._short: list[float] = []

    def refused(self) -> float:
        """Seconds to wait after an attempt that made no session."""
        delay_s = self._base_s * self._rng.uniform(0.5, 1.0)
        self._base_s = min(MAX_S, 2 * self._base_s)
        return delay_s

    def ended(self, now_s: float, lived_s: float, taken_over: bool) -> float:
        """Seconds to wait after a session that lived this long; `taken_over` if the broker said so."""
        if lived_s >= STABLE_S:
            self._base_s = FIRST_S
        if taken_over or lived_s < STABLE_S:
            self._short = [*(t for t in self._short if now_s - t < STORM_WINDOW_S), now_s]
        if len(self._short) > STORM_SESSIONS:
            self._short = []
            self.storms += 1
            return STORM_PAUSE_S * self._rng.uniform(1.0, 1.2)
        return self.refused()
