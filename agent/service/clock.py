"""The real clock."""

from __future__ import annotations

import time

CLOCK_SET_S = 1_735_689_600.0
"""2025-01-01: a wall clock before this was never set."""


class SystemClock:
    """CLOCK_MONOTONIC and wall time of this machine."""

    def monotonic_s(self) -> float:
        """Seconds that never jump; the same scale in every process of one boot."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Seconds since 1970; may jump when time is set."""
        return time.time()
