"""Plan marks: the choice and the baselines beside the front of one's own cost tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.cli.explain import read_policy
from agent.cli.plan_problem import tell_left_out
from agent.cli.problem_file import load_problem
from agent.errors import PlacementError
from agent.placement.choice import mark
from agent.placement.limits import Constraints
from agent.placement.problem import Problem
from agent.placement.solve import solve


def marked(document: dict[str, Any], file: Path, policy: str) -> dict[str, Any]:
    """The document of `qeil plan --problem` with baselines and the choice, None where nothing keeps the power cap.

    Of the policy only the objective and the power cap count, as in `qeil explain --problem`.
    """
    wishes = read_policy(policy, None, None)
    tell_left_out(wishes)
    problem = load_problem(file)
    rows = [point["assignment"] for point in document["front"]]
    chosen: dict[str, Any] | None = None
    try:
        found = mark(problem, rows, wishes.objective, Constraints(power_cap_w=wishes.power_cap_w))
    except PlacementError as error:
        why = error.message
    else:
        energy_j, latency_s, unused = found.objectives
        chosen = {
            "assignment": list(found.assignment), "energy_j": energy_j, "latency_s": latency_s,
            "underutilisation": unused,
        }  # fmt: skip
        why = found.why
    names = list(problem.accelerators)
    return document | {
        "accelerators": names,
        "policy": wishes.name,
        "chosen": chosen,
        "why": why,
        "baselines": _baselines(problem),
    }


def _baselines(problem: Problem) -> dict[str, dict[str, float]]:
    """Greedy and everything on one accelerator, where they fit."""
    found = {}
    for method in ("greedy", *(f"single:{name}" for name in problem.accelerators)):
        try:
            energy_j, latency_s, _ = solve(problem, method).front[0].objectives
        except PlacementError:
            continue
        found[method] = {"energy_j": energy_j, "latency_s": latency_s}
    return found
