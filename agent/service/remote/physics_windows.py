"""Physics windows: what the board did in one window – joules and seconds per inference, failures, temperatures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, field
from typing import Any

from agent.records import record
from agent.schema.snapshot import AgentSnapshot, PlacementStatus
from agent.service.serving.meter import Meter, MeterReading

_DOWN = frozenset({"starting", "restarting"})


@record(frozen=True)
class ModelWindow:
    """One model in one window, per answered request. None: nobody knows."""

    requests: int
    failure_share: float
    energy_j: float | None
    latency_s: float | None


@record(frozen=True)
class Observation:
    """One window. Only models with enough requests are in it; temperatures are means in °C by accelerator."""

    models: Mapping[str, ModelWindow] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain data, for the disk."""
        return asdict(self)


def observation(document: Mapping[str, Any]) -> Observation:
    """What `as_json` gave. KeyError or TypeError for anything else."""
    models = {name: ModelWindow(**fields) for name, fields in document["models"].items()}
    return Observation(models, dict(document["temperatures_c"]))


class PhysicsWindow:
    """One window in the making; used by one thread."""

    def __init__(self, meters: Callable[[], Mapping[str, Meter]], measured_only: bool = False) -> None:
        """`measured_only`: joules that were modelled count as unknown."""
        self._meters = meters
        self._joules = ("measured",) if measured_only else ("measured", "modelled")
        self._before = self._readings()
        self._temperatures: dict[str, list[float]] = {}
        self._displaced: set[str] = set()

    def _readings(self) -> dict[str, MeterReading]:
        return {name: meter.read() for name, meter in dict(self._meters()).items()}

    def look(self, snapshot: AgentSnapshot) -> None:
        """Take the temperatures of now in, and which models are not where they should be because a lane is down."""
        down = {a.name for a in snapshot.accelerators if a.state in _DOWN}
        self._displaced |= {m.name for m in snapshot.models if m.candidates and _lanes(m.candidates[0]) & down}
        for accelerator in snapshot.accelerators:
            if accelerator.temperature_c is not None:
                self._temperatures.setdefault(accelerator.name, []).append(accelerator.temperature_c)

    def close(self, min_requests: int) -> Observation:
        """What happened since it was made; a model that was displaced says nothing of what was planned for it."""
        models = {}
        for name, now in self._readings().items():
            found = _since(self._before.get(name), now, self._joules)
            if found is not None and found.requests >= min_requests and name not in self._displaced:
                models[name] = found
        return Observation(models, {name: sum(v) / len(v) for name, v in self._temperatures.items()})


def _lanes(placement: PlacementStatus) -> set[str]:
    return {stage.accelerator for stage in placement.stages} or {placement.accelerator}


def _since(before: MeterReading | None, now: MeterReading, joules: Collection[str]) -> ModelWindow | None:
    if before is None or now.requests < before.requests:  # a model that was loaded anew counts from its beginning
        before = MeterReading(0, 0, 0, None, None, None, "unknown", 0.0, {})
    requests, failed = now.requests - before.requests, now.failed - before.failed
    if requests <= 0:
        return None
    answered = requests - failed
    known = answered > 0 and now.provenance in joules
    return ModelWindow(
        requests, failed / requests,
        (now.total_energy_j - before.total_energy_j) / answered if known else None,
        (now.total_s - before.total_s) / answered if answered else None,
    )  # fmt: skip
