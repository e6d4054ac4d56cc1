"""Wear: what the outbox may write to flash in a day, and how much slower it gets when that is too little.

A bucket fills with the day's budget, evenly, and what was written empties it. While it is empty, windows and group
commits get longer, twice as long each time, and shorter again once it is half full. Longer windows are the
down-sampling: a row still holds least, mean, most and last of all its time. Pure: counters and the clock are arguments.
"""

from __future__ import annotations

DAY_S = 86_400.0
BURST_SHARE = 1 / 24
"""Of the day's budget that may be written at once; a start begins with it."""
DEBT_SHARE = 1 / 4
"""Of the day's budget that is remembered as written too much: one storm of events does not slow telemetry for ever."""
STEP_S, BACK_S = 60.0, 600.0
"""Least time before it gets slower and before it gets quicker again: what the last change did has to show first."""
MAX_STRETCH = 360.0
MAX_WINDOW_S, MAX_FLUSH_S = 3600.0, 300.0


class Wear:
    """The bucket of one outbox."""

    def __init__(self, budget_bytes_per_day: int | None, now_s: float) -> None:
        """None: no bound; everything is counted all the same."""
        self.budget_bytes_per_day = budget_bytes_per_day
        self.stretch = 1.0
        """How many times longer windows and group commits are, 1 to `MAX_STRETCH`."""
        self._burst_bytes = (budget_bytes_per_day or 0) * BURST_SHARE
        self._left_bytes = self._burst_bytes
        self._written_bytes = 0
        self._at_s = self._begun_s = now_s
        self._changed_s, self._changed_bytes = now_s, 0

    def step(self, written_bytes: int, now_s: float) -> float:
        """`written_bytes` since the start, at monotonic time `now_s`; the stretch from now on."""
        if self.budget_bytes_per_day is None:
            self._written_bytes = written_bytes
            return self.stretch
        earned = self.budget_bytes_per_day * max(0.0, now_s - self._at_s) / DAY_S
        spent = written_bytes - self._written_bytes
        debt = -self.budget_bytes_per_day * DEBT_SHARE
        self._left_bytes = max(debt, min(self._burst_bytes, self._left_bytes + earned) - spent)
        self._written_bytes, self._at_s = written_bytes, now_s
        waited_s = now_s - self._changed_s
        too_much = written_bytes - self._changed_bytes > self.budget_bytes_per_day * waited_s / DAY_S
        if self._left_bytes < 0 and too_much and waited_s >= STEP_S:
            self._change(min(MAX_STRETCH, 2 * self.stretch), now_s)
        elif self._left_bytes > self._burst_bytes / 2 and waited_s >= BACK_S:
            self._change(max(1.0, self.stretch / 2), now_s)
        return self.stretch

    def _change(self, stretch: float, now_s: float) -> None:
        self.stretch, self._changed_s, self._changed_bytes = stretch, now_s, self._written_bytes

    def bytes_per_day(self, now_s: float) -> float | None:
        """The mean since the start; None in the first minute."""
        seconds = now_s - self._begun_s
        return None if seconds < STEP_S else self._written_bytes * DAY_S / seconds

    def window_s(self, wanted_s: float) -> float:
        """Length of a telemetry window."""
        return max(wanted_s, min(MAX_WINDOW_S, wanted_s * self.stretch))

    def flush_s(self, wanted_s: float) -> float:
        """Longest time that a telemetry row waits for its commit."""
        return max(wanted_s, min(MAX_FLUSH_S, wanted_s * self.stretch))
