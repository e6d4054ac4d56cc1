"""Predictive governor: learns the board's thermal network, looks ahead, and acts before a limit is reached.

Composes the model (`thermal_model`), the choice of settings (`thermal_choice`) and the limits with hysteresis
(`thermal_governor`), which stay in force whatever is forecast: a zone that is not learnt, or whose forecasts err, is
held to the thresholds alone, and a critical sensor that is missing, stale or implausible counts as hot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Literal

from agent.control import thermal_choice, thermal_governor, thermal_model
from agent.control.thermal_choice import Ceiling, Choice, Move, Point, Setting, Unit
from agent.control.thermal_governor import GovernorState, Level, ThermalVerdict, ZoneInput
from agent.control.thermal_model import ModelState, Sample
from agent.physics.impedance import Forecast, ImpedancePrior
from agent.records import record
from agent.schema.policy import ThermalForecast, ThermalLimits

DEMAND_MEMORY_S = 10.0
"""Time in which the memory of a demand fades; one that rises counts at once."""
MOVED_MEMORY_S = 300.0
"""And that of a demand whose work was moved elsewhere."""
USUAL_MEMORY_S = 300.0
"""Time over which the demand is averaged that points and moves should be good for in the long run."""
OUTLOOK_HORIZONS = 5.0
"""The long run, in horizons."""
SATURATED = 0.9
"""A lane busy for this share of the time it may be has more work than it can do."""
MAX_PERIOD_S = 60.0
"""A pause longer than this between two looks says nothing about how often the governor looks."""


@record(frozen=True)
class Source:
    """One accelerator as a source of heat since the last look."""

    name: str
    points: tuple[Point, ...]
    busy_share: float
    power_w: float
    moves: tuple[Move, ...] = ()


@record(frozen=True)
class Look:
    """What the governor is given: zones with their limits, networks before data, sources, and the fan's duty."""

    zones: tuple[ZoneInput, ...]
    sources: tuple[Source, ...]
    priors: Mapping[str, ImpedancePrior]
    fan: float = 0.0
    no_sensor: Literal["derate", "run", "refuse"] = "run"


@record(frozen=True)
class PredictiveState:
    """Memory of the predictive governor."""

    limits: GovernorState = field(default_factory=GovernorState)
    model: ModelState = field(default_factory=ModelState)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    demand: Mapping[str, float] = field(default_factory=dict)
    usual: Mapping[str, float] = field(default_factory=dict)
    """Mean of the demand over `USUAL_MEMORY_S`."""
    considered_s: float = float("-inf")
    """When points and moves were last thought over."""
    limited_s: Mapping[str, float] = field(default_factory=dict)
    """When each accelerator was last limited by a forecast."""
    causes: Mapping[str, str] = field(default_factory=dict)
    looked_s: float | None = None
    period_s: float = 1.0


@record(frozen=True)
class ZoneView:
    """A zone as status shows it; temperatures in °C, None where nothing is known."""

    name: str
    temperature_c: float | None
    forecast_c: float | None
    """At the horizon, if the powers stay as they are."""
    limit_c: float
    ambient_c: float | None
    """What it would settle at without work, as far as learnt."""
    k_per_w: float | None
    """Of the source that heats it most."""
    error_c: float | None
    """Root mean square of its one-step forecasts."""
    learnt: bool
    doubt: str = ""


@record(frozen=True)
class Decision:
    """Verdict by accelerator, and how each zone is seen."""

    verdicts: Mapping[str, ThermalVerdict]
    zones: tuple[ZoneView, ...]


