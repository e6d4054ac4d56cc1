"""Board day: what comes from outside in a board scenario – air, fan failures, sensors, driver faults, requests."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import field

import numpy as np
from numpy.random import Generator

from agent.ports import Reading
from agent.records import record
from agent.schema.board_scenario import BoardScenario, SensorLoss, Span

HOUR_S = 3600.0


def within(span: Span, now_s: float) -> bool:
    """Whether a span, with its repetitions, covers this moment."""
    since_s = now_s - span.at_h * HOUR_S
    if since_s < 0:
        return False
    if span.every_h is not None:
        since_s %= span.every_h * HOUR_S
    return since_s < span.for_s


@record
class BoardDay:
    """See module. Owns the random generator of one run."""

    scenario: BoardScenario
    random: Generator
    _held: dict[str, float] = field(default_factory=dict)

    def ambient_c(self, now_s: float) -> float:
        """Air around the board."""
        hours = now_s / HOUR_S
        points = self.scenario.air
        return float(np.interp(hours, [p.at_h for p in points], [p.ambient_c for p in points]))

    def fan_stuck(self, now_s: float) -> bool:
        """Whether the fan stands still whatever the firmware wants."""
        return any(within(f, now_s) for f in self.scenario.fan_failures)

    def fan_lies(self, now_s: float) -> bool:
        """Whether its reported duty hides that."""
        return any(f.still_reported and within(f, now_s) for f in self.scenario.fan_failures)

    def broken(self, order: int, now_s: float) -> bool:
        """Whether the driver of the board's accelerator with this number (from 1) is gone."""
        return any(f.accelerator == order and within(f, now_s) for f in self.scenario.faults)

    def load_share(self, now_s: float) -> float:
        """Requests now, as a share of what all accelerators can do."""
        entries = self.scenario.arrivals
        entry = entries[bisect_right([e.from_h for e in entries], now_s / HOUR_S) - 1]
        if entry.burst_every_s is None or entry.burst_for_s is None:
            return entry.load_share
        inside = (now_s - entry.from_h * HOUR_S) % entry.burst_every_s < entry.burst_for_s
        return entry.load_share * entry.burst_every_s / entry.burst_for_s if inside else 0.0

    def readings(self, names: Sequence[str], true_c: Sequence[float], now_s: float) -> tuple[Reading, ...]:
        """What the sensors say: noise, resolution, losses."""
        sensors = self.scenario.sensors
        noise = self.random.normal(0.0, sensors.noise_c, len(names)) if sensors.noise_c else np.zeros(len(names))
        found = []
        for order, (name, value_c, error_c) in enumerate(zip(names, true_c, noise, strict=True), 1):
            read_c = float(value_c) + float(error_c)
            if sensors.step_c:
                read_c = round(read_c / sensors.step_c) * sensors.step_c
            loss = next((x for x in sensors.losses if x.zone == order and within(x, now_s)), None)
            found.append(self._reading(name, read_c, loss, now_s))
        return tuple(found)

    def _reading(self, name: str, read_c: float, loss: SensorLoss | None, now_s: float) -> Reading:
        if loss is None:
            self._held[name] = read_c
        elif loss.kind == "absent":
            return Reading(name, "temperature_c", None, "absent", now_s)
        else:
            read_c = 0.0 if loss.kind == "zero" else self._held.setdefault(name, read_c)
        return Reading(name, "temperature_c", read_c, None, now_s)
