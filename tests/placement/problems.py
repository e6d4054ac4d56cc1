"""Small problems for tests: drawn by hypothesis, or from a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from agent.placement.problem import Problem


def random_problem(
    seed: int, stages: int, accelerators: int, *, room: float = 0.6, levels: int = 0, shared: bool = False
) -> Problem:
    """A problem from a seed. `levels` > 0 rounds costs to so many values, which makes many ties."""
    rng = np.random.default_rng(seed)
    shape, links = (stages, accelerators), (stages - 1, accelerators, accelerators)

    def draw(size: tuple[int, ...]) -> np.ndarray:
        values = rng.random(size)
        return np.ceil(values * levels) / levels if levels else values + 1e-3

    latency, memory = draw(shape), draw(shape)
    cut = ~np.eye(accelerators, dtype=bool)
    allowed = rng.random(shape) < 0.85
    allowed[np.arange(stages), rng.integers(0, accelerators, stages)] = True
    domain = np.arange(accelerators) // 2 if shared else np.arange(accelerators)
    return Problem(
        latency=latency,
        energy=draw(shape),
        busy_util_num=latency * draw(shape).clip(0, 1),
        busy_den=latency,
        transfer_latency=0.1 * draw(links) * cut,
        transfer_energy=0.1 * draw(links) * cut,
        memory=memory,
        capacity=np.full(domain.max() + 1, room * stages * 0.5) * rng.uniform(0.6, 1.6, domain.max() + 1),
        allowed=allowed,
        memory_domain=domain,
    )


LARGEST = ((17, 2), (11, 3), (8, 4), (7, 5), (6, 7), (5, 11), (4, 21), (3, 58))
"""The most stages and accelerators of which brute force takes every assignment."""
SIZES = ((1, 1), (1, 3), (2, 2), (3, 3), (4, 2), (4, 4), (5, 3), (6, 3), (8, 2), (7, 3), (12, 2), (5, 4))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Tiny problems that brute force can enumerate."""
    stages, accelerators = draw(st.sampled_from(SIZES))
    return random_problem(
        draw(st.integers(0, 2**32 - 1)),
        stages,
        accelerators,
        room=draw(st.sampled_from((0.5, 0.8, 1.2, 9.0))),
        levels=draw(st.sampled_from((0, 2, 4))),
        shared=draw(st.booleans()),
    )


def sparse_problem(seed: int) -> Problem:
    """A tiny problem with many costs of zero, few pairs allowed, and memory that two distant placements just fit."""
    rng = np.random.default_rng(seed)
    stages, accelerators = SIZES[rng.integers(2, len(SIZES))]
    shared = bool(rng.integers(2))
    problem = random_problem(seed, stages, accelerators, levels=int(rng.choice((0, 2))), shared=shared)
    each, kept = np.arange(stages), rng.random()

    def thinned(values: np.ndarray) -> np.ndarray:
        return values * (rng.random(values.shape) < kept)

    ends = rng.integers(0, accelerators, (2, stages))
    allowed = rng.random((stages, accelerators)) < rng.random()
    allowed[each, ends] = True
    busy = thinned(problem.busy_den)
    # Some stage is busy wherever it runs, or no ratio is defined.
    busy[0] = 1.0
    memory = thinned(problem.memory)
    problem = replace(
        problem,
        latency=thinned(problem.latency),
        energy=thinned(problem.energy),
        busy_util_num=np.minimum(thinned(problem.busy_util_num), busy),
        busy_den=busy,
        transfer_latency=thinned(problem.transfer_latency),
        transfer_energy=thinned(problem.transfer_energy),
        memory=memory,
        allowed=allowed,
    )
    return replace(problem, capacity=problem.memory_used(ends).max(axis=0))
