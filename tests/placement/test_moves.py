from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.placement.baselines import random_rows
from agent.placement.moves import (
    apply_segments,
    costs,
    pairs,
    segments,
    strided_donors,
    totals,
    traded_donors,
    uniform_donors,
)
from agent.placement.problem import Problem
from agent.placement.seeds import seeds, shortest_paths, weight_vectors
from tests.placement.problems import problems, random_problem

seeds_ = st.integers(0, 2**32 - 1)


def used_and_summed(problem: Problem, rows: np.ndarray) -> np.ndarray:
    """What `totals` must give: the four sums, then memory of the domains that can bind."""
    most = problem.memory_used(np.zeros((0, problem.stage_count), dtype=np.int8)).T
    cells = np.where(problem.allowed, problem.memory, 0.0)
    for domain in range(len(problem.capacity)):
        if np.where(problem.domain == domain, cells, 0.0).max(axis=1).sum() > problem.capacity[domain]:
            most = np.concatenate([most.reshape(-1, len(rows)), problem.memory_used(rows).T[domain : domain + 1]])
    return np.concatenate([problem.sums(rows), most.reshape(-1, len(rows))])


@settings(deadline=None, max_examples=40)
@given(problem=problems(), seed=seeds_)
def test_segment_sums_equal_recomputing_the_children(problem: Problem, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = costs(problem)
    rows = random_rows(problem.allowed, rng, 3)
    donors = np.stack([random_rows(problem.allowed, rng, 4) for _ in rows])
    first, last = np.triu_indices(problem.stage_count)

    found = segments(tables, rows, donors, first, last)

    move, column = np.divmod(np.arange(found.size), found.columns)
    children = apply_segments(rows[column // 4], donors.reshape(12, -1)[column], first[move], last[move])
    truth = used_and_summed(problem, children)
    sums = np.stack([found.sums(k) for k in range(len(tables.stage))])
    assert sums.tobytes() == truth.tobytes() == totals(tables, children).tobytes()
    some = rng.integers(0, found.size, 20)
    assert all(found.sums_of(k, some).tolist() == truth[k, some].tolist() for k in range(len(truth)))


@settings(deadline=None, max_examples=40)
@given(problem=problems(), seed=seeds_)
def test_sums_of_pairs_of_segments_equal_recomputing_the_children(problem: Problem, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables, stages, count = costs(problem), problem.stage_count, problem.accelerator_count
    rows = random_rows(problem.allowed, rng, 3)
    donors = uniform_donors(problem.allowed, rows)
    first = np.sort(rng.integers(0, stages, 9))
    last = np.minimum(first + rng.integers(0, 3, 9), stages - 1)
    donor = rng.integers(0, count, 9)
    one, two = np.triu_indices(9, 1)
    apart = first[two] - last[one] >= 2
    one, two = one[apart], two[apart]

    found = pairs(tables, rows, donors, donor, first, last, one, two)

    assert found.size == 3 * len(one)
    for move in range(len(one)):
        children = rows
        for side in (one[move], two[move]):
            both = np.full((2, 3), [[first[side]], [last[side]]])
            children = apply_segments(children, donors[:, donor[side]], both[0], both[1])
        for k, truth in enumerate(used_and_summed(problem, children)):
            assert found.sums(k)[3 * move : 3 * move + 3].tolist() == truth.tolist()


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
    problem, rng = random_problem(9, 14, 3, room=0.75), np.random.default_rng(1)

    met, last = seeds(costs(problem), problem.allowed, rng, weight_vectors(rng, 20))

    assert problem.allowed[np.arange(14), met.astype(int)].all()
    assert problem.feasible(met).any()
    assert len(last) == 20
    assert len(np.unique(met, axis=0)) == len(met)


def test_traded_donors_swap_two_accelerators_where_both_are_allowed() -> None:
    rows = np.array([[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]], dtype=np.int8)
    allowed = np.ones((5, 3), dtype=bool)
    allowed[3, 1] = False

    donors = traded_donors(allowed, rows, np.array([0, 0]), np.array([1, 2]))

    assert donors.tolist() == [[[1, 0, 2, 0, 0]], [[0, 0, 2, 1, 2]]]
