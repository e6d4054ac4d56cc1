"""Greedy v1: static efficiency factors, layer by layer, never looking back.

Each accelerator gets one factor for the whole model, its mean energy-delay product relative to the best accelerator
of each stage; every stage then takes the best factor × own energy-delay product among the accelerators with room.
"""

from __future__ import annotations

import numpy as np

from agent.errors import PlacementError
from agent.placement.problem import Floats, Problem


def efficiency_factors(problem: Problem) -> Floats:
    """Static factor of each accelerator [D], 1 where it is always the best; higher is worse."""
    product = np.where(problem.allowed, problem.energy * problem.latency, np.nan)
    best = np.nanmin(product, axis=1, keepdims=True)
    ratio = np.where(np.isnan(product), 0.0, product) / np.where(best > 0.0, best, 1.0)
    used = np.maximum(problem.allowed.sum(axis=0), 1)
    factors: Floats = np.where(problem.allowed.any(axis=0), ratio.sum(axis=0) / used, np.inf)
    return factors


def greedy(problem: Problem) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    """Assignment [L] of greedy v1.

    Raises:
        PlacementError: when a stage finds no accelerator with room, although another order might have.
    """
    factors = efficiency_factors(problem)
    room = problem.capacity.copy()
    chosen = np.zeros(problem.stage_count, dtype=np.int8)
    for stage in range(problem.stage_count):
        fits = problem.allowed[stage] & (problem.memory[stage] <= room[problem.domain])
        if not fits.any():
            raise PlacementError(
                f"greedy has no room left for stage {problem.stages[stage]!r}; try method pgsam, which looks ahead",
                stage=stage,
            )
        score = np.full(len(fits), np.inf)
        score[fits] = (problem.energy[stage] * problem.latency[stage])[fits] * factors[fits]
        best = int(score.argmin())
        chosen[stage] = best
        room[problem.domain[best]] -= problem.memory[stage, best]
    return chosen
