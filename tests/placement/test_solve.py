from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.errors import PlacementError
from agent.placement.baselines import brute_force
from agent.placement.pareto import normalised_hypervolume
from agent.placement.problem import Problem
from agent.placement.solve import Result, solve
from agent.placement.tuning import Ablation, Tuning
from tests.placement.clocks import fake_clock
from tests.placement.problems import random_problem


def digest(result: Result) -> str:
    return hashlib.sha256(result.points().tobytes() + result.assignments().tobytes()).hexdigest()


def test_pgsam_comes_close_to_the_exact_front_without_the_certificate() -> None:
    problem = random_problem(11, 14, 3, room=0.9)
    truth = solve(problem, "exact", evaluations=10**9).points()

    found = solve(problem, seed=1, evaluations=1_500_000, certify=False).points()

    assert normalised_hypervolume(found, truth) >= 0.995 * normalised_hypervolume(truth, truth)


_SCRIPT = """
import sys
from tests.placement.problems import random_problem
from tests.placement.test_solve import digest
from agent.placement.solve import solve
print(digest(solve(random_problem(5, 30, 4, room=0.8), seed=7, evaluations=150_000)))
"""


def test_equal_seeds_give_equal_bytes_in_other_processes_with_any_threads_and_hash_seed() -> None:
    here = digest(solve(random_problem(5, 30, 4, room=0.8), seed=7, evaluations=150_000))
    there = [
        subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env=os.environ
            | {
                "OMP_NUM_THREADS": threads,
                "OPENBLAS_NUM_THREADS": threads,
                "PYTHONPATH": ".",
                "PYTHONHASHSEED": hashes,
            },
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for threads, hashes in (("1", "0"), ("2", "4242"))
    ]

    assert there == [here, here]
    assert here != digest(solve(random_problem(5, 30, 4, room=0.8), seed=8, evaluations=150_000))


def test_the_default_budget_is_a_count_and_repeats() -> None:
    problem = random_problem(5, 10, 3, room=0.8)

    assert digest(solve(problem, seed=2)) == digest(solve(problem, seed=2, clock=fake_clock(9.0)))


def test_a_time_budget_stops_by_the_injected_clock() -> None:
    problem = random_problem(5, 30, 4)

    quick = solve(problem, budget_s=1.0, clock=fake_clock(0.2))
    slow = solve(problem, budget_s=1.0, clock=fake_clock(0.02))

    assert 0 < quick.evaluations < slow.evaluations
    assert not quick.exact


def test_a_spent_budget_still_gives_a_front() -> None:
    problem = random_problem(5, 30, 4)

    assert len(solve(problem, budget_s=0.1, clock=fake_clock(1.0)).front) > 0
    assert len(solve(problem, evaluations=1).front) > 0


def test_warm_placements_are_used_and_forbidden_ones_left_out() -> None:
    problem = random_problem(5, 12, 3)
    good = solve(problem, seed=1, evaluations=500_000).assignments()
    alien = np.full((1, 12), 9)

    found = solve(problem, seed=2, evaluations=1, warm=np.concatenate([good, alien]), certify=False)

    assert normalised_hypervolume(found.points(), problem.objectives(good)) >= normalised_hypervolume(
        problem.objectives(good), problem.objectives(good)
    )
    assert solve(problem, seed=2, evaluations=1, warm=alien, certify=False).points().tobytes() == (
        solve(problem, seed=2, evaluations=1, certify=False).points().tobytes()
    )


def test_a_stranded_search_finds_its_first_feasible_assignment_by_exhaustive_fitting() -> None:
    problem = random_problem(2, 10, 3, room=0.6)
    tight = problem.memory_used(brute_force(problem).assignments).max(axis=0)
    barely = Problem.from_arrays(problem.arrays() | {"capacity": tight})

    assert barely.feasible(solve(barely, evaluations=2000, ablation=Ablation(seeds=False)).assignments()).all()
    assert barely.feasible(solve(barely, "random", evaluations=1).assignments()).all()
    assert barely.feasible(solve(barely, "exact", evaluations=10**7).assignments()).all()


def test_wrong_arguments_are_refused() -> None:
    problem = random_problem(5, 4, 2, room=9.0)
    with pytest.raises(ValueError, match="unknown method 'best', expected one of pgsam"):
        solve(problem, "best")
    with pytest.raises(ValueError, match="budget_s is 1"):
        solve(problem, budget_s=1.0)
    with pytest.raises(ValueError, match="evaluations is 0"):
        solve(problem, evaluations=0)


@pytest.mark.parametrize("method", ["pgsam", "exact", "random"])
def test_every_search_says_what_binds_when_nothing_fits(method: str) -> None:
    with pytest.raises(PlacementError, match="no placement fits: memory"):
        solve(random_problem(8, 6, 2, room=0.05), method, evaluations=1000)


def test_a_small_budget_takes_small_turns() -> None:
    problem = random_problem(8, 40, 4, room=9.0)

    small = solve(problem, seed=1, evaluations=20_000, certify=False)
    large = solve(problem, seed=1, evaluations=20_000, certify=False, tuning=Tuning())

    assert 20_000 <= small.evaluations < 30_000 < large.evaluations


def test_a_search_without_any_starting_point_still_finds_placements() -> None:
    problem = random_problem(5, 40, 4, room=9.0)

    assert solve(problem, seed=1, budget_s=1.0, clock=fake_clock(0.3)).front


def test_a_front_makes_its_points_when_asked_and_knows_its_equal() -> None:
    problem = random_problem(3, 12, 3, room=9.0)
    result = solve(problem, seed=1, evaluations=20_000, certify=False)
    front, size = result.front, len(result.front)

    assert size > 2
    assert [point.objectives for point in front] == [tuple(row) for row in result.points().tolist()]
    assert [point.assignment for point in front] == [tuple(row) for row in result.assignments().tolist()]
    assert list(front[1:]) == list(front)[1:]
    assert front[-1] == list(front)[-1]
    with pytest.raises(IndexError):
        front[size]
    again = solve(problem, seed=1, evaluations=20_000, certify=False).front
    assert front == again
    assert hash(front) == hash(again)
    assert front[1:] != front
    assert front != tuple(front)


def test_costs_that_overflow_never_bring_a_forbidden_placement_into_the_front() -> None:
    huge = np.array([[[1e25, 1e-25], [1e20, 1e30]], [[1e30, 1e-10], [1e28, 1e25]]])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        allowed = np.array([[False, True], [True, True], [True, True]])
        table = 10.0 ** rng.uniform(-25, 20, (3, 2))
        problem = Problem(
            latency=table, energy=table[::-1].copy(), busy_util_num=0.5 * table, busy_den=table,
            transfer_latency=huge, transfer_energy=huge * 1e-5, memory=np.full((3, 2), 4.0),
            capacity=np.array([0.0 if seed % 2 else 12.0, 12.0]), allowed=allowed, memory_domain=np.arange(2),
        )  # fmt: skip

        for method in ("pgsam", "exact"):
            rows = solve(problem, method, seed=seed, evaluations=20_000).assignments()
            assert problem.feasible(rows).all()
