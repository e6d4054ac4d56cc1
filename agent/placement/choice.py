"""Choice: the one placement that is marked, the same wherever a front is shown, explained, drawn or compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.placement.capped import nearest_to_cap
from agent.placement.limits import Constraints, kept_by_all, limits_on
from agent.placement.pareto import nondominated
from agent.placement.problem import Floats, Problem
from agent.placement.selection import select
from agent.records import record
from agent.schema.policy import Objective

Objectives = tuple[float, float, float]


@record(frozen=True)
class Marked:
    """The chosen placement and the next best: assignment, and energy [J], latency [s], under-utilisation."""

    assignment: tuple[int, ...]
    objectives: Objectives
    runner_up: tuple[int, ...] | None
    why: str


def pool(problem: Problem, rows: ArrayLike, limits: Constraints) -> NDArray[np.int8]:
    """What is chosen among: the front, and under a power cap also what keeps it off the front, each once, in order."""
    known = np.asarray(rows, dtype=np.int8).reshape(-1, problem.stage_count)
    if limits.power_cap_w is not None:
        known = np.concatenate([known, nearest_to_cap(problem, known, limits.power_cap_w)])
    return np.unique(known, axis=0)


def mark(problem: Problem, rows: ArrayLike, objective: Objective, limits: Constraints) -> Marked:
    """Choose among the assignments `rows` [n, L] of a front.

    Raises PlacementError where nothing keeps the limits, with the limit that binds and its smallest relaxation.
    """
    known = pool(problem, rows, limits)
    points = problem.objectives(known)
    known = known[undominated(points, limits)]
    points = problem.objectives(known)
    choice = select(points, objective, limits)
    index = choice.index or 0  # never None without a placement in force
    energy_j, latency_s, unused = points[index].tolist()
    second = None if choice.runner_up is None else tuple(known[choice.runner_up].tolist())
    return Marked(tuple(known[index].tolist()), (energy_j, latency_s, unused), second, choice.why)


def undominated(points: Floats, limits: Constraints) -> NDArray[np.intp]:
    """Indices of what no other one beats that keeps the limits as well; of all where none keeps them.

    A knee depends on the whole set, so that a set of which more was found than the front must be cut down to it.
    """
    kept = np.flatnonzero(kept_by_all(limits_on(points, limits), len(points)))
    if not len(kept):
        return np.arange(len(points))
    found: NDArray[np.intp] = kept[nondominated(points[kept])]
    return found
