"""Thermal choice: the settings of all accelerators that do the most work while every zone's forecast stays below it.

Steps in the order of what they cost: nothing, another placement for part of the work, a lower operating point, a pace,
fewer samples, and only then refusals. Pure arithmetic on forecasts; owns no sensor and no memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agent.physics.arguments import Array
from agent.physics.impedance import Forecast
from agent.schema.policy import ThermalForecast

CONFIDENCE = 2.0
"""Standard deviations of the forecast that are kept as a reserve."""
MOVE_STEPS = (0.5, 1.0)
"""Shares of an accelerator's work that are tried elsewhere."""
SAMPLES_BELOW, ADMIT_BELOW = 0.7, 0.4
"""Pace below which the sample budget shrinks, and below which requests are refused."""
URGENT_BELOW = 0.8
"""Where a pace alone would have to be lower, points and moves are tightened before their dwell is over."""
_MOVE_COST, _POINT_COST = 0.01, 0.005
"""Share of a lane's work that a move, or a lower operating point, has to win to be worth it."""
MINOR_SHARE = 0.05
"""A source that adds less than this share of a zone's heat is not limited for it."""
_CHANGE_COST = 0.01
"""And that another plan than the one in force has to win."""


@dataclass(frozen=True)
class Point:
    """One way to run: speed as a share of the fastest, watts above idle while busy."""

    name: str
    speed_share: float
    power_w: float


@dataclass(frozen=True)
class Move:
    """Another accelerator that has the same models loaded; `slowdown`: its seconds per second of work here."""

    to: str
    slowdown: float


@dataclass(frozen=True)
class Unit:
    """One accelerator: what it can do, fastest point first, and the work that waits for it (1: more than it can)."""

    name: str
    points: tuple[Point, ...]
    demand_share: float
    moves: tuple[Move, ...] = ()


@dataclass(frozen=True)
class Ceiling:
    """A zone's forecast and its limits: `ceiling_c` over the horizon, `hard_c` for any burst."""

    zone: str
    forecast: Forecast
    ceiling_c: float
    hard_c: float


@dataclass(frozen=True)
class Setting:
    """What one accelerator is told."""

    point: int = 0
    moved_share: float = 0.0
    moved_to: str = ""
    pace: float = 1.0
    sample_share: float = 1.0
    admit_share: float = 1.0


@dataclass(frozen=True)
class Choice:
    """Settings by accelerator, the zone that binds (empty: none), and what it would come to at full rate."""

    settings: Mapping[str, Setting]
    zone: str = ""
    unchecked_c: float = 0.0
    at_s: float = 0.0


def choose(
    units: Sequence[Unit],
    zones: Sequence[Ceiling],
    rule: ThermalForecast,
    before: Mapping[str, Setting] | None = None,
    *,
    held: bool = False,
) -> Choice:
    """The cheapest settings that keep every zone below its ceiling.

    before: settings in force, from which the search also starts; held: their points and moves may only be tightened.
    """
    zones = [zone for zone in zones if _binds(zone, units)]
    untouched = {unit.name: Setting() for unit in units}
    if not zones and not held:
        return Choice(untouched)
    plan = {unit.name: replace((before or {}).get(unit.name, Setting()), pace=1.0) for unit in units}
    free = _scale(units, zones, untouched)
    best = _worth(units, zones, plan)
    if not held or best.scale.least < URGENT_BELOW:
        best = _descend(units, zones, rule, plan, held)
    if not held and plan != untouched:
        # Strictly better only: of two plans that do the same work the one in force stays.
        other = _descend(units, zones, rule, untouched, held)
        best = other if other.worth > best.worth + _CHANGE_COST else best
    bounds = zip(units, best.scale.shares.tolist(), _burst(units, zones, best.plan).tolist(), strict=True)
    settings = {unit.name: _finished(unit, best, share, burst, rule) for unit, share, burst in bounds}
    if free.least >= 1.0:
        return Choice(settings)
    return Choice(settings, zones[free.zone].zone, free.peak_c, free.at_s)


