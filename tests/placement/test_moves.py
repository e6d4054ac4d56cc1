from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.placement.baselines import random_rows
from agent.placement.moves import (
    apply_segments,
    costs,
    prefix,
    segment_sums,
    single_deltas,
    strided_donors,
    uniform_donors,
)
from agent.placement.problem import Problem
from agent.placement.seeds import seeds, shortest_paths, weight_vectors
from tests.placement.problems import problems, random_problem

seeds_ = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=40)
@given(problem=problems(), seed=seeds_)
def test_segment_sums_equal_recomputing_the_children(problem: Problem, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = costs(problem)
    rows = random_rows(problem.allowed, rng, 3)
    donors = np.stack([random_rows(problem.allowed, rng, 4) for _ in rows])
    first, last = np.triu_indices(problem.stage_count)

    sums = segment_sums(tables, rows, donors, first, last)

    for b in range(3):
        for n in range(4):
            copies = len(first)
            children = apply_segments(
                np.repeat(rows[b : b + 1], copies, 0), np.repeat(donors[b, n : n + 1], copies, 0), first, last
            )
            assert sums[:4, b, n].tobytes() == problem.sums(children).tobytes()
            assert sums[:, b, n].tobytes() == prefix(tables, children).sums[..., -1].tobytes()


@settings(deadline=None, max_examples=40)
@given(problem=problems(), seed=seeds_)
def test_single_deltas_equal_recomputing_the_children(problem: Problem, seed: int) -> None:
    rows = random_rows(problem.allowed, np.random.default_rng(seed), 2)
    tables = costs(problem)
    own = prefix(tables, rows).sums[..., -1]

    deltas = single_deltas(tables, rows)

    for stage, accelerator in np.argwhere(problem.allowed):
        children = rows.copy()
        children[:, stage] = accelerator
        assert np.array_equal(own[:4] + deltas[:4, :, stage, accelerator], problem.sums(children))


def test_memory_that_can_never_overflow_is_left_out() -> None:
    assert len(costs(random_problem(1, 6, 3, room=50.0)).stage) == 4
    assert len(costs(random_problem(1, 6, 3, room=0.2)).stage) > 4


def test_donors_use_allowed_pairs_only_and_strided_ones_move_only_their_phase() -> None:
    problem = random_problem(4, 9, 3)
    rows = random_rows(problem.allowed, np.random.default_rng(0), 2)

    uniform = uniform_donors(problem.allowed, rows)
    strided = strided_donors(problem.allowed, rows, np.array([2, 3]), np.array([1, 0]))

    for donors in (uniform, strided):
        assert problem.allowed[np.arange(9), donors.astype(int)].all()
    assert (uniform[0, 1] == 1)[problem.allowed[:, 1]].all()
    assert (strided[0][:, ::2] == rows[0, ::2]).all()
    assert (strided[1][:, ::3] == uniform[1][:, ::3]).all()


def test_shortest_paths_are_shortest() -> None:
    rng = np.random.default_rng(2)
    stage, link = rng.random((5, 4, 3)), rng.random((5, 3, 3, 3))

    found = shortest_paths(stage, link)

    every = np.stack(np.meshgrid(*[np.arange(3)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    for w in range(5):
        cost = stage[w, np.arange(4), every].sum(axis=1) + link[w, np.arange(3), every[:, :-1], every[:, 1:]].sum(
            axis=1
        )
        assert (found[w] == every[cost.argmin()]).all()


def test_weight_vectors_are_positive_and_as_many_as_asked() -> None:
    weights = weight_vectors(np.random.default_rng(1), 14)

    assert weights.shape == (14, 3)
    assert (weights > 0).all()
    assert len(weight_vectors(np.random.default_rng(1), 3)) == 3


def test_seeds_find_assignments_that_fit_in_tight_memory() -> None:
    problem = random_problem(9, 14, 3, room=0.75)

    met, last = seeds(costs(problem), problem.allowed, np.random.default_rng(1), 20)

    assert problem.allowed[np.arange(14), met.astype(int)].all()
    assert problem.feasible(met).any()
    assert len(last) == 20
    assert len(np.unique(met, axis=0)) == len(met)
