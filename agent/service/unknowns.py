"""Unknowns: the one reason for each number of the status that nobody knows. Pure; measures and decides nothing.

Every function takes a finished row and gives it back with `unknown` filled: the key of each null figure, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.ports import Reading
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.snapshot import (
    AcceleratorStatus,
    AgentSnapshot,
    ModelStatus,
    PlacementStatus,
    StageStatus,
    ZoneStatus,
)

NO_ZONE = "no temperature sensor: the profile has no zone"
NO_RAIL = "no power sensor: no rail of the profile covers it"
NO_REQUEST = "no request yet"
NO_ANSWER = "no request was answered yet"
NO_RATING = "no sensor measured it, and the device profile lacks a figure to model it with (qeil explain MODEL)"
NO_COST = "no time could be modelled: its graph, or a speed in the device profile, is unknown (qeil explain MODEL)"
NOT_TOLD = "the runtime does not tell how much of the graph it took"
NO_FORECAST = "the policy asks for no forecast (thermal.forecast)"
NOT_HEATED = "no accelerator is known to heat it"
NOT_LEARNT = "not learnt yet: the zone has to warm up and cool down under work"
_SHOWN = 3
"""Sensors that are named in one reason."""


def explained(
    snapshot: AgentSnapshot, profile: DeviceProfile, policy: Policy, readings: tuple[Reading, ...]
) -> AgentSnapshot:
    """The snapshot with a reason for each number that is null."""
    return replace(
        snapshot,
        accelerators=tuple(_accelerator(row, profile, readings) for row in snapshot.accelerators),
        models=tuple(_model(row) for row in snapshot.models),
        zones=tuple(_zone(row, policy) for row in snapshot.zones),
    )


def _accelerator(row: AcceleratorStatus, profile: DeviceProfile, readings: tuple[Reading, ...]) -> AcceleratorStatus:
    if row.simulated:
        silent = "its lane has not reported yet" if row.state in {"starting", "ready"} else f"its lane is {row.state}"
        reasons = {"temperature_c": silent, "power_w": silent}
    else:
        zones = [zone.name for zone in profile.zones]
        rails = [rail.name for rail in profile.rails if row.name in rail.covers]
        reasons = {
            "temperature_c": _silent(zones, "temperature_c", readings, NO_ZONE),
            "power_w": _silent(rails, "power_w", readings, NO_RAIL),
        }
    return replace(row, unknown=_of(reasons, row))


def _silent(names: list[str], kind: str, readings: tuple[Reading, ...], none: str) -> str:
    """Why none of these sensors gives a value."""
    faults = {r.name: r.detail or r.fault or "" for r in readings if r.kind == kind and r.name in names}
    if not names:
        return none
    told = [f"{name}: {faults.get(name) or 'not read yet'}" for name in names]
    more = [f"{len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
    return "; ".join([*told[:_SHOWN], *more])


def _model(row: ModelStatus) -> ModelStatus:
    unanswered = NO_REQUEST if row.requests == 0 else NO_ANSWER if row.p50_ms is None else None
    unserved = None if row.placement is not None else row.reason or f"it is {row.state}"
    reasons = {
        "accelerated_fraction": unserved or NOT_TOLD, "placement": unserved or "",
        "p50_ms": unanswered or "", "p99_ms": unanswered or "", "energy_j": unanswered or NO_RATING,
    }  # fmt: skip
    told = _of(reasons | dict(row.unknown), row)
    return replace(row, unknown=told, candidates=tuple(_candidate(c) for c in row.candidates))


def _candidate(row: PlacementStatus) -> PlacementStatus:
    absent = row.reason or f"it is {row.state}"
    rejected = absent if row.state == "rejected" else None
    reasons = {
        "accelerated_fraction": NOT_TOLD if row.state == "ready" else absent, "predicted_ms": rejected or NO_COST,
        "predicted_energy_j": rejected or (NO_COST if row.predicted_ms is None else NO_RATING),
        "measured_p50_ms": rejected or "no request ran there yet",
    }  # fmt: skip
    stages = tuple(_stage(stage, first=at == 0) for at, stage in enumerate(row.stages))
    return replace(row, unknown=_of(reasons, row), stages=stages)


def _stage(row: StageStatus, *, first: bool) -> StageStatus:
    unmeasured = "no request ran there yet" if row.requests == 0 else "not measured on an idle lane yet"
    handed = "the first stage takes the request itself"
    reasons = {
        "crossing_bytes": "the size of a tensor is open", "predicted_ms": NO_COST, "measured_p50_ms": unmeasured,
        "predicted_handover_ms": handed if first else NO_COST, "measured_handover_ms": handed if first else unmeasured,
    }  # fmt: skip
    return replace(row, unknown=_of(reasons, row))


def _zone(row: ZoneStatus, policy: Policy) -> ZoneStatus:
    blind = f"its sensor gives no value: {row.fault or 'absent'}" if row.temperature_c is None else None
    unheated = blind or (NO_FORECAST if policy.thermal.forecast is None else NOT_HEATED)
    forecast = unheated if row.ambient_c is None else blind or NOT_LEARNT
    keys = ("ambient_c", "k_per_w", "error_c")
    reasons = {"temperature_c": blind or "", "forecast_c": forecast, **dict.fromkeys(keys, unheated)}
    return replace(row, unknown=_of(reasons, row))


def _of(reasons: Mapping[str, str], row: object) -> dict[str, str]:
    return {key: why for key, why in reasons.items() if getattr(row, key) is None}
