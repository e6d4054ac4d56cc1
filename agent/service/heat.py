"""Heat: gathers what the predictive governor is given – sensors, powers, candidate placements – and keeps its memory.

Owned by the supervisor's thread. Powers are measured where a rail covers one accelerator alone or the lane is a
simulated one, else modelled from the time that the lane was busy and the plan's joules. The governor looks at every new
round of readings, and otherwise at least once in `LOOK_S`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Protocol

import numpy as np

from agent.control import predictive_governor
from agent.control.predictive_governor import Decision, Look, PredictiveState, Source, ZoneView
from agent.control.thermal_choice import Move, Point
from agent.control.thermal_governor import ThermalVerdict, ZoneInput
from agent.physics.impedance import ImpedancePrior
from agent.ports import Reading
from agent.records import record
from agent.schema.device import Accelerator, DeviceProfile, OperatingPoint
from agent.schema.policy import Policy
from agent.schema.snapshot import ZoneStatus
from agent.service import status_view
from agent.service.conditions import ConditionBook
from agent.service.serving.lane_keeper import LaneKeeper

LOOK_S = 0.5
"""Longest time between two looks."""
POLES_S = (4.0, 40.0, 400.0)
"""Time constants of the learnt network: a die, a package, a heat sink."""
_SPLIT = (0.3, 0.2, 0.5)
RISE_K = 50.0
"""Rise of a board at full power where its profile has no thermal network: what its cooling is usually built for."""
_ELSEWHERE_K_PER_W = 1e-4
"""Of a sensor that an accelerator does not heat; above 0, as an impedance has to be."""
_FULL_OVER_BASE = 3.0
"""Full power over base power where nothing better is known; the network's resistances take up the difference."""


class PointActuator(Protocol):
    """Sets an accelerator's operating point."""

    def points(self) -> tuple[OperatingPoint, ...]:
        """Those below the fastest, the fastest first; none where it cannot set any."""

    def set(self, point: str) -> str:
        """Set one, or begin to, "" for the fastest; why it could not, in one line, or ""; called every tick."""

    def restore(self) -> str:
        """Put back what was found at the start; why it could not, or ""."""


@record
class _Activity:
    """How long a lane had been busy at the last look."""

    busy_s: float
    at_s: float