def _descend(
    units: Sequence[Unit], zones: Sequence[Ceiling], rule: ThermalForecast, plan: Mapping[str, Setting], held: bool
) -> _Trial:
    """Change one accelerator in one way at a time while it pays; two rounds settle all but contrived boards."""
    best = _worth(units, zones, plan)
    for _ in range(2 if best.scale.least < 1.0 or plan != {unit.name: Setting() for unit in units} else 0):
        before = best
        for unit in units:
            for setting in _alternatives(unit, best.plan[unit.name], rule, held):
                trial = _worth(units, zones, {**best.plan, unit.name: setting})
                best = trial if trial.worth > best.worth + 1e-9 else best
        if best is before:
            break
    return best


def _binds(zone: Ceiling, units: Sequence[Unit]) -> bool:
    """Whether everything at full power could bring the zone to its ceiling; most zones are spared further looks."""
    full_w = np.array([max(point.power_w for point in unit.points) for unit in units])
    most_c = zone.forecast.temperature_c(full_w) + CONFIDENCE * zone.forecast.deviation_c(full_w)
    return bool((most_c > min(zone.ceiling_c, zone.hard_c)).any())


@dataclass(frozen=True)
class _Scale:
    """Share of its expected power that each accelerator may draw, and the zone that binds most."""

    shares: Array
    zone: int = -1
    peak_c: float = 0.0
    at_s: float = 0.0

    @property
    def least(self) -> float:
        """The smallest of them."""
        return float(self.shares.min())


@dataclass(frozen=True)
class _Trial:
    plan: Mapping[str, Setting]
    scale: _Scale
    worth: float
    busy: Mapping[str, float]


def _alternatives(unit: Unit, now: Setting, rule: ThermalForecast, held: bool) -> list[Setting]:
    found = []
    if rule.operating_points:
        first = now.point if held else 0
        found += [replace(now, point=p) for p in range(first, len(unit.points)) if p != now.point]
    if rule.move:
        if now.moved_share and not held:
            found.append(replace(now, moved_share=0.0, moved_to=""))
        found += [
            replace(now, moved_share=share, moved_to=move.to)
            for move in unit.moves
            for share in MOVE_STEPS
            if not held or share > now.moved_share
        ]
    return found


def _loads(units: Sequence[Unit], plan: Mapping[str, Setting]) -> dict[str, float]:
    """Share of its time that each accelerator would be busy, unbounded."""
    loads = {unit.name: unit.demand_share * (1.0 - plan[unit.name].moved_share) for unit in units}
    for unit in units:
        setting = plan[unit.name]
        slowdown = next((m.slowdown for m in unit.moves if m.to == setting.moved_to), 0.0)
        if setting.moved_share and setting.moved_to in loads:
            loads[setting.moved_to] += unit.demand_share * setting.moved_share * slowdown
    return {unit.name: loads[unit.name] / unit.points[plan[unit.name].point].speed_share for unit in units}


def _powers(units: Sequence[Unit], plan: Mapping[str, Setting], busy: Mapping[str, float]) -> Array:
    return np.array([u.points[plan[u.name].point].power_w * busy[u.name] for u in units])


def _scale(units: Sequence[Unit], zones: Sequence[Ceiling], plan: Mapping[str, Setting]) -> _Scale:
    """Shares of the expected powers that keep every zone below its ceiling, and who binds."""
    busy = {name: min(1.0, load) for name, load in _loads(units, plan).items()}
    power_w = _powers(units, plan, busy)
    worst = _Scale(np.ones(len(units)))
    for index, zone in enumerate(zones):
        reserve_c = CONFIDENCE * zone.forecast.deviation_c(power_w)
        heat_k = zone.forecast.gain_k_per_w * power_w
        room_k = zone.ceiling_c - reserve_c - zone.forecast.base_c
        shares, at = _within(heat_k, room_k)
        if at is None:
            continue
        if shares.min() < worst.least:
            peak_c = float(zone.forecast.base_c[at] + heat_k[at].sum() + reserve_c[at])
            worst = _Scale(np.minimum(shares, worst.shares), index, peak_c, float(zone.forecast.times_s[at]))
        else:
            worst = replace(worst, shares=np.minimum(shares, worst.shares))
    return worst


