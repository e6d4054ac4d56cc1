"""Selection: one point of a front by the owner's wishes, stable against near-equal alternatives.

How two points compare is `agent.placement.preference`; here are constraints, the runner-up and the placement in force.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from agent.placement.limits import Constraints, infeasible, kept_by_all, limits_on
from agent.placement.preference import COLUMN, best_first, frame, scores
from agent.placement.problem import Floats
from agent.records import record
from agent.schema.policy import Objective

__all__ = ["Choice", "Constraints", "Incumbent", "select"]


@record(frozen=True)
class Incumbent:
    """The placement in force: its objectives under the present tables, and what leaving it costs.

    `switch_energy_j` and `switch_latency_s` are the cost of a change (loading, warm-up) spread over the requests that
    are expected to profit from it. A change must then still improve the score by `hysteresis`.
    """

    objectives: tuple[float, float, float]
    hysteresis: float = 0.02
    switch_energy_j: float = 0.0
    switch_latency_s: float = 0.0
    temperature_c: float | None = None
    quality: float | None = None


@record(frozen=True)
class Choice:
    """`index` into the front, or None: the incumbent stays. `score` of the choice: lower is better."""

    index: int | None
    score: float | None
    runner_up: int | None
    why: str


def select(
    points: ArrayLike,
    objective: Objective,
    constraints: Constraints | None = None,
    incumbent: Incumbent | None = None,
    temperature_c: ArrayLike | None = None,
    quality: ArrayLike | None = None,
    request_s: ArrayLike | None = None,
) -> Choice:
    """Choose one of `points` [n, 3] (energy J, latency s, under-utilisation).

    Args:
        points: the front.
        objective: method, weights, order and tolerance of the policy.
        constraints: limits; `temperature_cap_c` needs `temperature_c`, `quality_floor` needs `quality`.
        incumbent: the placement in force, which stays unless the gain is worth the change.
        temperature_c: predicted hottest junction of each point [n].
        quality: task quality of each point [n], higher is better.
        request_s: seconds of one request [n], where the latency of `points` is a pipelined period.

    Raises:
        PlacementError: no point keeps all constraints; names the binding one and its smallest relaxation.
        ValueError: an empty front, or a constraint without its values.
    """
    rows = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    if not len(rows):
        raise ValueError("the front is empty")
    wanted = constraints or Constraints()
    limits = limits_on(rows, wanted, temperature_c, quality, request_s)
    kept = kept_by_all(limits, len(rows))
    stays = incumbent is not None and _incumbent_keeps(incumbent, wanted)
    if not kept.any() and not stays:
        raise infeasible(limits)
    candidates = np.flatnonzero(kept)
    # A knee is one of what may be chosen: what breaks a limit must not move it.
    within = frame(rows[candidates] if len(candidates) else rows)
    costs = rows[candidates]
    if incumbent is not None:
        costs = costs + np.array([incumbent.switch_energy_j, incumbent.switch_latency_s, 0.0])
    order = best_first(costs, objective, within, 2)
    best = [int(i) for i in candidates[order]]
    if incumbent is not None and stays:
        reason = _stays(incumbent, costs[order], objective, within)
        if reason is not None:
            score = _score(np.array([incumbent.objectives]), objective, within)
            return Choice(None, score, best[0] if best else None, reason)
    score = _score(costs[order[:1]], objective, within)
    return Choice(best[0], score, best[1] if len(best) > 1 else None, _why(objective, len(candidates)))


def _score(row: Floats, objective: Objective, within: tuple[Floats, Floats]) -> float | None:
    return None if objective.method == "lexicographic" else float(scores(row, objective, within)[0])


def _why(objective: Objective, count: int) -> str:
    how = {"knee": "closest to the ideal", "weights": "best weighted product"}.get(objective.method)
    return f"{how or 'best by ' + ', then '.join(objective.order)} of {count} admissible"


def _stays(incumbent: Incumbent, others: Floats, objective: Objective, within: tuple[Floats, Floats]) -> str | None:
    """Why the placement in force stays against the first of the others; None where it goes."""
    if not len(others):
        return "stays: no other keeps the constraints"
    own = np.asarray(incumbent.objectives, dtype=np.float64)
    if objective.method == "lexicographic":
        slack = 1.0 + objective.tolerance + incumbent.hysteresis
        # The first objective that tells the two apart decides; if none does, there is no reason to move.
        for column in (COLUMN[name] for name in objective.order):
            if own[column] > others[0, column] * slack:
                return None
            if own[column] * slack < others[0, column]:
                return "stays: better in the objective that decides"
        return "stays: no objective tells the others apart from it"
    now, then = scores(np.stack([own, others[0]]), objective, within)
    if now - then <= incumbent.hysteresis:
        return f"stays: no other is better by more than {incumbent.hysteresis:g}"
    return None


def _incumbent_keeps(incumbent: Incumbent, wanted: Constraints) -> bool:
    row = np.asarray(incumbent.objectives, dtype=np.float64).reshape(1, 3)
    if wanted.temperature_cap_c is not None and incumbent.temperature_c is None:
        return False
    if wanted.quality_floor is not None and incumbent.quality is None:
        return False
    limits = limits_on(row, wanted, [incumbent.temperature_c or 0.0], [incumbent.quality or 0.0])
    return all(bool(limit.kept()[0]) for limit in limits)
