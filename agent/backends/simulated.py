"""Simulated accelerator: real numerics, and the time, energy and heat that the physics predicts for the hardware."""

from __future__ import annotations

import math
import threading
import time

from agent.backends.artifact import SimulatedUnit


class HeatModel:
    """First-order thermal node C·dT/dt = P − (T − T_ambient)/R, integrated exactly over each piece of constant power.

    Times are monotonic seconds. From `begin` the unit draws energy_j/duration_s for duration_s, otherwise its idle
    power. The lane's run and heartbeat threads share it.
    """

    def __init__(self, unit: SimulatedUnit, now_s: float) -> None:
        self._unit = unit
        self._lock = threading.Lock()
        self._temperature_c = unit.ambient_c
        self._at_s = now_s
        self._busy_until_s = now_s
        self._window_s = 0.0
        self._window_j = 0.0

    def begin(self, unit: SimulatedUnit, now_s: float) -> None:
        """A run of `unit` begins."""
        with self._lock:
            self._advance(now_s)
            self._unit = unit
            self._busy_until_s = now_s + unit.duration_s

    def reading(self, now_s: float) -> tuple[float, float]:
        """(temperature in °C, mean power in W since the previous reading)."""
        with self._lock:
            self._advance(now_s)
            power_w = self._window_j / self._window_s if self._window_s > 0 else self._unit.idle_power_w
            self._window_s = self._window_j = 0.0
            return self._temperature_c, power_w

    def _advance(self, now_s: float) -> None:
        unit = self._unit
        if unit.duration_s > 0 and self._at_s < self._busy_until_s:
            self._step(unit.energy_j / unit.duration_s, min(now_s, self._busy_until_s))
        self._step(unit.idle_power_w, now_s)

    def _step(self, power_w: float, until_s: float) -> None:
        unit, length_s = self._unit, until_s - self._at_s
        if length_s <= 0:
            return
        settled_c = unit.ambient_c + power_w * unit.thermal_resistance_k_per_w
        decay = math.exp(-length_s / (unit.thermal_resistance_k_per_w * unit.heat_capacity_j_per_k))
        self._temperature_c = settled_c + (self._temperature_c - settled_c) * decay
        self._window_s += length_s
        self._window_j += power_w * length_s
        self._at_s = until_s


def pad(unit: SimulatedUnit, started_s: float) -> None:
    """Sleep until the unit would have answered; not at all when the real computation took longer."""
    remaining_s = started_s + unit.duration_s - time.monotonic()
    if remaining_s > 0:
        time.sleep(remaining_s)
