"""Status view: what the supervisor's state means for the thermal governor, the conditions and the status page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.control import lane_health
from agent.control.thermal_governor import Level, ZoneInput
from agent.ports import Reading
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.snapshot import AcceleratorStatus, AgentInfo
from agent.service.conditions import ConditionBook, iso
from agent.service.planning.plan import ModelPlan
from agent.service.serving.lane_keeper import LaneKeeper
from agent.service.serving.serving_state import InForce, ServingState

_ACTING = {"passive", "hot", "critical"}


def zone_inputs(
    profile: DeviceProfile, keepers: Mapping[str, LaneKeeper], readings: tuple[Reading, ...], now_s: float
) -> list[ZoneInput]:
    """Declared zones with their last reading, plus the sensor that every simulated accelerator carries."""
    by_name = {r.name: r for r in readings if r.kind == "temperature_c"}
    zones = []
    for zone in profile.zones:
        reading = by_name.get(zone.name)
        trips = [t.temperature_c.value for t in zone.trips if t.kind in _ACTING]
        zones.append(
            ZoneInput(
                zone.name, reading.value if reading else None, reading.fault if reading else "absent",
                now_s - reading.t_s if reading else float("inf"), zone.critical, (), min(trips, default=None),
            )
        )  # fmt: skip
    for keeper in keepers.values():
        vitals = keeper.vitals
        if keeper.spec.simulated and vitals is not None and vitals.temperature_c is not None:
            age_s = now_s - vitals.heartbeat_s
            zones.append(ZoneInput(f"{keeper.name}-simulated", vitals.temperature_c, None, age_s, True, (keeper.name,)))
    return zones


def accelerator(
    keeper: LaneKeeper, profile: DeviceProfile, readings: tuple[Reading, ...], policy: Policy, now_s: float
) -> AcceleratorStatus:
    """One row of status."""
    lane, vitals = keeper.lane, keeper.vitals
    temperature_c = vitals.temperature_c if vitals else None
    power_w = vitals.power_w if vitals else None
    if not keeper.spec.simulated:
        temperature_c = _hottest(profile, readings)
        power_w = _rail_power(keeper.name, profile, readings)
    return AcceleratorStatus(
        name=keeper.name, backend=keeper.backend, provider=keeper.provider, state=keeper.state(),
        permit=keeper.verdict.permit and lane is not None and lane.alive() and keeper.health.phase != "open",
        temperature_c=temperature_c, power_w=power_w, restarts=keeper.health.restarts,
        last_fault=keeper.health.last_fault,
        capacity_share=keeper.verdict.capacity_share
        * lane_health.capacity_share(keeper.health, policy.recovery, now_s),
        pace=keeper.verdict.pace, simulated=keeper.spec.simulated,
        queue=lane.queue_length() if lane is not None and lane.alive() else 0,
        pid=lane.pid() if lane is not None else None,
    )  # fmt: skip


_SCOPES = ("rail", "module", "package", "board", "wall")


def _hottest(profile: DeviceProfile, readings: tuple[Reading, ...]) -> float | None:
    names = {zone.name for zone in profile.zones}
    values = [r.value for r in readings if r.kind == "temperature_c" and r.name in names and r.value is not None]
    return max(values, default=None)


def _rail_power(name: str, profile: DeviceProfile, readings: tuple[Reading, ...]) -> float | None:
    """The narrowest rail that answers. Rails are not added: a module's input contains its core rails."""
    values = {r.name: r.value for r in readings if r.kind == "power_w" and r.value is not None}
    covering = [rail for rail in profile.rails if name in rail.covers and rail.name in values]
    narrowest = min(covering, key=lambda rail: (_SCOPES.index(rail.scope), len(rail.covers)), default=None)
    return values[narrowest.name] if narrowest is not None else None


def update_conditions(
    book: ConditionBook,
    profile: DeviceProfile,
    keepers: Mapping[str, LaneKeeper],
    state: ServingState,
    wall_s: float,
) -> None:
    """State and clear the conditions that follow from lanes, heat and models."""
    _sensor_condition(book, profile, state.current.policy, wall_s)
    for keeper in keepers.values():
        _lane_condition(book, keeper, wall_s)
        _heat_condition(book, keeper, wall_s)
    _clear_others(book, "model_unavailable:", {f"model_unavailable:{m.name}": "" for m in state.current.plan.models})
    for model in state.current.plan.models:
        kind = f"model_unavailable:{model.name}"
        reason = state.reason(model)
        if reason is None or reason == "still loading":
            book.clear(kind)
        else:
            book.set(kind, reason, f"requests for {model.name} get 503", "see the reason; qeil doctor", wall_s)
        for keeper in keepers.values():
            _fallback_condition(book, keeper, model.name, wall_s)
    _changed_files(book, keepers, wall_s)
    _no_canaries(book, keepers, wall_s)
    _splits_refused(book, state, wall_s)


def planned(model: ModelPlan, why: str) -> dict[str, Any]:
    """What is told of a model when a plan is made: who serves it, and what would be best stage by stage."""
    fields: dict[str, Any] = {"model": model.name, "cause": why, "serves": [c.accelerator for c in model.candidates]}
    best = model.stage_placement
    if best is not None:
        fields["stages"] = [accelerator for _, accelerator in best.stages]
        fields |= {"energy_j": best.energy_j, "latency_s": best.latency_s, "provenance": "modelled"}
        fields["planning_ms"] = best.planning_s * 1e3
    return fields


