"""`qeil explain --problem FILE.npz`: why a placement of one's own cost tables is chosen, and what would change that."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from agent.cli.explain import binding_document, flip_document, read_policy
from agent.cli.plan_problem import tell_left_out, tell_rounding
from agent.cli.problem_file import load_problem
from agent.placement.limits import Constraints
from agent.placement.reasons_front import why_point
from agent.placement.solve import solve

_UNPROVEN = "the front is the best known, not proven"
_IMPROVED = "a placement better than the one that `qeil plan` marks was met on the way; that one is explained"


def explain_problem(
    file: Path, policy: str, seed: int, power_cap_w: float | None, deadline_ms: float | None
) -> dict[str, Any]:
    """The document of `qeil explain --problem FILE --json`.

    Of the policy only the objective and the power cap count; a deadline is one only where it is given here: the
    policy's is about requests to the agent.
    """
    wishes = read_policy(policy, power_cap_w, None)
    tell_left_out(wishes)
    problem = load_problem(file)
    rounded = tell_rounding(file, problem)
    limits = Constraints(None if deadline_ms is None else deadline_ms / 1e3, wishes.power_cap_w)
    result = solve(problem, "pgsam", seed, clock=time.perf_counter)
    exact = result.exact and not rounded
    reasons = why_point(problem, result.assignments(), wishes.objective, limits, seed)
    return {
        "problem": str(file), "policy": wishes.name, "seed": seed, "exact": exact, "front": len(result.front),
        "chosen": reasons.chosen.name, "assignment": list(reasons.assignment), "why": reasons.rule,
        "choice": dataclasses.asdict(reasons.chosen),
        "runner_up": None if reasons.runner_up is None else dataclasses.asdict(reasons.runner_up),
        "parts": [dataclasses.asdict(part) for part in reasons.parts],
        "binding": [binding_document(b) for b in reasons.binding],
        "flips": [flip_document(f) for f in reasons.flips], "placements": [], "rejected": [],
        "notes": [] if exact else [_UNPROVEN, *([_IMPROVED] if reasons.improved else [])],
    }  # fmt: skip
