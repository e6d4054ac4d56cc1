"""Energy meter: joules of one sensor over windows, with the energy of idle time kept apart.

Power is integrated by the trapezoid rule, a cumulative counter by difference. Nothing is invented: time that no
reading covers is counted as uncovered, and a window without any covered time has unknown energy.
"""

from __future__ import annotations

from typing import Literal

from agent.ports import Reading
from agent.records import record


@record(frozen=True)
class EnergyWindow:
    """What one sensor saw between two closings."""

    sensor: str
    begin_s: float
    end_s: float
    energy_j: float | None
    """Joules over `covered_s`; None: no reading at all."""
    busy_j: float | None
    idle_j: float | None
    covered_s: float
    provenance: Literal["measured", "unknown"]

    @property
    def mean_power_w(self) -> float | None:
        """Mean over the covered time."""
        return self.energy_j / self.covered_s if self.energy_j is not None and self.covered_s > 0 else None


class EnergyMeter:
    """Fed with every reading of one power or energy sensor; `close` ends a window and begins the next."""

    def __init__(self, sensor: str, max_gap_s: float) -> None:
        self._sensor = sensor
        self._max_gap_s = max_gap_s
        self._last: tuple[float, float] | None = None
        self._begin_s: float | None = None
        self._seen_s = 0.0
        self._busy_j = self._idle_j = self._covered_s = 0.0

    def add(self, reading: Reading, busy_share: float) -> None:
        """Count a reading of this sensor.

        Args:
            reading: kind power_w (integrated) or energy_j (subtracted); a fault interrupts the integral.
            busy_share: share (0–1) of the time since the last reading in which inferences ran.
        """
        if reading.name != self._sensor or reading.kind not in {"power_w", "energy_j"}:
            return
        if self._begin_s is None:
            self._begin_s = reading.t_s
        self._seen_s = max(self._seen_s, reading.t_s)
        last, self._last = self._last, None if reading.value is None else (reading.t_s, reading.value)
        if last is None or reading.value is None:
            return
        elapsed_s = reading.t_s - last[0]
        if not 0 < elapsed_s <= self._max_gap_s:
            return
        counter = reading.kind == "energy_j"
        step_j = reading.value - last[1] if counter else 0.5 * (reading.value + last[1]) * elapsed_s
        if step_j < 0:  # a counter that was set back: what it counted meanwhile is not known
            return
        share = min(1.0, max(0.0, busy_share))
        self._busy_j += step_j * share
        self._idle_j += step_j * (1.0 - share)
        self._covered_s += elapsed_s

    def close(self, now_s: float) -> EnergyWindow:
        """The window up to the last reading. The next begins there: no interval is lost or counted twice."""
        begin_s = now_s if self._begin_s is None else self._begin_s
        end_s = max(begin_s, self._seen_s) if self._begin_s is not None else now_s
        known = self._covered_s > 0
        window = EnergyWindow(
            self._sensor, begin_s, end_s,
            self._busy_j + self._idle_j if known else None,
            self._busy_j if known else None,
            self._idle_j if known else None,
            self._covered_s, "measured" if known else "unknown",
        )  # fmt: skip
        self._begin_s = end_s
        self._seen_s = end_s
        self._busy_j = self._idle_j = self._covered_s = 0.0
        return window