def step(state: PredictiveState, look: Look, limits: ThermalLimits, now_s: float) -> tuple[PredictiveState, Decision]:
    """Learn from one round of readings and decide. Times are monotonic seconds."""
    rule = limits.forecast
    names = [source.name for source in look.sources]
    if rule is None:
        kept, verdicts = thermal_governor.step(state.limits, look.zones, names, limits, look.no_sensor, now_s)
        views = tuple(_plain_view(zone, limits) for zone in look.zones)
        return PredictiveState(limits=kept, looked_s=now_s), Decision(verdicts, views)
    state = _timed(state, now_s)
    powers = [source.power_w for source in look.sources]
    samples = {z.name: Sample(z.temperature_c, now_s - z.age_s) for z in look.zones}
    model = thermal_model.observe(state.model, samples, look.priors, powers, look.fan, now_s)
    judged = tuple(_judged(zone, model, rule) for zone in look.zones)
    kept, verdicts = thermal_governor.step(state.limits, judged, names, limits, look.no_sensor, now_s)
    times = _grid(rule.horizon_s, state.period_s)
    forecasts = thermal_model.forecasts(model, look.priors, times, look.fan)
    ceilings = [_ceiling(z, forecasts[z.name], limits, rule) for z in judged if z.forecast]
    demand = _demand(state, look.sources, now_s)
    usual = _usual(state, demand, now_s)
    units = [
        Unit(s.name, s.points, demand[s.name], s.moves, min(1.0, usual[s.name] / demand[s.name])) for s in look.sources
    ]
    held = now_s - state.considered_s < limits.min_dwell_s
    choice = thermal_choice.choose(units, ceilings, rule, _possible(state.settings, look.sources), held=held)
    state = replace(
        state,
        limits=kept,
        model=model,
        settings=choice.settings,
        demand=demand,
        usual=usual,
        considered_s=state.considered_s if held else now_s,
        looked_s=now_s,
    )
    state = _remember(state, choice, ceilings, now_s)
    merged = {name: _merged(verdicts[name], name, units, state, limits, now_s) for name in names}
    views = tuple(_view(zone, model, forecasts, powers, limits, look.priors) for zone in judged)
    return state, Decision(merged, views)


def _timed(state: PredictiveState, now_s: float) -> PredictiveState:
    if state.looked_s is None:
        return state
    gone_s = min(MAX_PERIOD_S, max(0.0, now_s - state.looked_s))
    return replace(state, period_s=state.period_s + 0.1 * (gone_s - state.period_s))


def _possible(settings: Mapping[str, Setting], sources: Sequence[Source]) -> dict[str, Setting]:
    """The settings in force, without points that are offered no more: an actuator fails, a policy forbids them."""
    last = {source.name: len(source.points) - 1 for source in sources}
    return {name: replace(s, point=min(s.point, last.get(name, s.point))) for name, s in settings.items()}


def _grid(horizon_s: float, period_s: float) -> list[float]:
    """Two periods ahead – the soonest that another look can mend – wider steps up to the horizon, and the long run."""
    first = max(0.2, 2.0 * period_s)
    return [
        first,
        *(t for t in (0.25 * horizon_s, 0.5 * horizon_s, horizon_s) if t > first),
        OUTLOOK_HORIZONS * horizon_s,
    ]


def _judged(zone: ZoneInput, model: ModelState, rule: ThermalForecast) -> ZoneInput:
    memory = model.zones.get(zone.name)
    if memory is None or zone.temperature_c is None:
        return zone
    if memory.doubt:
        # Without a sensor that is not critical work goes on: not so while what it says is hot, believed or not.
        return replace(zone, temperature_c=None if zone.critical else zone.temperature_c, fault=memory.doubt)
    if not thermal_model.trusted(memory, rule.max_error_c):
        return zone
    return replace(zone, temperature_c=thermal_model.judged_c(memory, zone.temperature_c), forecast=True)


def _ceiling(zone: ZoneInput, forecast: Forecast, limits: ThermalLimits, rule: ThermalForecast) -> Ceiling:
    hard_c = thermal_governor.hard_limit_c(zone.trip_c, limits, forecast=True)
    return Ceiling(zone.name, forecast, hard_c - rule.headroom_c, hard_c)


def _demand(state: PredictiveState, sources: Sequence[Source], now_s: float) -> dict[str, float]:
    """Work that waits, as a share of what the fastest point can do: rises at once, fades slowly.

    Work that was moved is seen where it went, so its home keeps the memory of it for longer and the other one's own
    demand is what is left there.
    """
    gone_s = 0.0 if state.looked_s is None else max(0.0, now_s - state.looked_s)
    settings = {source.name: state.settings.get(source.name, Setting()) for source in sources}
    guests = dict.fromkeys(settings, 0.0)
    for source in sources:
        setting = settings[source.name]
        slowdown = next((m.slowdown for m in source.moves if m.to == setting.moved_to), 0.0)
        if setting.moved_to in guests:
            guests[setting.moved_to] += state.demand.get(source.name, 0.0) * setting.moved_share * slowdown
    found = {}
    for source in sources:
        setting = settings[source.name]
        speed = source.points[min(setting.point, len(source.points) - 1)].speed_share
        full = source.busy_share >= SATURATED * setting.pace or setting.pace == 0.0
        limited = setting.pace < 1.0 or source.busy_share >= SATURATED
        wanted = 1.0 if full and limited else min(1.0, source.busy_share * speed)
        memory_s = MOVED_MEMORY_S if setting.moved_share else DEMAND_MEMORY_S
        faded = state.demand.get(source.name, 1.0) * math.exp(-gone_s / memory_s)
        found[source.name] = max(0.05, wanted - min(wanted, guests[source.name]), faded)
    return found


