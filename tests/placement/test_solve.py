from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import PlacementError
from agent.placement import solve as solve_module
from agent.placement.baselines import BRUTE_LIMIT, brute_force, random_rows, random_search, single
from agent.placement.exact import exact_front
from agent.placement.greedy import efficiency_factors, greedy
from agent.placement.pareto import normalised_hypervolume
from agent.placement.pgsam import Search
from agent.placement.problem import Problem
from agent.placement.solve import Result, solve
from agent.placement.tuning import Ablation, Tuning
from tests.placement.problems import LARGEST, problems, random_problem


def fake_clock(step_s: float) -> Callable[[], float]:
    """Seconds that pass by `step_s` at each look."""
    now_s = 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += step_s
        return now_s

    return clock


def digest(result: Result) -> str:
    return hashlib.sha256(result.points().tobytes() + result.assignments().tobytes()).hexdigest()


@settings(deadline=None, max_examples=25)
@given(problem=problems())
def test_pgsam_is_feasible_consistent_and_never_better_than_the_exact_front(problem: Problem) -> None:
    truth = brute_force(problem)
    if not len(truth):
        with pytest.raises(PlacementError, match="no placement fits"):
            solve(problem, evaluations=5_000)
        return

    found = solve(problem, seed=3, evaluations=5_000, certify=False)

    assert problem.feasible(found.assignments()).all()
    assert problem.objectives(found.assignments()).tobytes() == found.points().tobytes()
    covered = (truth.points[:, None, :] <= found.points()[None, :, :]).all(axis=2).any(axis=0)
    assert covered.all()
    assert not found.exact


@settings(deadline=None, max_examples=60)
@given(problem=problems())
def test_method_exact_equals_brute_force(problem: Problem) -> None:
    truth = brute_force(problem)
    if not len(truth):
        with pytest.raises(PlacementError, match="no placement fits"):
            solve(problem, "exact", evaluations=200_000)
        return

    found = solve(problem, "exact", evaluations=200_000)

    assert found.exact
    assert found.points().tobytes() == truth.points.tobytes()
    assert problem.objectives(found.assignments()).tobytes() == found.points().tobytes()


@pytest.mark.parametrize("size", LARGEST, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("room", [0.6, 9.0], ids=["tight", "loose"])
def test_exact_and_certified_fronts_equal_brute_force_at_its_limit(size: tuple[int, int], room: float) -> None:
    stages, accelerators = size
    assert accelerators**stages <= BRUTE_LIMIT < accelerators ** (stages + 1)
    problem = random_problem(stages, stages, accelerators, room=room)
    truth = brute_force(problem).points

    exact = solve(problem, "exact", seed=1, evaluations=10**8)
    certified = solve(problem, seed=1, evaluations=5_000_000)

    assert exact.points().tobytes() == truth.tobytes()
    assert certified.exact
    assert certified.points().tobytes() == truth.tobytes()


@settings(deadline=None, max_examples=40)
@given(problem=problems(), budget=st.sampled_from((1, 3_000, 60_000)))
def test_what_pgsam_calls_exact_is_exact_and_the_rest_is_never_better(problem: Problem, budget: int) -> None:
    truth = brute_force(problem).points
    if not len(truth):
        return

    found = solve(problem, seed=2, evaluations=budget)

    points = found.points()
    assert (truth[:, None, :] <= points[None, :, :]).all(axis=2).any(axis=0).all()
    assert not found.exact or points.tobytes() == truth.tobytes()


def test_pgsam_comes_close_to_the_exact_front_without_the_certificate() -> None:
    problem = random_problem(11, 14, 3, room=0.9)
    truth = solve(problem, "exact", evaluations=10**9).points()

    found = solve(problem, seed=1, evaluations=1_500_000, certify=False).points()

    assert normalised_hypervolume(found, truth) >= 0.995 * normalised_hypervolume(truth, truth)


def test_a_cheap_certificate_makes_pgsam_exact() -> None:
    problem = random_problem(11, 9, 3)

    found = solve(problem, seed=1, evaluations=2_000_000)

    assert found.exact
    assert found.points().tobytes() == brute_force(problem).points.tobytes()


def test_a_dear_certificate_is_given_up_and_the_search_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solve_module, "_CERTIFICATE_LABELS", 10)
    problem = random_problem(11, 9, 3)

    found = solve(problem, seed=1, evaluations=300_000)
    tried = solve(problem, seed=1, evaluations=1)

    assert not found.exact
    assert not tried.exact
    assert found.evaluations >= 300_000


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


