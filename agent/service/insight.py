"""Insight: what people want to know beyond the snapshot – the last hour, what the policy changed, why a placement.

Only reads: it owns the policy before the one in force, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.schema.device import DeviceProfile
from agent.schema.policy import Objective, Policy
from agent.schema.snapshot import AgentSnapshot, ModelStatus, PlacementStatus
from agent.service.history import History
from agent.service.serving.serving_state import InForce

RISING_K_PER_S = 0.01
"""Slower changes are noise of the sensor, not a trend."""
MAX_TRIP_S = 3600.0
"""A straight line says nothing about later."""
LANGUAGE_MODEL = "chosen"
"""State of the way that serves a language model; its reason says why."""
_ACTING = {"passive", "hot", "critical"}


class Insight:
    """Answers from any thread."""

    def __init__(
        self,
        history: History,
        profile: DeviceProfile,
        snapshot: Callable[[], AgentSnapshot],
        in_force: Callable[[], InForce],
        before: Policy | None,
    ) -> None:
        """before: the policy of the last run, if it is known and another one."""
        self._history = history
        self._profile = profile
        self._snapshot = snapshot
        self._in_force = in_force
        now = in_force().policy
        self._policies: tuple[Policy | None, Policy] = (before if before != now else None, now)

    def policy_in_force(self, policy: Policy) -> None:
        """A policy was accepted; what was in force becomes the last one. Called by one thread."""
        if policy != self._policies[1]:
            self._policies = (self._policies[1], policy)

    def overview(self, after_point: int, after_event: int) -> dict[str, Any]:
        """Everything but the snapshot, as plain JSON data; points and events only from these numbers on."""
        snapshot, current = self._snapshot(), self._in_force()
        points, events = self._history.since(after_point, after_event)
        return {
            "period_s": self._history.period_s,
            "points": points,
            "events": events,
            "accelerators": {
                a.name: self._heat(a.name, a.temperature_c, current.policy) for a in snapshot.accelerators
            },
            "placements": {m.name: placements(m, current.policy) for m in snapshot.models},
            "policy": {
                "name": current.policy.name, "digest": current.digest, "description": current.policy.description,
                "document": current.policy.model_dump(mode="json"),
                "before": self._policies[0].name if self._policies[0] else None,
                "changes": changes(self._policies[0], current.policy) if self._policies[0] else [],
            },
        }  # fmt: skip

    def _heat(self, name: str, temperature_c: float | None, policy: Policy) -> dict[str, Any]:
        """Load now, the temperature at which work stops, and when the last minute's trend would reach it."""
        latest = self._history.latest()
        seen = latest["accelerators"].get(name, {}) if latest else {}
        trips = [t.temperature_c.value for z in self._profile.zones for t in z.trips if t.kind in _ACTING]
        stop_c = min([policy.thermal.hard_c, *(t - policy.thermal.hysteresis_c for t in trips)])
        slope = self._history.slope_k_per_s(name)
        to_trip_s = None
        if temperature_c is not None and slope is not None and slope > RISING_K_PER_S:
            left_s = max(0.0, stop_c - temperature_c) / slope
            to_trip_s = round(left_s, 1) if left_s <= MAX_TRIP_S else None
        trend = "unknown" if temperature_c is None or slope is None else _trend(slope)
        return {
            "busy_share": seen.get("busy_share"), "stop_c": stop_c, "trend": trend, "time_to_trip_s": to_trip_s,
            "time_to_trip_is": "modelled" if to_trip_s is not None else "unknown",
        }  # fmt: skip


def _trend(slope: float) -> str:
    if abs(slope) <= RISING_K_PER_S:
        return "steady"
    return "rising" if slope > 0 else "falling"