def _usual(state: PredictiveState, demand: Mapping[str, float], now_s: float) -> dict[str, float]:
    gone_s = 0.0 if state.looked_s is None else max(0.0, now_s - state.looked_s)
    kept = math.exp(-gone_s / USUAL_MEMORY_S)
    return {name: kept * state.usual.get(name, share) + (1.0 - kept) * share for name, share in demand.items()}


def _remember(state: PredictiveState, choice: Choice, ceilings: Sequence[Ceiling], now_s: float) -> PredictiveState:
    limited, causes = dict(state.limited_s), dict(state.causes)
    limit_c = next((c.ceiling_c for c in ceilings if c.zone == choice.zone), 0.0)
    for name, setting in choice.settings.items():
        if setting != Setting():
            limited[name] = now_s
            causes[name] = (
                f"forecast: {choice.zone} would reach {choice.unchecked_c:.1f} °C (limit {limit_c:.1f}) within "
                f"{choice.at_s:.0f} s at full rate" if choice.zone
                else "forecast: a sudden load would pass the hard limit before the next look"
            )  # fmt: skip
    return replace(state, limited_s=limited, causes=causes)


def _merged(
    verdict: ThermalVerdict,
    name: str,
    units: Sequence[Unit],
    state: PredictiveState,
    limits: ThermalLimits,
    now_s: float,
) -> ThermalVerdict:
    """The stricter of the limits' verdict and the forecast's setting."""
    unit = next(u for u in units if u.name == name)
    setting = state.settings[name]
    recently = now_s - state.limited_s.get(name, float("-inf")) < limits.min_dwell_s
    if verdict.level is Level.HALT or not (recently or setting != Setting()):
        return verdict
    if setting.pace == 0.0:
        return ThermalVerdict(False, 0.0, Level.HALT, state.causes[name], 0.0)
    point = unit.points[setting.point].name if setting.point else ""
    share = max(0.01, setting.admit_share * (1.0 - setting.moved_share))
    cause = verdict.cause or f"{state.causes[name]}: {_said(setting, point)}"
    return ThermalVerdict(
        True, min(verdict.capacity_share, share), max(verdict.level, Level.DERATE), cause, setting.pace, point,
        setting.sample_share,
    )  # fmt: skip


def _said(setting: Setting, point: str) -> str:
    acts = []
    if setting.moved_share:
        acts.append(f"{setting.moved_share:.0%} of its work goes to {setting.moved_to}")
    if point:
        acts.append(f"runs at {point}")
    if setting.pace < 1.0:
        acts.append(f"paced to {setting.pace:.0%}")
    if setting.sample_share < 1.0:
        acts.append(f"samples cut to {setting.sample_share:.0%}")
    if setting.admit_share < 1.0:
        acts.append(f"admits {setting.admit_share:.0%}")
    return ", ".join(acts) or "released, watched"


def _plain_view(zone: ZoneInput, limits: ThermalLimits) -> ZoneView:
    limit_c = thermal_governor.hard_limit_c(zone.trip_c, limits, forecast=False)
    return ZoneView(zone.name, zone.temperature_c, None, limit_c, None, None, None, False, zone.fault or "")


def _view(
    zone: ZoneInput,
    model: ModelState,
    forecasts: Mapping[str, Forecast],
    powers: Sequence[float],
    limits: ThermalLimits,
    priors: Mapping[str, ImpedancePrior],
) -> ZoneView:
    memory = model.zones.get(zone.name)
    if memory is None or zone.name not in priors:
        return _plain_view(zone, limits)
    network = memory.network
    limit_c = thermal_governor.hard_limit_c(zone.trip_c, limits, forecast=zone.forecast)
    ahead_c = float(forecasts[zone.name].temperature_c(powers)[-2])
    return ZoneView(
        zone.name, zone.temperature_c, ahead_c if zone.forecast else None, limit_c, network.ambient_c,
        float(network.resistance_k_per_w().max()), math.sqrt(network.innovation_c2), zone.forecast, zone.fault or "",
    )  # fmt: skip