@record
class HeatWatch:
    """See module."""

    profile: DeviceProfile
    actuators: Mapping[str, PointActuator] = field(default_factory=dict)
    """By accelerator; where there is none its operating point stays as it is."""
    state: PredictiveState = field(default_factory=PredictiveState)
    decision: Decision | None = None
    _priors: dict[str, ImpedancePrior] = field(default_factory=dict)
    _activity: dict[str, _Activity] = field(default_factory=dict)
    _seen: tuple[Reading, ...] = ()
    _looked_s: float = float("-inf")
    _policy: Policy | None = None

    def judge(
        self, keepers: Mapping[str, LaneKeeper], readings: tuple[Reading, ...], policy: Policy, now_s: float
    ) -> Mapping[str, ThermalVerdict]:
        """Verdict by accelerator."""
        if self.decision is not None and not self._due(keepers, readings, policy, now_s):
            return self.decision.verdicts
        zones = status_view.zone_inputs(self.profile, keepers, readings, now_s)
        sources = tuple(self._source(keeper, keepers, readings, policy, now_s) for keeper in keepers.values())
        look = Look(tuple(zones), sources, self._learnable(zones, sources), 0.0, policy.no_thermal_sensor)
        self.state, self.decision = predictive_governor.step(self.state, look, policy.thermal, now_s)
        self._seen, self._looked_s, self._policy = readings, now_s, policy
        return self.decision.verdicts

    def _due(
        self, keepers: Mapping[str, LaneKeeper], readings: tuple[Reading, ...], policy: Policy, now_s: float
    ) -> bool:
        """Without any sensor there is but the policy to follow."""
        if policy is not self._policy:
            return True
        if not self.profile.zones and not any(keeper.spec.simulated for keeper in keepers.values()):
            return False
        return readings is not self._seen or now_s - self._looked_s >= LOOK_S or policy.thermal.forecast is None

    def zones(self) -> tuple[ZoneStatus, ...]:
        """Every zone as status shows it."""
        return tuple(_status(view) for view in self.decision.zones) if self.decision is not None else ()

    # ------------------------------------------------------------------ sources

    def _source(
        self,
        keeper: LaneKeeper,
        keepers: Mapping[str, LaneKeeper],
        readings: tuple[Reading, ...],
        policy: Policy,
        now_s: float,
    ) -> Source:
        busy_share = self._busy_share(keeper, now_s)
        points = self._points(keeper, policy)
        setting = self.state.settings.get(keeper.name)
        present = points[min(setting.point, len(points) - 1)] if setting is not None else points[0]
        measured_w = self._measured_w(keeper, readings)
        power_w = busy_share * present.power_w if measured_w is None else measured_w
        return Source(keeper.name, points, busy_share, power_w, _moves(keeper, keepers))

    def _points(self, keeper: LaneKeeper, policy: Policy) -> tuple[Point, ...]:
        """The fastest point, and those that the profile's actuator can set where the policy allows it."""
        full_w = self.full_power_w(keeper)
        actuator, rule = self.actuators.get(keeper.name), policy.thermal.forecast
        if actuator is None or rule is None or not rule.operating_points:
            return (Point("full", 1.0, full_w),)
        return (Point("full", 1.0, full_w), *(_point(p, full_w) for p in actuator.points()))

    def apply(self, policy: Policy, conditions: ConditionBook, wall_s: float) -> None:
        """Set what was decided last; an actuator that cannot is told of and left alone."""
        rule = policy.thermal.forecast
        allowed = rule is not None and rule.operating_points
        verdicts = self.decision.verdicts if self.decision is not None and allowed else {}
        for name, actuator in self.actuators.items():
            verdict = verdicts.get(name)
            why = actuator.set(verdict.operating_point if verdict is not None else "")
            kind = f"operating_point:{name}"
            if why and allowed:
                conditions.set(kind, why, f"{name} is paced instead of slowed", "see the cause", wall_s)
            else:
                conditions.clear(kind)

    def restore(self) -> None:
        """Put every operating point back as it was found."""
        for actuator in self.actuators.values():
            actuator.restore()

    def _busy_share(self, keeper: LaneKeeper, now_s: float) -> float:
        """Share of the time since the last look; a lane that does not count is judged by this moment."""
        vitals = keeper.vitals
        if vitals is None:
            return 0.0
        if vitals.busy_s is None:
            return 0.0 if vitals.busy_since_s is None else 1.0
        running_s = 0.0 if vitals.busy_since_s is None else max(0.0, now_s - vitals.busy_since_s)
        total_s = vitals.busy_s + running_s
        before = self._activity.get(keeper.name, _Activity(total_s, now_s))
        self._activity[keeper.name] = _Activity(total_s, now_s)
        gone_s = now_s - before.at_s
        return min(1.0, max(0.0, total_s - before.busy_s) / gone_s) if gone_s > 0 else 0.0

    def full_power_w(self, keeper: LaneKeeper) -> float:
        """Watts while busy, modelled: of the hungriest loaded model, else from the profile."""
        known = [
            m.candidate.dynamic_j / m.candidate.predicted_s + m.candidate.static_w
            for m in keeper.models.values()
            if m.candidate.dynamic_j is not None and m.candidate.static_w is not None and m.candidate.predicted_s
        ]
        unit = _accelerator(self.profile, keeper.name)
        if known:
            return max(0.1, *known)
        return 5.0 if unit is None else max(0.1, _FULL_OVER_BASE * unit.base_power_w.value)

    def _measured_w(self, keeper: LaneKeeper, readings: tuple[Reading, ...]) -> float | None:
        if keeper.spec.simulated:
            return keeper.vitals.power_w if keeper.vitals is not None else None
        own = {rail.name for rail in self.profile.rails if rail.covers == (keeper.name,) and rail.scope == "rail"}
        values = [r.value for r in readings if r.kind == "power_w" and r.name in own and r.value is not None]
        return max(0.0, min(values)) if values else None

    # ------------------------------------------------------------------ networks before data

    def _learnable(self, zones: list[ZoneInput], sources: tuple[Source, ...]) -> Mapping[str, ImpedancePrior]:
        """Kept as they were at first: what is learnt refers to them."""
        for zone in zones:
            if zone.name not in self._priors:
                rows = [self._settled(source, zone) for source in sources]
                resistance = np.array(rows)[:, None] * np.array(_SPLIT)
                self._priors[zone.name] = ImpedancePrior(np.array(POLES_S), np.maximum(_ELSEWHERE_K_PER_W, resistance))
        return {zone.name: self._priors[zone.name] for zone in zones}

    def _settled(self, source: Source, zone: ZoneInput) -> float:
        """Kelvin per watt once settled: the profile's network, else what cooling is usually built for."""
        if zone.accelerators and source.name not in zone.accelerators:
            return _ELSEWHERE_K_PER_W
        unit, network = _accelerator(self.profile, source.name), self.profile.thermal
        if unit is not None and network is not None:
            node = next((n for n in network.nodes if n.name == unit.thermal_node), None)
            if node is not None and node.to_ambient_w_per_k is not None:
                return 1.0 / node.to_ambient_w_per_k.value
        return RISE_K / source.points[0].power_w


def _accelerator(profile: DeviceProfile, name: str) -> Accelerator | None:
    return next((a for a in profile.accelerators if a.name == name), None)


def _point(point: OperatingPoint, full_w: float) -> Point:
    """Power falls with the clock; how far the voltage falls with it is unknown, so it is an upper bound."""
    speed = point.clock_share * point.active_units_share
    cap_w = full_w if point.power_cap_w is None else point.power_cap_w.value
    return Point(point.name, speed, min(speed * full_w, cap_w))


def _moves(keeper: LaneKeeper, keepers: Mapping[str, LaneKeeper]) -> tuple[Move, ...]:
    """Accelerators that have all of this one's models ready, with how much longer they take."""
    mine = {n: m.candidate.predicted_s for n, m in keeper.models.items() if m.state == "ready"}
    found = []
    for other in keepers.values():
        theirs = {n: m.candidate.predicted_s for n, m in other.models.items() if m.state == "ready"}
        pairs = [(mine[n], theirs.get(n)) for n in mine]
        known = [b / a for a, b in pairs if a and b]
        if other is not keeper and mine and other.health.phase == "ready" and len(known) == len(mine):
            found.append(Move(other.name, max(known)))
    return tuple(found)


def _status(view: ZoneView) -> ZoneStatus:
    return ZoneStatus(
        view.name, view.temperature_c, view.limit_c, view.forecast_c, view.learnt, view.ambient_c, view.k_per_w,
        view.error_c, view.doubt or None,
    )  # fmt: skip
