"""The real clock."""

from __future__ import annotations

import time

from agent.ports import Clock

CLOCK_SET_S = 1_735_689_600.0
"""2025-01-01: a wall clock before this was never set."""


class SystemClock:
    """CLOCK_MONOTONIC and wall time of this machine."""

    monotonic_s = staticmethod(time.monotonic)
    """Seconds that never jump; the same scale in every process of one boot."""

    def wall_s(self) -> float:
        """Seconds since 1970; may jump when time is set."""
        return time.time()


def known_s(clock: Clock) -> int:
    """Seconds since 1970; 0 where the clock was never set."""
    wall_s = clock.wall_s()
    return int(wall_s) if wall_s >= CLOCK_SET_S else 0
