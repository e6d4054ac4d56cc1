from __future__ import annotations

import numpy as np
import pytest

from agent.errors import PlacementError
from agent.placement.baselines import BRUTE_LIMIT, brute_force, random_rows, random_search, single
from agent.placement.greedy import efficiency_factors, greedy
from agent.placement.problem import Problem
from agent.placement.solve import solve
from tests.placement.clocks import fake_clock
from tests.placement.problems import random_problem


def test_baselines_give_one_feasible_point() -> None:
    problem = random_problem(8, 10, 3, room=9.0)

    for method in ("greedy", "single:0", "single:2"):
        found = solve(problem, method)
        assert len(found.front) == 1
        assert found.evaluations == 1
        assert problem.feasible(found.assignments()).all()
    assert len(solve(problem, "random", seed=1, evaluations=500).front) > 1
    assert solve(problem, "random", seed=1, budget_s=1.0, clock=fake_clock(0.4)).evaluations <= 4096


def test_single_sends_forbidden_stages_to_the_fastest_other_accelerator() -> None:
    problem = random_problem(8, 30, 3, room=9.0)
    row = single(problem, "1")
    stuck = np.flatnonzero(~problem.allowed[:, 1])

    assert len(stuck) > 0
    assert (np.delete(row, stuck) == 1).all()
    fastest = np.where(problem.allowed, problem.latency, np.inf).argmin(axis=1)
    assert (row[stuck] == fastest[stuck]).all()


def test_single_explains_itself() -> None:
    problem = random_problem(8, 10, 2, room=0.2)
    named = Problem.from_arrays(problem.arrays(), accelerators=("cpu", "npu0"))

    with pytest.raises(PlacementError, match=r"no accelerator 'npu' among cpu, npu0, did you mean 'npu0'\?"):
        single(named, "npu")
    with pytest.raises(PlacementError, match=r"no accelerator '#' among cpu, npu0$"):
        single(named, "#")
    with pytest.raises(PlacementError, match=r"on 'cpu' alone needs .* bytes in memory domain 0"):
        single(named, "cpu")


def test_greedy_weighs_the_product_of_energy_and_latency_and_fills_memory_in_order() -> None:
    base = random_problem(8, 4, 2, room=9.0).arrays()
    flat = {"energy": np.array([[1.0, 2.0]] * 4), "latency": np.array([[1.0, 1.0]] * 4)}
    open_arrays = base | flat | {"allowed": np.ones((4, 2), dtype=bool), "memory": np.ones((4, 2))}
    busy = {"busy_den": flat["latency"], "busy_util_num": 0.5 * flat["latency"]}
    problem = Problem.from_arrays(open_arrays | busy | {"capacity": np.array([2.0, 9.0])})

    assert efficiency_factors(problem).tolist() == [1.0, 2.0]
    assert greedy(problem).tolist() == [0, 0, 1, 1]
    with pytest.raises(PlacementError, match="greedy has no room left for stage '3'"):
        greedy(Problem.from_arrays(problem.arrays() | {"capacity": np.array([2.0, 1.0])}))


def test_brute_force_refuses_large_problems() -> None:
    with pytest.raises(ValueError, match=f"at most {BRUTE_LIMIT}"):
        brute_force(random_problem(1, 30, 3))


def test_random_search_stops_when_told() -> None:
    archive, drawn = random_search(random_problem(1, 5, 2), np.random.default_rng(0), 10_000, stop=lambda: True)

    assert drawn == len(archive) == 0


def test_random_rows_use_every_allowed_pair_and_no_other() -> None:
    problem = random_problem(1, 6, 3)
    rows = random_rows(problem.allowed, np.random.default_rng(0), 500)

    seen = np.zeros_like(problem.allowed)
    for stage in range(6):
        seen[stage, np.unique(rows[:, stage])] = True
    assert (seen == problem.allowed).all()