def _within(heat_k: Array, room_k: Array) -> tuple[Array, int | None]:
    """(share for each source, time that binds): those who add next to nothing to a zone are not limited for it."""
    total_k = heat_k.sum(axis=1)
    shares = np.ones(heat_k.shape[1])
    over = np.flatnonzero(total_k > room_k)
    if not over.size:
        return shares, None
    minor = heat_k < MINOR_SHARE * total_k[:, None]
    # Where even they do not fit, nobody is spared.
    spare = np.where(minor, heat_k, 0.0).sum(axis=1) <= 0.5 * room_k
    minor &= spare[:, None]
    minor_k = np.where(minor, heat_k, 0.0).sum(axis=1)
    allowed = np.maximum(0.0, room_k - minor_k) / np.maximum(total_k - minor_k, 1e-9)
    for at in over:
        shares = np.where(minor[at], shares, np.minimum(shares, allowed[at]))
    return shares, int(over[allowed[over].argmin()])


def _worth(units: Sequence[Unit], zones: Sequence[Ceiling], plan: Mapping[str, Setting]) -> _Trial:
    """Work that gets done, less what the interventions cost."""
    scale = _scale(units, zones, plan)
    loads = _loads(units, plan)
    busy = {name: min(1.0, load) for name, load in loads.items()}
    # What a busy accelerator serves of the work that waits for it.
    served = {
        unit.name: float(share) * (busy[unit.name] / loads[unit.name] if loads[unit.name] > 0 else 1.0)
        for unit, share in zip(units, scale.shares, strict=True)
    }
    worth = 0.0
    for unit in units:
        setting = plan[unit.name]
        elsewhere = setting.moved_share * served.get(setting.moved_to, 0.0)
        worth += unit.demand_share * ((1.0 - setting.moved_share) * served[unit.name] + elsewhere)
        worth -= _MOVE_COST * (setting.moved_share > 0) + _POINT_COST * setting.point
    return _Trial(plan, scale, worth, busy)


def _burst(units: Sequence[Unit], zones: Sequence[Ceiling], plan: Mapping[str, Setting]) -> Array:
    """Share of full power that each may draw until the next look, if work came to all of them at once."""
    power_w = _powers(units, plan, {unit.name: 1.0 for unit in units})
    shares = np.ones(len(units))
    for zone in zones:
        reserve_c = CONFIDENCE * zone.forecast.deviation_c(power_w)[:1]
        heat_k = zone.forecast.gain_k_per_w[:1] * power_w
        shares = np.minimum(shares, _within(heat_k, zone.hard_c - reserve_c - zone.forecast.base_c[:1])[0])
    return shares


def _finished(unit: Unit, trial: _Trial, share: float, burst: float, rule: ThermalForecast) -> Setting:
    setting = trial.plan[unit.name]
    planned = share * trial.busy[unit.name]
    # Moved work comes back where the others are full, so the plan is also a bound.
    pace = planned if share < 1.0 or setting.moved_share else 1.0
    if min(share, burst) < rule.min_pace:
        return replace(setting, pace=0.0, sample_share=rule.min_sample_share, admit_share=0.0)
    samples = 1.0 if share >= SAMPLES_BELOW else max(rule.min_sample_share, share / SAMPLES_BELOW)
    admit = 1.0 if share >= ADMIT_BELOW else share / ADMIT_BELOW
    return replace(setting, pace=max(rule.min_pace, min(pace, burst)), sample_share=samples, admit_share=admit)
