"""Thermal choice: the settings of all accelerators that do the most work while every zone's forecast stays below it.

Steps in the order of what they cost: nothing, another placement for part of the work, a lower operating point, a pace,
fewer samples, and only then refusals. Pure arithmetic on forecasts; owns no sensor and no memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from agent.control.heat_allotment import Allotment, Move, Point, Unit, allot, allot_at, split_of
from agent.physics.arguments import Array
from agent.physics.impedance import Forecast
from agent.records import record
from agent.schema.policy import ThermalForecast

__all__ = ["Ceiling", "Choice", "Move", "Point", "Setting", "Unit", "choose"]

CONFIDENCE = 2.0
"""Standard deviations of the forecast that are kept as a reserve."""
SAMPLES_BELOW, ADMIT_BELOW = 0.7, 0.4
"""Share of an accelerator's work below which the sample budget shrinks, and below which requests are refused."""
URGENT_BELOW = 0.8
"""Where less of the work than this would be done, points and moves are tightened before their dwell is over."""
MINOR_SHARE = 0.05
"""A source that adds less than this share of a zone's heat is not limited for it."""
NEGLIGIBLE_K = 0.05
"""And one that adds less than this at full power not even where nothing else is left to limit."""
_CHANGE_COST = 0.004
"""Share of the work that another plan than the one in force has to win; below a point's cost, or none were freed."""
_TOUCHES = 1e-6
"""Share of a limit's room within which it counts as reached."""
_WHOLE = 0.999
"""Shares from here on are all of it."""


@record(frozen=True)
class Ceiling:
    """A zone's forecast and its limits: `ceiling_c` over the horizon, `hard_c` for any burst.

    Times beyond the policy's horizon are held to the ceiling by the work that usually comes: what warms a neighbour
    slowly, or a whole case, costs nothing within a minute.
    """

    zone: str
    forecast: Forecast
    ceiling_c: float
    hard_c: float


@record(frozen=True)
class Setting:
    """What one accelerator is told."""

    point: int = 0
    moved_share: float = 0.0
    moved_to: str = ""
    pace: float = 1.0
    sample_share: float = 1.0
    admit_share: float = 1.0


@record(frozen=True)
class Choice:
    """Settings by accelerator, the zone that binds (empty: none), and what it would come to at full rate."""

    settings: Mapping[str, Setting]
    zone: str = ""
    unchecked_c: float = 0.0
    at_s: float = 0.0


@record(frozen=True)
class _Limits:
    """Every zone at every time of its forecast as one row; gains of those who are spared are 0."""

    gain_k_per_w: Array
    room_k: Array
    """(rows,): below the ceiling, less the reserve and what the spared ones add."""
    burst_gain_k_per_w: Array
    """(zones, units): at the first time."""
    burst_room_k: Array
    zone: str
    """That binds at full rate; empty: none."""
    unchecked_c: float
    at_s: float


def choose(
    units: Sequence[Unit],
    zones: Sequence[Ceiling],
    rule: ThermalForecast,
    before: Mapping[str, Setting] | None = None,
    *,
    held: bool = False,
) -> Choice:
    """The cheapest settings that keep every zone below its ceiling.

    before: settings in force, which another plan has to beat; held: their points and moves may only be tightened.
    """
    full_w = np.array([max(point.power_w for point in unit.points) for unit in units])
    zones = [zone for zone in zones if _binds(zone, full_w)]
    now = [(before or {}).get(unit.name, Setting()) for unit in units]
    tied = any(setting.point or setting.moved_share for setting in now) if held else False
    if not zones and not tied:
        return Choice({unit.name: Setting() for unit in units})
    if not rule.move:
        units = [replace(unit, moves=()) for unit in units]
    limits = _limits(units, zones, rule.horizon_s, _present_w(units, now))
    problem = _Problem(units, limits)
    kept = _Plan(now, _kept(problem, now))
    chosen = _held(problem, kept, rule) if held else _better([0] * len(now), kept, problem, rule)
    plan, allotment = chosen.settings, chosen.allotment
    bounds = _bounds(units, allotment, limits, [setting.moved_share for setting in plan])
    settings = {
        unit.name: _finished(plan[at], float(allotment.served[at]), bounds[at], rule) for at, unit in enumerate(units)
    }
    return Choice(settings, limits.zone, limits.unchecked_c, limits.at_s)


@record(frozen=True)
class _Problem:
    units: Sequence[Unit]
    limits: _Limits


@record(frozen=True)
class _Plan:
    settings: Sequence[Setting]
    allotment: Allotment