@pytest.mark.parametrize("name", Ablation.__dataclass_fields__)
@pytest.mark.parametrize("stages", [2, 12])
def test_each_ingredient_can_be_left_out(name: str, stages: int) -> None:
    problem = random_problem(8, stages, 3, room=0.9)

    found = solve(problem, evaluations=4000 * stages, ablation=Ablation(**{name: False}), certify=False)

    assert problem.feasible(found.assignments()).all()


def test_bases_of_every_turn_come_from_the_archive_when_nothing_anneals_and_from_chains_without_guidance() -> None:
    problem = random_problem(8, 12, 3)
    guided = Search(problem, 1, Ablation(annealing=False))
    blind = Search(problem, 1, Ablation(guidance=False))

    for search in (guided, blind):
        for turn in range(5):
            search.step(turn / 5)

    assert guided.archive.visits.sum() > 0
    assert blind.archive.visits.sum() == 0


def test_a_small_survivor_bound_still_fills_the_archive() -> None:
    problem = random_problem(8, 20, 3)

    assert len(Search(problem, 1, tuning=Tuning(survivors=5)).archive) > 0
    assert len(solve(problem, evaluations=100_000, tuning=Tuning(survivors=5), certify=False).front) > 10


def test_a_turn_without_any_move_does_nothing() -> None:
    search = Search(random_problem(8, 12, 3, room=9.0), 1, Ablation(annealing=False, macro=False), Tuning(exchanged=1))

    for _ in range(20):
        search.step(0.5)

    assert search.evaluations > 0


def test_a_stranded_search_finds_its_first_feasible_assignment_by_exhaustive_fitting() -> None:
    problem = random_problem(2, 10, 3, room=0.6)
    tight = problem.memory_used(brute_force(problem).assignments).max(axis=0)
    barely = Problem.from_arrays(problem.arrays() | {"capacity": tight})

    assert barely.feasible(solve(barely, evaluations=2000, ablation=Ablation(seeds=False)).assignments()).all()
    assert barely.feasible(solve(barely, "random", evaluations=1).assignments()).all()
    assert barely.feasible(solve(barely, "exact", evaluations=10**7).assignments()).all()


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


def test_an_exact_search_that_is_too_large_says_so() -> None:
    with pytest.raises(PlacementError, match="use method pgsam"):
        solve(random_problem(5, 20, 4, room=9.0), "exact", evaluations=50_000)


def test_wrong_arguments_are_refused() -> None:
    problem = random_problem(5, 4, 2, room=9.0)
    with pytest.raises(ValueError, match="unknown method 'best', expected one of pgsam"):
        solve(problem, "best")
    with pytest.raises(ValueError, match="budget_s is 1"):
        solve(problem, budget_s=1.0)
    with pytest.raises(ValueError, match="evaluations is 0"):
        solve(problem, evaluations=0)


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


def test_survivors_beyond_the_bound_are_thinned_not_lost() -> None:
    problem = random_problem(8, 40, 4, room=9.0)
    search = Search(problem, 1, tuning=Tuning(survivors=5, seed_passes=30))
    before = len(search.archive)

    for turn in range(10):
        search.step(turn / 10)

    assert before < len(search.archive) <= before + 50


def test_the_exact_method_searches_first_as_far_as_its_budget_goes() -> None:
    problem = random_problem(5, 6, 2, room=9.0)

    assert solve(problem, "exact", evaluations=100_000).exact
    with pytest.raises(PlacementError, match="use method pgsam"):
        solve(problem, "exact", evaluations=1)


def test_a_search_without_anything_feasible_keeps_walking_with_an_empty_archive() -> None:
    search = Search(random_problem(8, 12, 3, room=0.01), 1)

    for turn in range(10):
        search.step(turn / 10)

    assert len(search.archive) == 0
    assert search.evaluations > 10_000


@pytest.mark.parametrize("method", ["pgsam", "exact", "random"])
def test_every_search_says_what_binds_when_nothing_fits(method: str) -> None:
    with pytest.raises(PlacementError, match="no placement fits: memory"):
        solve(random_problem(8, 6, 2, room=0.05), method, evaluations=1000)


def test_the_margin_rises_while_too_much_is_promising_and_falls_to_nothing_after() -> None:
    search = Search(random_problem(8, 40, 4, room=9.0), 1, tuning=Tuning(survivors=50))
    plain = Search(random_problem(8, 40, 4, room=9.0), 1, Ablation(margin=False), Tuning(survivors=50))

    for one in (search, plain):
        one.step(0.5)
    begun = search._margin
    search.step(0.5)
    raised = search._margin
    search.tuning = Tuning(survivors=10**9)
    for _ in range(40):
        search.step(0.5)

    assert 0.0 < begun < raised
    assert search._margin == 0.0
    assert plain._margin == 0.0


