"""The physics of a placement as pure functions of numbers and arrays: no I/O, clock, thread, schema or state.

Time (`roofline`), clocks (`operating_point`), memory pressure (`pressure`), leakage (`leakage`), energy (`energy`),
heat (`thermal`, `identification`), shared bandwidth (`contention`), figures of merit (`merit`), scaling laws
(`scaling`, `student_t`) and generic priors (`coefficients`). `prediction` composes time and energy once, for everybody.

Units are SI and named in suffixes; `_c` is °C. Every function broadcasts, gives float64, and raises ValueError with the
argument's name for NaN or impossible input.
"""

from __future__ import annotations

from agent.physics.coefficients import Coefficient, arithmetic_energy, system_energy
from agent.physics.contention import concurrent_times, domain_bandwidth, shared_bandwidth
from agent.physics.energy import StageEnergy, blended_j_per_flop, energy_by_yield, stage_energy, switching_energy
from agent.physics.leakage import (
    FixedPoint,
    doubling_from_activation,
    fixed_point,
    leakage_power,
    leakage_slope,
)
from agent.physics.merit import (
    energy_coverage_efficiency,
    intelligence_per_watt,
    pass_at_k,
    price_power_performance,
)
from agent.physics.operating_point import Scaling, best_energy_clock, operating_point_scaling
from agent.physics.prediction import AcceleratorTerms, Prediction, StageLoad, predict
from agent.physics.pressure import cpq, penalty, swap_time, usable_bytes
from agent.physics.roofline import (
    CEILINGS,
    Roofline,
    attainable,
    blended_peak,
    issue_time,
    link_time,
    operational_intensity,
    partition_time,
    resident_bytes,
    ridge_point,
)
from agent.physics.scaling import FitReport, ScalingLaw, evaluate_law, fit_coverage, fit_power_law
from agent.physics.thermal import ThermalNetwork, steady_state, step, time_constants, time_to_reach, with_fan

__all__ = [
    "CEILINGS",
    "AcceleratorTerms",
    "Coefficient",
    "FitReport",
    "FixedPoint",
    "Prediction",
    "Roofline",
    "Scaling",
    "ScalingLaw",
    "StageEnergy",
    "StageLoad",
    "ThermalNetwork",
    "arithmetic_energy",
    "attainable",
    "best_energy_clock",
    "blended_j_per_flop",
    "blended_peak",
    "concurrent_times",
    "cpq",
    "domain_bandwidth",
    "doubling_from_activation",
    "energy_by_yield",
    "energy_coverage_efficiency",
    "evaluate_law",
    "fit_coverage",
    "fit_power_law",
    "fixed_point",
    "intelligence_per_watt",
    "issue_time",
    "leakage_power",
    "leakage_slope",
    "link_time",
    "operating_point_scaling",
    "operational_intensity",
    "partition_time",
    "pass_at_k",
    "penalty",
    "predict",
    "price_power_performance",
    "resident_bytes",
    "ridge_point",
    "shared_bandwidth",
    "stage_energy",
    "steady_state",
    "step",
    "swap_time",
    "switching_energy",
    "system_energy",
    "time_constants",
    "time_to_reach",
    "usable_bytes",
    "with_fan",
]
