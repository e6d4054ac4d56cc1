"""Warm re-plan: after a fault, heat or a changed policy, start from placements that were good before.

`repair` is the fast part: it makes feasible placements out of old ones within milliseconds. `replan` then searches
from them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.errors import PlacementError
from agent.placement.infeasible import diagnose, feasible_assignment
from agent.placement.pareto import Archive
from agent.placement.problem import Bools, Floats, Problem
from agent.placement.solve import Result, solve

WARM_LIMIT = 256
"""Most old placements that are used: more of them delay the first plan more than they improve it."""
_MEMORY_MOVES = 64


def without(problem: Problem, lost: Collection[str]) -> Problem:
    """The problem with some accelerators out of use.

    Raises:
        PlacementError: an unknown name, or a stage that no other accelerator may run.
    """
    unknown = sorted(set(lost) - set(problem.accelerators))
    if unknown:
        raise PlacementError(f"no accelerator {unknown[0]!r} among {', '.join(problem.accelerators)}")
    allowed = problem.allowed & ~np.isin(np.array(problem.accelerators), list(lost))
    stranded = np.flatnonzero(~allowed.any(axis=1))
    if len(stranded):
        name = problem.stages[int(stranded[0])]
        raise PlacementError(
            f"stage {name!r} may run only on {', '.join(sorted(lost))}; allow it on another accelerator",
            stage=int(stranded[0]),
        )
    return replace(problem, allowed=allowed, memory_domain=problem.domain)


def thin(assignments: NDArray[np.int8], count: int = WARM_LIMIT) -> NDArray[np.int8]:
    """At most `count` of the assignments of a front, evenly spread along it, ends included."""
    if len(assignments) <= count:
        return assignments
    chosen = np.linspace(0, len(assignments) - 1, count).round().astype(np.intp)
    result: NDArray[np.int8] = assignments[chosen]
    return result


def repair(problem: Problem, warm: NDArray[np.int8]) -> Archive:
    """Feasible, mutually non-dominated placements made from old ones; at least one, if one exists.

    Stages on a pair that is no longer allowed go, once for each weighting of energy and latency, to the cheapest
    accelerator that may run them; then stages leave overfull memory domains, the cheapest move per byte first.

    Raises:
        PlacementError: nothing fits.
    """
    archive = Archive(problem.stage_count, limit=4 * WARM_LIMIT)
    rows = thin(warm)
    if len(rows):
        moved = _moved(problem, rows)
        fits = problem.feasible(moved)
        archive.merge(problem.objectives(moved[fits]), moved[fits])
        if not len(archive):
            relieved = _relieved(problem, moved[:: max(len(moved) // 16, 1)])
            relieved = relieved[problem.feasible(relieved)]
            archive.merge(problem.objectives(relieved), relieved)
    if not len(archive):
        row = feasible_assignment(problem)
        if row is None:
            raise diagnose(problem).error()
        archive.merge(problem.objectives(row), row[None, :])
    return archive


def replan(
    problem: Problem,
    warm: Sequence[Sequence[int]] | NDArray[np.int8],
    seed: int = 0,
    evaluations: int | None = None,
    budget_s: float | None = None,
    clock: Callable[[], float] | None = None,
) -> Result:
    """Front of the changed problem by method pgsam, started from repaired old placements; arguments as for `solve`."""
    old = np.asarray(warm, dtype=np.int8).reshape(-1, problem.stage_count)
    start = repair(problem, old).assignments
    # Too little time for a certificate: it would take most of what the search needs.
    return solve(problem, "pgsam", seed, evaluations, budget_s, clock, warm=start, certify=budget_s is None)


def _preferences(problem: Problem) -> list[Floats]:
    """Cost tables [L, D] by which a displaced stage chooses: energy, latency, their product, idle share."""
    idle = problem.busy_den - problem.busy_util_num
    tables = (problem.energy, problem.latency, problem.energy * problem.latency, idle)
    return [np.where(problem.allowed, table, np.inf) for table in tables]


def _moved(problem: Problem, rows: NDArray[np.int8]) -> NDArray[np.int8]:
    """Rows that nothing happened to, then the others, once for each preference."""
    permitted = problem.allowed[np.arange(problem.stage_count), rows.astype(np.intp)]
    kept = permitted.all(axis=1)
    displaced, stays = rows[~kept], permitted[~kept]
    # Equal ones are left to the archive: sorting whole rows takes longer than all the rest of a repair.
    parts = [np.where(stays, displaced, cost.argmin(axis=1).astype(np.int8)) for cost in _preferences(problem)]
    return np.concatenate([rows[kept], *parts])


def _relieved(problem: Problem, rows: NDArray[np.int8]) -> NDArray[np.int8]:
    """Rows with single stages moved out of overfull domains, in lockstep, until they fit or no move helps."""
    rows = rows.copy()
    each, stage = np.arange(len(rows)), np.arange(problem.stage_count)
    cost = problem.energy * problem.latency
    moves = 0
    while moves < _MEMORY_MOVES and (over := (used := problem.memory_used(rows)) > problem.capacity).any():
        moves += 1
        place = rows.astype(np.intp)
        leaving: Bools = over[each[:, None], problem.domain[place]]
        room = (problem.capacity - used)[:, problem.domain][:, None, :]
        fits = leaving[:, :, None] & problem.allowed & (problem.memory <= room)
        price = (cost - cost[stage, place][:, :, None]) / np.maximum(problem.memory[stage, place][:, :, None], 1e-300)
        flat = np.where(fits, price, np.inf).reshape(len(rows), -1)
        best = flat.argmin(axis=1)
        can = np.isfinite(flat[each, best])
        if not can.any():
            break
        rows[each[can], best[can] // problem.accelerator_count] = best[can] % problem.accelerator_count
    return rows