def test_aim_explores_what_is_best_for_some_weights_and_moves_on_from_what_was_explored() -> None:
    search = Search(random_problem(8, 40, 4, room=9.0), 1)
    for turn in range(5):
        search.step(turn / 5)
    archive = search.archive
    archive.visits[:] = 0

    first = search._members(200)
    archive.visits[first] += 1
    second = search._members(200)

    scaled = (archive.points - archive.low) / archive.span
    assert scaled[first].min(axis=0).max() < 0.05
    assert scaled[first].max(axis=1).min() <= np.quantile(scaled.max(axis=1), 0.01)
    assert len(set(first) & set(second)) < 0.1 * len(first)


def test_the_first_bases_are_shortest_paths_that_overfill_memory_a_little() -> None:
    problem = random_problem(9, 30, 3, room=0.6)
    search = Search(problem, 1)
    queue = search._queue

    bases, guided = search._bases()

    assert 0 < len(queue) <= search.tuning.guided
    assert not problem.feasible(queue).any()
    assert guided == len(queue)
    assert (bases[:guided] == queue).all()
    assert len(search._queue) == 0
    assert len(Search(problem, 1, Ablation(relaxed=False))._queue) == 0


def test_a_small_budget_takes_small_turns() -> None:
    problem = random_problem(8, 40, 4, room=9.0)

    small = solve(problem, seed=1, evaluations=20_000, certify=False)
    large = solve(problem, seed=1, evaluations=20_000, certify=False, tuning=Tuning())

    assert 20_000 <= small.evaluations < 30_000 < large.evaluations


def test_hot_chains_walk_elsewhere_than_cold_ones() -> None:
    problem = random_problem(8, 20, 3, room=9.0)
    hot, cold = (Search(problem, 1, tuning=Tuning(hottest=heat, coldest=heat)) for heat in (1e6, 1e-9))

    for search in (hot, cold):
        search.step(0.0)

    assert not np.array_equal(hot._chains, cold._chains)


class Countdown:
    """A stop that says no a number of times."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_starting_points_stop_when_told_and_keep_what_they_met() -> None:
    problem = random_problem(5, 40, 4, room=9.0)
    none, some, every = (Search(problem, 1, stop=Countdown(looks)) for looks in (0, 2, 10**9))

    assert 0 < none.evaluations < some.evaluations < every.evaluations
    assert len(none.archive) > 0


def test_a_search_without_any_starting_point_still_finds_placements() -> None:
    problem = random_problem(5, 40, 4, room=9.0)

    assert solve(problem, seed=1, budget_s=1.0, clock=fake_clock(0.3)).front


def test_handing_out_a_front_is_part_of_the_time() -> None:
    problem = random_problem(5, 400, 3, room=9.0)
    clock = fake_clock(1e-7)

    assert len(solve(problem, seed=1, budget_s=1e-3, clock=clock, certify=False).front) * 400 * 6e-8 < 0.01


def test_large_problems_get_small_turns() -> None:
    problem = random_problem(5, 60, 8, room=0.9)
    tuning = Tuning(turn_cells=60 * 4 * 3, archive_cells=60, seed_effort=1)
    search = Search(problem, 1, tuning=tuning)
    plain = Search(problem, 1)
    before = search.evaluations
    for _ in range(30):
        search.step(0.5)
        plain.step(0.5)

    assert before < search.evaluations < plain.evaluations / 4
    assert search.effort > 0
    assert search.archive.limit == 500
    assert problem.feasible(search.archive.assignments).all()


def test_the_exact_front_of_a_large_problem_is_refused_in_one_line() -> None:
    with pytest.raises(PlacementError, match="only tried up to 20000 pairs, 700 stages × 30 accelerators are more"):
        solve(random_problem(1, 700, 30, room=9.0), "exact")


def test_a_large_problem_is_planned_without_a_certificate() -> None:
    result = solve(random_problem(1, 1100, 30, room=9.0), seed=1, evaluations=1)

    assert result.front
    assert not result.exact


@pytest.mark.parametrize("looks", [0, 3, 30, 60, 100, 120, 140])
def test_the_certificate_gives_up_wherever_it_is_told_to(looks: int) -> None:
    found = exact_front(random_problem(9, 24, 3, room=9.0), stop=Countdown(looks))

    assert not found.complete
    assert not len(found.points)
