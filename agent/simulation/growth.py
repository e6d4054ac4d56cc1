"""Growth: how joules and seconds of a pass grow with the bytes of a model's weights, over the models of a scenario.

A power law y = a·W^β by least squares on logarithms, with its interval; a law that the models do not support is stated
as such with the reason.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from agent.physics.scaling import evaluate_law, fit_power_law
from agent.records import record
from agent.schema.workload import Workload
from agent.simulation.comparison import BoardResult
from agent.simulation.request import Cost

Quantity = Literal["energy", "latency"]
REFERENCE_BYTES = 1e9
CONFIDENCE = 0.95


@record(frozen=True)
class Growth:
    """One law of one placement in one phase; the numbers are None where none could be computed."""

    phase: str
    placement: str
    quantity: Quantity
    models: int
    exponent: float | None
    low: float | None
    high: float | None
    """Interval of the exponent at `CONFIDENCE`."""
    r_squared: float | None
    at_reference: float | None
    """Joules or seconds that the law gives a model of `REFERENCE_BYTES`."""
    unsupported_because: str | None


def growth(board: BoardResult, placements: tuple[str, ...]) -> tuple[Growth, ...]:
    """All laws of a board; none where fewer than three models have the phase."""
    phases = dict.fromkeys(w.phase for case in board.cases for w in case.case.passes)
    found: list[Growth] = []
    for phase in phases:
        for placement in placements:
            points = [
                (_bytes(workload), case.costs[phase, placement])
                for case in board.cases
                for workload in case.case.passes
                if workload.phase == phase and (phase, placement) in case.costs
            ]
            if len(points) > 2:
                found += [_law(phase, placement, quantity, points) for quantity in ("energy", "latency")]
    return tuple(found)


def _bytes(workload: Workload) -> float:
    return sum(s.weight_bytes + s.idle_weight_bytes for s in workload.stages)


def _law(
    phase: str, placement: str, quantity: Literal["energy", "latency"], points: list[tuple[float, Cost]]
) -> Growth:
    sizes = np.array([size for size, _ in points])
    values = np.array([cost.energy_j if quantity == "energy" else cost.latency_s for _, cost in points])
    if not (np.all(sizes > 0) and np.all(values > 0)):
        return Growth(phase, placement, quantity, len(points), None, None, None, None, None, "a figure of 0")
    report = fit_power_law({"weight_bytes": sizes}, values, confidence=CONFIDENCE)
    law = report.law
    if law is None:
        why = report.unsupported_because
        return Growth(phase, placement, quantity, len(points), None, None, None, None, None, why)
    low, high = law.exponent_intervals[0]
    return Growth(
        phase, placement, quantity, len(points), float(law.exponents[0]), float(low), float(high), law.r_squared,
        float(evaluate_law(law, {"weight_bytes": REFERENCE_BYTES})), report.unsupported_because,
    )  # fmt: skip
