"""Targets: the measured quantities of a case, and how each follows from a forecast of time and power.

MLPerf: SingleStream is the p90 latency of a query, MultiStream the p99 of a query of 8 samples, Offline a throughput;
average power is energy over mean latency.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from agent.evaluation.forecast import Coefficients, forecast_power, forecast_time
from agent.evaluation.rows import Case
from agent.records import record

Quantity = Literal["latency", "throughput", "power", "energy"]
QUANTITIES: tuple[Quantity, ...] = ("latency", "throughput", "power", "energy")
UNITS: Mapping[str, str] = MappingProxyType({"latency": "ms", "throughput": "1/s", "power": "W", "energy": "J"})


@record(frozen=True, slots=True)
class Comparison:
    """One measured number next to the modelled one; units by quantity: ms, 1/s, W, J."""

    row_id: str
    quantity: Quantity
    measured: float
    predicted: float
    rel_uncertainty: float

    @property
    def ape(self) -> float:
        """Absolute error over the measured value."""
        return abs(self.predicted - self.measured) / self.measured


def measured_latency_s(case: Case) -> tuple[float, str] | None:
    """Published latency of a query and its statistic."""
    row = case.row
    if row.latency_ms:
        return 1e-3 * row.latency_ms, case.statistic
    return (1e-3 * row.mean_latency_ms, "mean") if row.mean_latency_ms else None


def measured_rate_per_s(case: Case) -> float | None:
    """Published tokens or samples per second."""
    return case.row.tokens_per_s or case.row.throughput_ips


def measured_power_w(case: Case) -> float | None:
    """Published mean power, else the one the table derives from a log."""
    return case.row.power_w or case.row.derived_power_w


def measured_energy_j(case: Case) -> float | None:
    """Published energy, else the derived one."""
    return case.row.energy_j or case.row.derived_energy_j


def energy_time(case: Case) -> Literal["query", "unit"]:
    """What the row's joules are per: its query (sample, 8 samples, prompt), or one unit of throughput."""
    per_unit = measured_latency_s(case) is None or case.row.energy_unit.startswith("derived J/inference")
    return "unit" if per_unit else "query"


def compare(case: Case, coefficients: Coefficients) -> list[Comparison]:
    """Every measured quantity of the case next to its forecast."""
    time = forecast_time(case, coefficients)
    found = []
    latency = measured_latency_s(case)
    if latency is not None:
        ratio = time.tail_ratio if latency[1] == case.statistic else 1.0
        found.append(_comparison(case, "latency", 1e3 * latency[0], 1e3 * time.mean_s * ratio, time.rel_uncertainty))
    rate = measured_rate_per_s(case)
    if rate is not None:
        found.append(_comparison(case, "throughput", rate, case.unit / time.mean_s, time.rel_uncertainty))
    power_w, energy_j = measured_power_w(case), measured_energy_j(case)
    if case.scope == "unknown" or (power_w is None and energy_j is None):
        return found
    power = forecast_power(case, time, coefficients)
    if power_w is not None:
        found.append(_comparison(case, "power", power_w, power.power_w, power.rel_uncertainty))
    if energy_j is not None:
        seconds = time.mean_s if energy_time(case) == "query" else time.mean_s / case.unit
        both = (time.rel_uncertainty**2 + power.rel_uncertainty**2) ** 0.5
        found.append(_comparison(case, "energy", energy_j, power.power_w * seconds, both))
    return found


def _comparison(case: Case, quantity: Quantity, measured: float, predicted: float, spread: float) -> Comparison:
    return Comparison(case.row.row_id, quantity, measured, predicted, spread)
