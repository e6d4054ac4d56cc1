"""Clocks and budgets that run out on cue."""

from __future__ import annotations

from collections.abc import Callable


def fake_clock(step_s: float) -> Callable[[], float]:
    """Seconds that pass by `step_s` at each look."""
    now_s = 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += step_s
        return now_s

    return clock


class Countdown:
    """A stop that says no a number of times."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0
