"""Telemetry: windows of what the board did – min, mean, max, last per accelerator, counts and joules per model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeVar

from agent.records import record
from agent.schema.snapshot import AcceleratorStatus, AgentSnapshot, ModelStatus


@record
class _Series:
    """Running aggregate of one quantity."""

    count: int = 0
    total: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    last: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.low, self.high, self.last = min(self.low, value), max(self.high, value), value

    def summary(self) -> dict[str, float]:
        return {
            "n": self.count, "min": round(self.low, 6), "mean": round(self.total / self.count, 6),
            "max": round(self.high, 6), "last": round(self.last, 6),
        }  # fmt: skip


@record
class Window:
    """One window in the making. Everything is given to it; it knows neither clock nor thread."""

    begun_s: float
    totals: Mapping[str, ModelStatus] = field(default_factory=dict)
    energies_j: Mapping[str, float] = field(default_factory=dict)
    _series: dict[tuple[str, str], _Series] = field(default_factory=dict)

    def add(self, snapshot: AgentSnapshot) -> None:
        """Take one snapshot in; a value nobody measured is left out, not counted as 0."""
        for accelerator in snapshot.accelerators:
            for quantity, value in (("temperature_c", accelerator.temperature_c), ("power_w", accelerator.power_w)):
                if value is not None:
                    self._series.setdefault((accelerator.name, quantity), _Series()).add(value)

    def close(
        self, snapshot: AgentSnapshot, energies_j: Mapping[str, float], now_s: float, wall_s: float
    ) -> dict[str, Any]:
        """The row: what happened between begin and now."""
        return {
            "ts": round(wall_s, 3), "mono": round(now_s, 3), "window_s": round(now_s - self.begun_s, 3),
            "mode": snapshot.agent.mode, "policy": snapshot.agent.policy_digest,
            "accelerators": {a.name: self._accelerator(a) for a in snapshot.accelerators},
            "models": {m.name: self._model(m, energies_j.get(m.name)) for m in snapshot.models},
            "conditions": [c.type for c in snapshot.conditions],
        }  # fmt: skip

    def _accelerator(self, status: AcceleratorStatus) -> dict[str, Any]:
        row: dict[str, Any] = {"state": status.state, "restarts": status.restarts}
        if status.last_fault is not None:
            row["last_fault"] = status.last_fault
        for (accelerator, quantity), series in self._series.items():
            if accelerator == status.name:
                row[quantity] = series.summary()
        return row

    def _model(self, model: ModelStatus, energy_j: float | None) -> dict[str, Any]:
        before = self.totals.get(model.name)
        then = (before.requests, before.failed, before.replayed) if before else (0, 0, 0)
        row: dict[str, Any] = {
            "state": model.state, "placement": model.placement,
            "requests": _since(model.requests, then[0]), "failed": _since(model.failed, then[1]),
            "replayed": _since(model.replayed, then[2]), "provenance": model.provenance,
        }  # fmt: skip
        if energy_j is not None and model.provenance != "unknown":
            row["energy_j"] = round(_since(energy_j, self.energies_j.get(model.name, 0.0)), 9)
        for key, value in (("p50_ms", model.p50_ms), ("p99_ms", model.p99_ms)):
            if value is not None:
                row[key] = round(value, 4)
        split = next((c.stages for c in model.candidates if c.accelerator == model.placement), ())
        if split:
            row["stages"] = [
                {
                    "on": s.accelerator, "ms": s.measured_p50_ms, "predicted_ms": s.predicted_ms,
                    "handover_ms": s.measured_handover_ms, "predicted_handover_ms": s.predicted_handover_ms,
                }
                for s in split
            ]  # fmt: skip
        if model.accelerated_fraction is not None:
            row["accelerated_fraction"] = round(model.accelerated_fraction, 4)
        return row


_Number = TypeVar("_Number", int, float)


def _since(now: _Number, then: _Number) -> _Number:
    """What a counter rose by; one that was begun anew (the model was unloaded and loaded) counts from its beginning."""
    return now - then if now >= then else now


def next_window(snapshot: AgentSnapshot, energies_j: Mapping[str, float], now_s: float) -> Window:
    """The window that follows: counts go on from the totals of now."""
    return Window(now_s, {m.name: m for m in snapshot.models}, dict(energies_j))