def _present_w(units: Sequence[Unit], now: Sequence[Setting]) -> Array:
    """(units,): watts of the settings in force, which the reserve is taken for.

    A power that no one will allow is known worst, and its doubt would cost most of the work.
    """
    found = []
    for unit, setting in zip(units, now, strict=True):
        point = unit.points[min(setting.point, len(unit.points) - 1)]
        found.append(point.power_w * min(setting.pace, unit.demand_share / point.speed_share))
    return np.array(found)


def _binds(zone: Ceiling, full_w: Array) -> bool:
    """Whether everything at full power could bring the zone to its ceiling; most zones are spared further looks."""
    most_c = zone.forecast.temperature_c(full_w) + _reserve_c(zone, full_w)
    return bool((most_c > min(zone.ceiling_c, zone.hard_c)).any())


def _reserve_c(zone: Ceiling, power_w: Array) -> float:
    """What is not known two looks ahead; of what lies beyond, the looks in between will tell."""
    return CONFIDENCE * zone.forecast.first_deviation_c(power_w)


def _limits(units: Sequence[Unit], zones: Sequence[Ceiling], horizon_s: float, present_w: Array) -> _Limits:
    """present_w: watts for which the reserve is taken."""
    full_w = np.array([unit.points[0].power_w for unit in units])
    expected_w = full_w * np.array([unit.demand_share for unit in units])
    usual = np.array([unit.usual_share for unit in units])
    if not zones:
        none, nothing = np.zeros((0, len(units))), np.zeros(0)
        return _Limits(none, nothing, none, nothing, "", 0.0, 0.0)
    # All zones' times below one another: a few operations on all rows, not as many for each zone.
    counts = [zone.forecast.times_s.size for zone in zones]
    of_zone = np.repeat(np.arange(len(zones)), counts)
    times_s = np.concatenate([zone.forecast.times_s for zone in zones])
    lasting = times_s > horizon_s
    reserve_c = np.array([_reserve_c(zone, present_w) for zone in zones])[of_zone]
    base_c = np.concatenate([zone.forecast.base_c for zone in zones]) + np.where(lasting, 0.0, reserve_c)
    gain = np.concatenate([zone.forecast.gain_k_per_w for zone in zones])
    gain = np.where(gain * full_w < NEGLIGIBLE_K, 0.0, gain)
    gain = np.where(lasting[:, None], gain * usual, gain)
    heat_k = gain @ expected_w
    room_k = np.maximum(0.0, np.array([zone.ceiling_c for zone in zones])[of_zone] - base_c)
    shares = room_k / np.maximum(heat_k, 1e-9)
    at = int(shares.argmin())
    said = ("", 0.0, 0.0)
    if shares[at] < 1.0:
        said = (zones[of_zone[at]].zone, float(base_c[at] + heat_k[at]), float(times_s[at]))
    first = np.cumsum([0, *counts[:-1]])
    burst_room_k = np.maximum(0.0, np.array([zone.hard_c for zone in zones]) - base_c[first])
    gains, rooms = _strictest(*_near(gain, room_k, full_w))
    burst_gains, burst_rooms = _near(gain[first], burst_room_k, full_w)
    return _Limits(gains, rooms, burst_gains, burst_rooms, *said)


def _near(gain_k_per_w: Array, room_k: Array, full_w: Array) -> tuple[Array, Array]:
    """Rows that full power would pass, those who hardly matter spared."""
    near = (gain_k_per_w @ full_w) > room_k
    return _spared(gain_k_per_w[near], room_k[near], full_w)


def _strictest(gain_k_per_w: Array, room_k: Array) -> tuple[Array, Array]:
    """Rows without those that hold wherever another one does: each costs in every program."""
    room = np.maximum(room_k, 1e-12)
    by_room = gain_k_per_w[:, None] * room[None, :, None]
    # [i, j]: i holds wherever j does; of rows that say the same the first stays.
    implied = (by_room.transpose(1, 0, 2) >= by_room).all(axis=2)
    implied &= ~implied.T | np.tri(room.size, k=-1, dtype=bool)
    kept = ~implied.any(axis=1)
    return gain_k_per_w[kept], room_k[kept]


def _spared(gain_k_per_w: Array, room_k: Array, full_w: Array) -> tuple[Array, Array]:
    """Rows in which those who add next to nothing have their heat set aside, where that leaves room for the others."""
    heat_k = gain_k_per_w * full_w
    minor = heat_k < MINOR_SHARE * heat_k.sum(axis=1, keepdims=True)
    aside_k = np.where(minor, heat_k, 0.0).sum(axis=1)
    fits = aside_k <= 0.5 * room_k
    spared = np.where(minor & fits[:, None], 0.0, gain_k_per_w)
    return spared, np.where(fits, room_k - aside_k, room_k)


