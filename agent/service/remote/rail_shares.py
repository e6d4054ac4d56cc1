"""Rail shares: the joules of every rail's window by model, for telemetry. Owned by the supervisor's thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.control.energy_share import Used, shares, since, together
from agent.schema.device import Rail
from agent.sensors.energy import EnergyWindow
from agent.sensors.registry import ENERGY_SUFFIX

UsedBy = Callable[[], Mapping[str, Mapping[str, Used]]]
"""Model → accelerator → what it computed there since the agent began."""


class RailShares:
    """See module."""

    def __init__(self, rails: tuple[Rail, ...], used: UsedBy) -> None:
        self._covers = {rail.name: frozenset(rail.covers) for rail in rails}
        self._used = used
        self._then: dict[tuple[str, str], Used] = {}

    def close(self, windows: Mapping[str, EnergyWindow]) -> dict[str, dict[str, Any]]:
        """By sensor: joules by model of its window, with what no model can be charged with.

        A rail that shows its power and counts its energy too is divided once, by the counter. Nothing is said of a
        sensor whose joules are unknown.
        """
        found = {}
        for sensor, window in windows.items():
            rail = sensor.removesuffix(ENERGY_SUFFIX)
            if rail in self._covers and (sensor != rail or rail + ENERGY_SUFFIX not in windows):
                found[sensor] = self._divided(rail, self._covers[rail], window)
        return found

    def _divided(self, rail: str, covers: frozenset[str], window: EnergyWindow) -> dict[str, Any]:
        rose = {}
        for model, parts in self._used().items():
            now = together(parts, covers)
            rose[model] = since(now, self._then.get((rail, model)))
            self._then[rail, model] = now
        if window.busy_j is None:
            return {}
        by_model = shares(window.busy_j, rose)
        return {
            "models_j": {model: round(joules, 9) for model, joules in by_model.items()},
            "unattributed_j": round(window.busy_j - sum(by_model.values()), 9),
        }
