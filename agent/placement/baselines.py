"""Baselines: everything on one accelerator, uniform random search, and exhaustive search of tiny problems."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from agent.errors import PlacementError
from agent.placement.pareto import Archive
from agent.placement.problem import Problem

BRUTE_LIMIT = 200_000
"""Most assignments that `brute_force` enumerates."""
_BATCH = 2048


def single(problem: Problem, accelerator: str) -> NDArray[np.int8]:
    """Assignment [L] with every stage on one accelerator; what is forbidden there goes to the fastest that may run it.

    Raises:
        PlacementError: the accelerator is unknown (with a suggestion), or the assignment does not fit in memory.
    """
    if accelerator not in problem.accelerators:
        close = difflib.get_close_matches(accelerator, problem.accelerators, 1, 0.4)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise PlacementError(
            f"no accelerator {accelerator!r} among {', '.join(problem.accelerators)}{hint}", accelerator=accelerator
        )
    at = problem.accelerators.index(accelerator)
    fastest = np.where(problem.allowed, problem.latency, np.inf).argmin(axis=1)
    rows: NDArray[np.int8] = np.where(problem.allowed[:, at], at, fastest).astype(np.int8)
    if not problem.feasible(rows)[0]:
        used = problem.memory_used(rows)[0]
        domain = int((used - problem.capacity).argmax())
        raise PlacementError(
            f"the model on {accelerator!r} alone needs {used[domain]:.6g} bytes in memory domain {domain}, "
            f"which has {problem.capacity[domain]:.6g}",
            accelerator=accelerator,
            domain=domain,
        )
    return rows


def random_search(
    problem: Problem, rng: np.random.Generator, evaluations: int, stop: Callable[[], bool] | None = None
) -> tuple[Archive, int]:
    """Archive of `evaluations` assignments drawn uniformly from the allowed pairs, and how many were drawn."""
    archive = Archive(problem.stage_count, limit=8000)
    drawn = 0
    while drawn < evaluations and not (stop is not None and stop()):
        count = min(_BATCH, evaluations - drawn)
        rows = random_rows(problem.allowed, rng, count)
        drawn += count
        rows = rows[problem.feasible(rows)]
        archive.merge(problem.objectives(rows), rows)
    return archive, drawn


def random_rows(allowed: NDArray[np.bool_], rng: np.random.Generator, count: int) -> NDArray[np.int8]:
    """`count` assignments [n, L], each stage drawn uniformly from its allowed accelerators."""
    draw = np.where(allowed, rng.random((count, *allowed.shape)), -1.0)
    rows: NDArray[np.int8] = draw.argmax(axis=2).astype(np.int8)
    return rows


def brute_force(problem: Problem) -> Archive:
    """Exact front by enumeration.

    Raises:
        ValueError: more than `BRUTE_LIMIT` assignments.
    """
    stages, count = problem.stage_count, problem.accelerator_count
    total = count**stages
    if total > BRUTE_LIMIT:
        raise ValueError(f"{count}^{stages} assignments, at most {BRUTE_LIMIT} are enumerated")
    archive = Archive(stages, limit=BRUTE_LIMIT)
    for start in range(0, total, _BATCH):
        number = np.arange(start, min(start + _BATCH, total))
        rows = (number[:, None] // count ** np.arange(stages - 1, -1, -1) % count).astype(np.int8)
        rows = rows[problem.feasible(rows)]
        archive.merge(problem.objectives(rows), rows)
    return archive
