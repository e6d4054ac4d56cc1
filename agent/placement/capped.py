"""Capped: placements for a power cap, which need not lie on the Pareto front.

Mean power is energy over time, so a slower placement may keep a cap that every faster one breaks, although it is worse
in all three objectives. Energy − cap · latency is a sum over stages, hence its minimum is a shortest path: memory
aside, the cap can be kept exactly where that is at or below 0.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from agent.placement.problem import Floats, Problem
from agent.placement.seeds import shortest_paths

_PRICES = np.concatenate([np.geomspace(1e-3, 1e3, 25), [np.inf]])
"""Prices of a joule above the cap, relative to the joules and seconds of the placement; the last one is cap only."""
_STEPS = 30
_LESS = 1.0 - 1e-9


def under_cap(problem: Problem, cap_w: float) -> NDArray[np.int8]:
    """Assignments [n, L] that fit in memory and draw at most `cap_w` on average: for the cap alone, and for mixtures
    with energy, with latency, and with both. Empty where none was found."""
    alone = [np.full(problem.stage_count, a) for a in range(problem.accelerator_count)]
    allowed = np.where(problem.allowed, 0.0, np.inf)
    scale_j, scale_s = problem.energy.mean() or 1.0, problem.latency.mean() or 1.0
    tables, links = [], []
    for wish_j, wish_s in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        for price in _PRICES:
            wish, over = (0.0, 1.0) if np.isinf(price) else (1.0, float(price))
            per_j = wish * wish_j / scale_j + over / scale_j
            per_s = wish * wish_s / scale_s - over * cap_w / scale_j
            tables.append(per_j * problem.energy + per_s * problem.latency + allowed)
            links.append(per_j * problem.transfer_energy + per_s * problem.transfer_latency)
    paths = shortest_paths(np.array(tables), np.array(links))
    rows = np.unique(np.concatenate([paths, *_spliced(paths), np.array(alone, dtype=np.int8)]), axis=0)
    rows = rows[problem.feasible(rows)]
    kept: NDArray[np.int8] = rows[_power_w(problem, rows) <= cap_w].astype(np.int8)
    return kept


def nearest_to_cap(problem: Problem, rows: NDArray[np.int8], cap_w: float) -> NDArray[np.int8]:
    """What `under_cap` finds; where that is nothing, the placement of the least mean power that is found from `rows`
    [n, L], so that what a cap would have to be is known.

    Each step looks for what keeps a cap just below the least power so far (Dinkelbach 1967, doi:10.1287/mnsc.13.7.492).
    """
    found = under_cap(problem, cap_w)
    known = np.asarray(rows, dtype=np.int8)
    if len(found) or not len(known):
        return found
    for _ in range(_STEPS):
        power_w = _power_w(problem, known)
        best: NDArray[np.int8] = known[power_w.argmin()][None, :]
        known = under_cap(problem, float(power_w.min()) * _LESS)
        if not len(known):
            break
    return best


def _power_w(problem: Problem, rows: NDArray[np.int8]) -> Floats:
    points = problem.objectives(rows)
    power_w: Floats = points[:, 0] / np.maximum(points[:, 1], 1e-300)
    return power_w


def _spliced(paths: NDArray[np.int8]) -> list[NDArray[np.int8]]:
    """One path up to a cut and its neighbour from there on: a price finds only corners of the hull, this what is
    between two of them."""
    found = [paths[:0]]
    for one, other in itertools.pairwise(paths):
        if (one != other).any():
            cut = np.arange(1, len(one))[:, None] > np.arange(len(one))[None, :]
            found += [np.where(cut, one, other), np.where(cut, other, one)]
    return found