def _sensor_condition(book: ConditionBook, profile: DeviceProfile, policy: Policy, wall_s: float) -> None:
    if profile.zones:
        book.clear("no_thermal_sensor")
        return
    rule = {"run": "work runs unguarded by temperature", "derate": "work is derated", "refuse": "nothing runs"}
    consequence = f"{rule[policy.no_thermal_sensor]} (policy no_thermal_sensor: {policy.no_thermal_sensor})"
    mend = "name a zone in the device profile if the board has one; qeil detect lists them"
    book.set("no_thermal_sensor", "no temperature sensor on this machine", consequence, mend, wall_s)


def _lane_condition(book: ConditionBook, keeper: LaneKeeper, wall_s: float) -> None:
    kind = f"lane_down:{keeper.name}"
    if keeper.health.phase in {"waiting", "open"} or keeper.state() == "restarting":
        cause = keeper.health.last_fault or "not started yet"
        mend = "restarts by itself" if keeper.health.phase != "open" else "probed again after breaker_open_s"
        book.set(kind, cause, "its requests run on the next placement", mend, wall_s)
    elif keeper.health.phase == "ready":
        book.clear(kind)


def _heat_condition(book: ConditionBook, keeper: LaneKeeper, wall_s: float) -> None:
    kind = f"thermal:{keeper.name}"
    verdict = keeper.verdict
    if verdict.level is Level.NOMINAL:
        book.clear(kind)
        return
    consequence = (
        "its permit is withheld, nothing runs on it" if verdict.level is Level.HALT
        else "nothing is held back at the moment" if verdict.pace >= 1.0 and verdict.capacity_share >= 1.0
        else f"it may be busy {verdict.pace:.0%} of its time" if verdict.capacity_share >= 1.0
        else f"admission is reduced to {verdict.capacity_share:.0%}"
    )  # fmt: skip
    book.set(kind, verdict.cause, consequence, "released by itself below the limit; improve cooling", wall_s)


def _changed_files(book: ConditionBook, keepers: Mapping[str, LaneKeeper], wall_s: float) -> None:
    """A lane that begins anew takes no file but the one that was admitted."""
    found = {
        f"model_changed:{name}@{keeper.name}": entry.reason or ""
        for keeper in keepers.values() for name, entry in keeper.models.items() if entry.changed
    }  # fmt: skip
    _clear_others(book, "model_changed:", found)
    for kind, cause in found.items():
        consequence = "it is not loaded there; lanes that have it go on with what was admitted"
        book.set(kind, cause, consequence, "put that file back, or qeil models load NAME to serve the new one", wall_s)


def _no_canaries(book: ConditionBook, keepers: Mapping[str, LaneKeeper], wall_s: float) -> None:
    """Models that could be asked and have no known answer."""
    found = {}
    for keeper in keepers.values():
        for name, entry in keeper.models.items():
            why = "" if keeper.canaries is None else keeper.canaries.varies(keeper.name, name)
            if why and entry.state == "ready":
                found[f"no_canary:{name}"] = f"{keeper.name}: {why}"
    _clear_others(book, "no_canary:", found)
    for kind, cause in found.items():
        mend = "none needed where the model is meant to draw; else qeil doctor looks at the accelerators"
        book.set(kind, cause, "a lane that computes it wrongly in silence is not found by its answers", mend, wall_s)


def unshared(
    book: ConditionBook, keepers: Mapping[str, LaneKeeper], refusals: Mapping[tuple[str, str], str], wall_s: float
) -> None:
    """Models that the settings want batched and that a lane runs one request at a time, by accelerator and name."""
    found = {
        f"batching_off:{name}@{accelerator}": cause
        for (accelerator, name), cause in refusals.items()
        if accelerator in keepers and name in keepers[accelerator].models
    }  # fmt: skip
    _clear_others(book, "batching_off:", found)
    for kind, cause in found.items():
        book.set(kind, cause, "its requests run one by one there", "take batching out of the model's settings", wall_s)


def _splits_refused(book: ConditionBook, state: ServingState, wall_s: float) -> None:
    """Splits that the settings name and the plan does not have."""
    found = {
        f"split_refused:{model.name}:{label}": why
        for model in state.current.plan.models for label, why in model.splits_refused
    }  # fmt: skip
    _clear_others(book, "split_refused:", found)
    for kind, cause in found.items():
        mend = "correct splits in the model's settings, or take it out"
        book.set(kind, cause, "requests for that placement are refused; the model is served without it", mend, wall_s)


def _clear_others(book: ConditionBook, prefix: str, found: Mapping[str, str]) -> None:
    for kind in [c.type for c in book.all() if c.type.startswith(prefix) and c.type not in found]:
        book.clear(kind)


def _fallback_condition(book: ConditionBook, keeper: LaneKeeper, model: str, wall_s: float) -> None:
    kind = f"fallback:{model}:{keeper.name}"
    entry = keeper.models.get(model)
    if entry is not None and entry.state == "ready" and entry.reason:
        book.set(kind, entry.reason, "it runs slower than planned", "policy fallback.on_fallback decides", wall_s)
    else:
        book.clear(kind)


def initial_info(version: str, board: str, profile: str, boot: int, current: InForce, wall_s: float) -> AgentInfo:
    """The agent's part of the first snapshot."""
    return AgentInfo(version, "starting", iso(wall_s), current.policy.name, current.digest, boot, board, profile)
