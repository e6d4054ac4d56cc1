"""Thermal governor: turns zone temperatures into a permit and a capacity share per accelerator.

Owns the thresholds with hysteresis and dwell. Fails towards cool: a declared critical zone without a fresh,
plausible reading counts as hot. Kernel and firmware trips stay armed; this is the second line of defence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import IntEnum
from typing import Literal

from agent.records import record
from agent.schema.policy import ThermalLimits

LEARNT_HYSTERESIS_C = 1.0
"""Release of a zone whose network is learnt: its forecast holds it below the limit from there on."""


class Level(IntEnum):
    """How far a zone is into its limits; a higher level is stricter."""

    NOMINAL = 0
    DERATE = 1
    HALT = 2


@record(frozen=True)
class ZoneInput:
    """One zone as seen now."""

    name: str
    temperature_c: float | None
    fault: str | None
    age_s: float
    critical: bool
    accelerators: tuple[str, ...]
    """Accelerators it speaks for; empty: all of them."""
    trip_c: float | None = None
    """Lowest trip point of the kernel or firmware: work stops `hysteresis_c` below it."""
    forecast: bool = False
    """Its network is learnt: forecasts act before the hard limit, so the soft one does not."""


@record(frozen=True)
class ZoneState:
    """Memory of one zone."""

    level: Level = Level.NOMINAL
    changed_s: float = float("-inf")
    cause: str = ""


@record(frozen=True)
class GovernorState:
    """Memory of the governor."""

    zones: Mapping[str, ZoneState] = field(default_factory=dict)


@record(frozen=True)
class ThermalVerdict:
    """What one accelerator may do, and why."""

    permit: bool
    capacity_share: float
    """Share of the requests it takes before others do, and of the admitted concurrency."""
    level: Level
    cause: str
    pace: float = 1.0
    """Share of its time that it may be busy."""
    operating_point: str = ""
    """Name of the point it should run at; empty: its fastest."""
    sample_share: float = 1.0
    """Share of the budget of repeated samples."""


def step(
    state: GovernorState,
    zones: Sequence[ZoneInput],
    accelerators: Sequence[str],
    limits: ThermalLimits,
    no_sensor: Literal["derate", "run", "refuse"],
    now_s: float,
) -> tuple[GovernorState, dict[str, ThermalVerdict]]:
    """Judge every zone, then give each accelerator the strictest verdict of the zones that speak for it.

    Args:
        state: what the last step returned.
        zones: every declared zone; none at all means the machine never had a sensor.
        accelerators: names to give verdicts for.
        limits: soft and hard limit, hysteresis, dwell (°C, s) of the policy in force.
        no_sensor: the policy's rule for accelerators that no zone speaks for.
        now_s: monotonic time.
    """
    judged = {zone.name: _judge(state.zones.get(zone.name, ZoneState()), zone, limits, now_s) for zone in zones}
    verdicts = {}
    for accelerator in accelerators:
        speaking = [judged[z.name] for z in zones if not z.accelerators or accelerator in z.accelerators]
        verdicts[accelerator] = _verdict(speaking, limits, no_sensor)
    return GovernorState(judged), verdicts


def _judge(previous: ZoneState, zone: ZoneInput, limits: ThermalLimits, now_s: float) -> ZoneState:
    blind = zone.temperature_c is None or zone.age_s > limits.stale_after_s
    if blind:
        if not zone.critical:
            return _move(previous, Level.NOMINAL, "", limits, now_s)
        why = zone.fault or f"no reading for {zone.age_s:.1f} s"
        return _move(previous, Level.HALT, f"critical sensor {zone.name}: {why}, counted as hot", limits, now_s)
    temperature_c = zone.temperature_c
    assert temperature_c is not None  # noqa: S101  (narrowing: blind is false)
    hard_c = hard_limit_c(zone.trip_c, limits, forecast=zone.forecast)
    soft_c = hard_c if zone.forecast else min(limits.soft_c, hard_c)
    wanted = _level(temperature_c, soft_c, hard_c)
    if wanted < previous.level:
        release_c = min(limits.hysteresis_c, LEARNT_HYSTERESIS_C) if zone.forecast else limits.hysteresis_c
        wanted = max(wanted, min(previous.level, _level(temperature_c + release_c, soft_c, hard_c)))
    cause = f"{zone.name} at {temperature_c:.1f} °C (soft {soft_c:g}, hard {hard_c:g})" if wanted else ""
    return _move(previous, wanted, cause, limits, now_s)


def hard_limit_c(trip_c: float | None, limits: ThermalLimits, *, forecast: bool) -> float:
    """Temperature at which permits are withheld: the policy's, or a margin below the lowest trip."""
    if trip_c is None:
        return limits.hard_c
    margin_c = limits.forecast.trip_margin_c if forecast and limits.forecast is not None else limits.hysteresis_c
    return min(limits.hard_c, trip_c - margin_c)


def _level(temperature_c: float, soft_c: float, hard_c: float) -> Level:
    if temperature_c >= hard_c:
        return Level.HALT
    return Level.DERATE if temperature_c >= soft_c else Level.NOMINAL


def _move(previous: ZoneState, wanted: Level, cause: str, limits: ThermalLimits, now_s: float) -> ZoneState:
    if wanted == previous.level:
        return ZoneState(wanted, previous.changed_s, cause)
    if wanted < previous.level and now_s - previous.changed_s < limits.min_dwell_s:
        return ZoneState(previous.level, previous.changed_s, previous.cause)
    return ZoneState(wanted, now_s, cause)


def _verdict(
    zones: Sequence[ZoneState], limits: ThermalLimits, no_sensor: Literal["derate", "run", "refuse"]
) -> ThermalVerdict:
    if not zones:
        if no_sensor == "refuse":
            return ThermalVerdict(False, 0.0, Level.HALT, "no thermal sensor, and the policy refuses to run without")
        if no_sensor == "derate":
            return ThermalVerdict(True, limits.derate_share, Level.DERATE, "no thermal sensor: derated by policy")
        return ThermalVerdict(True, 1.0, Level.NOMINAL, "")
    worst = max(zones, key=lambda z: z.level)
    if worst.level is Level.HALT:
        return ThermalVerdict(False, 0.0, Level.HALT, worst.cause)
    share = limits.derate_share if worst.level is Level.DERATE else 1.0
    return ThermalVerdict(True, share, worst.level, worst.cause)
