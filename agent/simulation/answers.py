"""Answers: published shares of right answers at a power, beside the power that the model gives.

A placement computes the same numbers elsewhere, so it changes no answer: pass@k is taken as published, and what is
modelled is the power that it comes at. IPW = 100 · pass@k / mean power [1/W].
"""

from __future__ import annotations

from typing import Any

from agent.physics import merit
from agent.schema.scenario import Scenario
from agent.simulation.comparison import REQUEST, BoardResult


def answers(scenario: Scenario, board: BoardResult) -> list[dict[str, Any]]:
    """For each published figure and placement: mean power over the models' requests, IPW, and IPW over the baseline's.

    Mean power is joules of all requests over their seconds; models that do not fit are left out, and counted.
    """
    found = []
    for figure in scenario.answers:
        watts = {name: _mean_power_w(board, name, figure.workload) for name in scenario.placements}
        base = watts[scenario.baseline][0]
        for name, (power_w, models) in watts.items():
            known = power_w is not None and figure.pass_at_k is not None
            ipw = float(merit.intelligence_per_watt(figure.pass_at_k or 0.0, power_w or 1.0)) if known else None
            found.append({
                "board": board.profile.name, "placement": name, "models": models, "of": figure.workload or "all",
                "pass_at_k": figure.pass_at_k, "power_w": power_w, "ipw": ipw,
                "times_baseline": None if power_w is None or base is None else base / power_w,
                "published": {
                    "power_w": figure.power_w, "ipw": figure.ipw, "placement": figure.placement,
                    "times_baseline": figure.times_baseline, "source": figure.source,
                },
                "provenance": "modelled",
            })  # fmt: skip
    return found


def _mean_power_w(board: BoardResult, placement: str, workload: str | None) -> tuple[float | None, int]:
    costs = [
        case.costs[REQUEST, placement] for case in board.cases
        if (REQUEST, placement) in case.costs and workload in (None, case.case.label)
    ]  # fmt: skip
    seconds = sum(cost.latency_s for cost in costs)
    return (sum(cost.energy_j for cost in costs) / seconds if seconds > 0 else None), len(costs)