def changes(before: Policy, now: Policy) -> list[dict[str, Any]]:
    """Keys whose value differs, with both values; None where a key was not there."""
    old, new = flat(before.model_dump(mode="json")), flat(now.model_dump(mode="json"))
    keys = dict.fromkeys([*old, *new])
    return [{"key": k, "before": old.get(k), "now": new.get(k)} for k in keys if old.get(k) != new.get(k)]


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists stay values."""
    if not isinstance(value, Mapping) or not value:
        return {key: value}
    return {k: v for name, inner in value.items() for k, v in flat(inner, f"{key}.{name}" if key else name).items()}


def placements(model: ModelStatus, policy: Policy) -> dict[str, Any]:
    """The candidates of a model with what was predicted of them, which nobody beats, and why this one serves."""
    known = [c for c in model.candidates if c.predicted_ms is not None and c.predicted_energy_j is not None]
    serving = _serving(model)
    rows = [
        {
            "accelerator": c.accelerator, "state": c.state, "latency_ms": c.predicted_ms,
            "energy_j": c.predicted_energy_j, "measured_p50_ms": c.measured_p50_ms, "provenance": "modelled",
            "timed_ms": c.timed_ms,
            "on_front": c in known and not any(_beats(o, c) for o in known), "chosen": c is serving,
            "reason": c.reason, "unknown": dict(c.unknown),
        }
        for c in model.candidates
    ]  # fmt: skip
    return {"candidates": rows, "why": why(model, policy), "choice": choice(model, policy)}


def _serving(model: ModelStatus) -> PlacementStatus | None:
    """The candidate that serves: the placement's own, or the way by which a language model runs on two accelerators.

    Those stand in the placement in the order of the work, in the ways by their roles.
    """
    able = [c for c in model.candidates if c.state != "rejected"]
    own = next((c for c in able if c.accelerator == model.placement), None)
    shared = own is None and model.placement is not None
    return next((c for c in able if c.state == LANGUAGE_MODEL), None) if shared else own


def _beats(one: PlacementStatus, other: PlacementStatus) -> bool:
    mine = (one.predicted_ms or 0.0, one.predicted_energy_j or 0.0)
    theirs = (other.predicted_ms or 0.0, other.predicted_energy_j or 0.0)
    return mine != theirs and mine[0] <= theirs[0] and mine[1] <= theirs[1]


def why(model: ModelStatus, policy: Policy) -> str:
    """One paragraph: who serves, what the next one would cost, and what the policy asked for."""
    able = [c for c in model.candidates if c.state != "rejected"]
    chosen = _serving(model)
    if chosen is None:
        return f"Nothing serves {model.name}: {model.reason or model.state}."
    said = chosen.reason if chosen.state == LANGUAGE_MODEL else None
    parts = [f"{chosen.accelerator} serves {model.name}: {said or _predicted(chosen)}."]
    others = [c for c in able if c is not chosen]
    if able[0] is not chosen:
        parts.append(f"The policy's first choice, {able[0].accelerator}, is {_trouble(able[0])}.")
    elif others:
        parts.append(f"Next would be {others[0].accelerator}: {_compared(others[0], chosen)}.")
    else:
        parts.append("It is the only placement that can run it here.")
    parts.append(f"Policy {policy.name} {wish(policy.objective)}.")
    return " ".join(parts)


def choice(model: ModelStatus, policy: Policy) -> str:
    """Why this point of the front and no other, in one line for the picture of it."""
    able = [c for c in model.candidates if c.state != "rejected"]
    chosen = _serving(model)
    if chosen is None:
        return f"nothing serves: {model.reason or model.state}"
    if able[0] is not chosen:
        first = able[0]
        return f"{chosen.accelerator} stands in: the policy's first choice, {first.accelerator}, is {_trouble(first)}"
    if len(able) == 1:
        return f"{chosen.accelerator} is the only placement that can run it here"
    return f"{chosen.accelerator}, because policy {policy.name} {wish(policy.objective)}"


def _trouble(c: PlacementStatus) -> str:
    return f"{c.state}: {c.reason}" if c.reason else c.state


def wish(objective: Objective) -> str:
    """What a policy's objective asks for, as the end of a sentence."""
    if objective.weights is not None and objective.method == "weights":
        w = objective.weights
        return f"weighs energy {w.energy:g}, latency {w.latency:g}, under-utilisation {w.underutilisation:g}"
    if objective.method == "lexicographic":
        return f"puts {', then '.join(objective.order)} first, giving way by at most {objective.tolerance:.0%}"
    return "takes the front's point of diminishing returns"


def _predicted(c: PlacementStatus) -> str:
    time = "time unknown" if c.predicted_ms is None else f"{c.predicted_ms:.3g} ms"
    energy = "energy unknown" if c.predicted_energy_j is None else f"{c.predicted_energy_j * 1e3:.3g} mJ"
    return f"predicted {time} and {energy} per answer"


def _compared(other: PlacementStatus, chosen: PlacementStatus) -> str:
    energy = _factor(other.predicted_energy_j, chosen.predicted_energy_j, "the energy")
    time = _factor(other.predicted_ms, chosen.predicted_ms, "the time")
    if other.timed_ms is None or not chosen.timed_ms:
        return f"{time} and {energy}, predicted"
    timed = _factor(other.timed_ms, chosen.timed_ms, "the time")
    return (
        f"{timed} as timed on the idle board ({other.timed_ms:.3g} ms beside {chosen.timed_ms:.3g} ms), which decides "
        f"where it differs by more than 5 % from what was predicted: {time} and {energy}"
    )


def _factor(other: float | None, chosen: float | None, of: str) -> str:
    return f"{other / chosen:.2f} × {of}" if other is not None and chosen else f"unknown for {of}"