def _held(problem: _Problem, kept: _Plan, rule: ThermalForecast) -> _Plan:
    """As it is; where too little gets done, points go down and moves may widen at once."""
    weights = np.array([unit.weight * unit.demand_share for unit in problem.units])
    if weights @ kept.allotment.served >= URGENT_BELOW * weights.sum():
        return kept
    return _better([setting.point for setting in kept.settings], kept, problem, rule)


def _better(lowest: Sequence[int], kept: _Plan, problem: _Problem, rule: ThermalForecast) -> _Plan:
    """Another plan, with points from the lowest number on, where it gets more done."""
    worth = kept.allotment.worth * (1.0 + _CHANGE_COST)
    settings = _optimum(problem, lowest, rule, worth)
    if settings is None:
        return kept
    other = _Plan(settings, _kept(problem, settings))
    return other if other.allotment.worth > worth else kept


def _allowed(units: Sequence[Unit], rule: ThermalForecast, lowest: Sequence[int]) -> list[Sequence[int]]:
    """Points that each may run at, from its lowest number on."""
    if not rule.operating_points:
        return [(0,)] * len(units)
    return [range(min(first, len(u.points) - 1), len(u.points)) for u, first in zip(units, lowest, strict=True)]


def _optimum(problem: _Problem, lowest: Sequence[int], rule: ThermalForecast, above: float) -> list[Setting] | None:
    """Points from the lowest number on, and moves, that get most done; None where that is no more than `above`."""
    units, limits = problem.units, problem.limits
    allowed = _allowed(units, rule, lowest)
    allotment = allot(units, allowed, limits.gain_k_per_w, limits.room_k, above)
    if allotment is None:
        return None
    found = []
    for unit, point in zip(units, allotment.points, strict=True):
        there = allotment.moved.get(unit.name, {})
        share = min(1.0, sum(there.values()))
        to = max(there, key=lambda name: there[name]) if share > 1.0 - _WHOLE else ""
        found.append(Setting(point=point, moved_share=share if to else 0.0, moved_to=to))
    return found


def _kept(problem: _Problem, plan: Sequence[Setting]) -> Allotment:
    """Who does what where points and moves are those of a plan."""
    units, limits = problem.units, problem.limits
    split = split_of(units, {u.name: (s.moved_to, s.moved_share) for u, s in zip(units, plan, strict=True)})
    points = tuple(min(s.point, len(u.points) - 1) for u, s in zip(units, plan, strict=True))
    return allot_at(units, points, limits.gain_k_per_w, limits.room_k, split)


def _bounds(units: Sequence[Unit], allotment: Allotment, limits: _Limits, moved: Sequence[float]) -> list[float]:
    """Share of its time that each may be busy: as planned where it heats a limit that is reached, or has moved work.

    Moved work comes back where the others are full. Full use of these bounds until the next look stays below every
    hard limit.
    """
    watts = np.array([u.points[p].power_w for u, p in zip(units, allotment.points, strict=True)])
    left_k = limits.room_k - limits.gain_k_per_w @ (watts * allotment.busy)
    reached = left_k <= _TOUCHES * np.maximum(1.0, limits.room_k)
    concerned = (limits.gain_k_per_w[reached] > 0).any(axis=0) | (np.array(moved) > 0)
    bounds = np.where(concerned, allotment.busy, 1.0)
    burst_k = limits.burst_gain_k_per_w @ (watts * bounds)
    shares = np.minimum(1.0, limits.burst_room_k / np.maximum(burst_k, 1e-9))
    over = np.where(limits.burst_gain_k_per_w > 0, shares[:, None], 1.0)
    found: list[float] = (bounds * over.min(axis=0, initial=1.0)).tolist()
    return found


def _finished(plan: Setting, served: float, pace: float, rule: ThermalForecast) -> Setting:
    setting = Setting(point=plan.point, moved_share=plan.moved_share, moved_to=plan.moved_to)
    if pace < rule.min_pace:
        return replace(setting, pace=0.0, sample_share=rule.min_sample_share, admit_share=0.0)
    samples = 1.0 if served >= SAMPLES_BELOW else max(rule.min_sample_share, served / SAMPLES_BELOW)
    admit = 1.0 if served >= ADMIT_BELOW else served / ADMIT_BELOW
    return replace(setting, pace=1.0 if pace >= _WHOLE else pace, sample_share=samples, admit_share=admit)
