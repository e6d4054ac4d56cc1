"""Forecast: time, power and energy of a case from fitted coefficients, through the physics everybody shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from agent.evaluation import terms
from agent.evaluation.priors import POWER, TIME
from agent.evaluation.regression import Observation, Solution, Term, evaluate, level, overlapped
from agent.evaluation.rows import Case, Load
from agent.physics import AcceleratorTerms, StageLoad, predict
from agent.records import record

MAX_REL_UNCERTAINTY = 3.0


@record(frozen=True, slots=True)
class Coefficients:
    """Everything the fit has learned."""

    time: Solution
    power: Solution
    uncertainty_factor: float = 1.0
    """Held-out spread over what the coefficients alone would claim."""
    fitted_rows: frozenset[str] = frozenset()
    """Fingerprints of the measurements that the fit has seen."""


@record(frozen=True, slots=True)
class Phase:
    """Modelled pass of one load."""

    time_s: float
    busy_share: float
    """DASI of the pass: the share of its time that arithmetic needs."""
    ceiling: str


@record(frozen=True, slots=True)
class TimeForecast:
    """Modelled time of one query and what power needs to know of it."""

    mean_s: float
    tail_ratio: float
    busy_share: float
    bytes_per_s: float
    ceiling: str
    rel_uncertainty: float


@record(frozen=True, slots=True)
class PowerForecast:
    """Modelled mean power in the case's scope."""

    power_w: float
    rel_uncertainty: float


def _amount(term: Term, values: Mapping[str, float]) -> float:
    return term.constant * math.exp(sum(values.get(key, 0.0) for key in term.keys))


def phase(case: Case, load: Load, values: Mapping[str, float]) -> Phase:
    """One pass of a load through `physics.predict`: efficiencies on the peaks, launches and link as overhead."""
    compute = added = 0.0
    memory_s = issue_s = 0.0
    for term in terms.time_terms(case, load):
        amount = _amount(term, values)
        if term.role == "compute":
            compute += amount
        elif term.role == "added":
            added += amount
        elif term.keys[0] == "m:all":
            memory_s = amount
        else:
            issue_s = amount
    flops = load.flops + load.depthwise_flops
    # A fitted share above 1 says that a peak or a count is wrong; no prediction may rest on more than the peaks.
    compute = max(compute, flops / terms.peak_flops_per_s(case))
    memory_s = max(memory_s, load.bytes_moved / terms.bandwidth_bytes_per_s(case.site))
    ceiling = max(memory_s, issue_s)
    result = predict(
        StageLoad(flops=flops, weight_bytes=0.0, stream_bytes=load.bytes_moved, cycles=load.cycles if issue_s else 0.0),
        AcceleratorTerms(
            peak_flops_per_s=flops / compute,
            bandwidth_bytes_per_s=load.bytes_moved / memory_s,
            j_per_flop=0.0,
            j_per_byte=0.0,
            base_power_w=1.0,
            leakage_w=0.0,
            activation_ev=0.25,
            overhead_s=added + overlapped(compute, ceiling) - max(compute, ceiling),
            issue_cycles_per_s=load.cycles / issue_s if issue_s else math.inf,
        ),
        temperature_c=50.0,
    )
    time_s = float(result.roofline.time_s)
    return Phase(time_s, min(1.0, compute / time_s), str(result.roofline.binding))


def forecast_time(case: Case, coefficients: Coefficients) -> TimeForecast:
    """Mean time of one query, its published percentile over the mean, and the spread of the forecast."""
    values = coefficients.time.values
    total = busy = moved = 0.0
    longest, ceiling = -1.0, ""
    for load in case.loads:
        one = phase(case, load, values)
        total += load.times * one.time_s
        busy += load.times * one.time_s * one.busy_share
        moved += load.times * (load.bytes_moved + load.kv_bytes)
        if load.times * one.time_s > longest:
            longest, ceiling = load.times * one.time_s, one.ceiling
    factor = math.exp(sum(values.get(key, 0.0) for key in terms.time_keys(case)))
    tail = math.exp(sum(values.get(key, 0.0) for key in terms.tail_keys(case, case.statistic)))
    parts = tuple((load.times, terms.time_terms(case, load)) for load in case.loads)
    spread = _spread(Observation(1.0, parts, terms.time_keys(case)), coefficients.time, TIME)
    uncertainty = min(MAX_REL_UNCERTAINTY, coefficients.uncertainty_factor * spread)
    return TimeForecast(total * factor, tail, busy / total, moved / (total * factor), ceiling, uncertainty)


def forecast_power(case: Case, time: TimeForecast, coefficients: Coefficients) -> PowerForecast:
    """Mean power while the case runs, in the scope its row was measured in.

    The wall of a Jetson sees at least what its module draws; rows of the two may be of different software.
    """
    found = _power_in_scope(case, time, coefficients)
    if case.scope == "wall" and case.site.accelerator.kin == terms.RAILED:
        module = _power_in_scope(replace(case, scope="module"), time, coefficients)
        return max(found, module, key=lambda forecast: forecast.power_w)
    return found


def _power_in_scope(case: Case, time: TimeForecast, coefficients: Coefficients) -> PowerForecast:
    parts = ((1.0, terms.power_terms(case, time.busy_share, time.bytes_per_s)),)
    observation = Observation(1.0, parts)
    spread = _spread(observation, coefficients.power, POWER)
    return PowerForecast(
        evaluate(observation, coefficients.power.values),
        min(MAX_REL_UNCERTAINTY, coefficients.uncertainty_factor * spread),
    )


def _spread(observation: Observation, solution: Solution, spreads: Mapping[str, float]) -> float:
    """Log standard deviation: residual spread, plus the prior of each coefficient nobody measured, by its share."""
    total = evaluate(Observation(1.0, observation.parts), solution.values)
    sensitivity: dict[str, float] = dict.fromkeys(observation.keys, 1.0)
    for times, items in observation.parts:
        compute = sum(_amount(t, solution.values) for t in items if t.role == "compute")
        top = max([compute] + [_amount(t, solution.values) for t in items if t.role == "ceiling"])
        for term in items:
            amount = _amount(term, solution.values)
            binds = compute >= top if term.role == "compute" else term.role == "added" or amount >= top
            for key in term.keys if binds else ():
                sensitivity[key] = sensitivity.get(key, 0.0) + times * amount / total
    variance = solution.scale**2
    for key, share in sensitivity.items():
        if key not in solution.values:
            variance += (share * spreads.get(level(key), 0.0)) ** 2
    return math.sqrt(variance)
