"""Fitting: coefficients of time and power from cases, by regression with priors towards relatives.

Times first; power then uses the fitted times where a row states only energy.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.evaluation import priors, terms
from agent.evaluation.catalogue import Catalogue
from agent.evaluation.forecast import Coefficients, forecast_time
from agent.evaluation.regression import Observation, Solution, solve
from agent.evaluation.rows import Case, case_of
from agent.evaluation.table import Measurement
from agent.evaluation.targets import (
    energy_time,
    measured_energy_j,
    measured_latency_s,
    measured_power_w,
    measured_rate_per_s,
)

TRUST = {"A": 1.0, "A-": 1.0, "B": 1.0}
"""Weight of a row by tier; rows without an instrument behind them count half."""
OTHER_TRUST = 0.5


def cases(rows: Sequence[Measurement], catalogue: Catalogue) -> list[Case]:
    """The rows that can be predicted."""
    found = (case_of(row, catalogue.hardware, catalogue.architectures) for row in rows)
    return [case for case in found if not isinstance(case, str)]


def fit(known: Sequence[Case]) -> Coefficients:
    """Coefficients of time and power from cases."""
    time = solve(
        [o for case in known for o in time_observations(case)],
        priors.TIME,
        scale=priors.TIME_SCALE,
        minimum_rows=priors.minimum_rows(priors.TIME),
    )
    timed = Coefficients(time, Solution({}))
    watts = [power_observation(case, timed) for case in known]
    power = solve(
        [o for o in watts if o is not None],
        priors.POWER,
        scale=priors.POWER_SCALE,
        minimum_rows=priors.minimum_rows(priors.POWER),
    )
    return Coefficients(time, power, fitted_rows=frozenset(case.row.fingerprint for case in known))


def time_observations(case: Case) -> list[Observation]:
    """Mean, percentile and throughput of a row as observed times of one query; together they weigh as one row."""
    found: list[tuple[float, str]] = []
    if case.row.mean_latency_ms:
        found.append((1e-3 * case.row.mean_latency_ms, "mean"))
    latency = measured_latency_s(case)
    if latency is not None and (latency[1] != "mean" or not found):
        found.append(latency)
    rate = measured_rate_per_s(case)
    if rate is not None:
        found.append((case.unit / rate, "mean"))
    parts = tuple((load.times, terms.time_terms(case, load)) for load in case.loads)
    weight = TRUST.get(case.row.tier, OTHER_TRUST) / max(1, len(found))
    return [
        Observation(seconds, parts, terms.time_keys(case) + terms.tail_keys(case, statistic), weight, case.row.row_id)
        for seconds, statistic in found
    ]


def power_observation(case: Case, timed: Coefficients) -> Observation | None:
    """Mean power of a row: published, or energy over mean time."""
    watts = measured_power_w(case) or _power_from_energy(case, timed)
    if watts is None:
        return None
    time = forecast_time(case, timed)
    parts = ((1.0, terms.power_terms(case, time.busy_share, time.bytes_per_s)),)
    return Observation(watts, parts, (), TRUST.get(case.row.tier, OTHER_TRUST), case.row.row_id)


def _power_from_energy(case: Case, timed: Coefficients) -> float | None:
    energy_j = measured_energy_j(case)
    if energy_j is None:
        return None
    latency, rate = measured_latency_s(case), measured_rate_per_s(case)
    if energy_time(case) == "unit":
        return energy_j * rate if rate else None
    if case.row.mean_latency_ms:
        return energy_j / (1e-3 * case.row.mean_latency_ms)
    ratio = forecast_time(case, timed).tail_ratio
    return energy_j / (latency[0] / ratio) if latency else None
