from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import PlacementError
from agent.placement import solve as solve_module
from agent.placement.baselines import BRUTE_LIMIT, brute_force
from agent.placement.exact import exact_front
from agent.placement.pareto import beyond_rounding
from agent.placement.problem import Floats, Problem
from agent.placement.solve import solve
from tests.placement.clocks import Countdown
from tests.placement.problems import LARGEST, problems, random_problem, sparse_problem


def best(problem: Problem) -> Floats:
    """The front by enumeration, but for what only the rounding of sums tells apart."""
    points = brute_force(problem).points
    return points[beyond_rounding(points)]


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


@pytest.mark.parametrize("seed", range(40))
def test_no_point_of_pgsam_escapes_the_exact_front_where_costs_are_zero_and_placements_far_apart(seed: int) -> None:
    problem = sparse_problem(seed)
    exact = solve(problem, "exact", seed=1, evaluations=200_000)

    found = solve(problem, seed=2, evaluations=2_000, certify=False)

    assert exact.points().tobytes() == best(problem).tobytes()
    assert problem.feasible(found.assignments()).all()
    assert problem.objectives(found.assignments()).tobytes() == found.points().tobytes()
    assert (exact.points()[:, None, :] <= found.points()[None, :, :]).all(axis=2).any(axis=0).all()


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
    assert found.points().tobytes() == truth.points[beyond_rounding(truth.points)].tobytes()
    assert problem.objectives(found.assignments()).tobytes() == found.points().tobytes()


@pytest.mark.parametrize("size", LARGEST, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("room", [0.6, 9.0], ids=["tight", "loose"])
def test_exact_and_certified_fronts_equal_brute_force_at_its_limit(size: tuple[int, int], room: float) -> None:
    stages, accelerators = size
    assert accelerators**stages <= BRUTE_LIMIT < accelerators ** (stages + 1)
    problem = random_problem(stages, stages, accelerators, room=room)
    truth = best(problem)

    exact = solve(problem, "exact", seed=1, evaluations=10**8)
    certified = solve(problem, seed=1, evaluations=5_000_000)

    assert exact.points().tobytes() == truth.tobytes()
    assert certified.exact
    assert certified.points().tobytes() == truth.tobytes()


@settings(deadline=None, max_examples=40)
@given(problem=problems(), budget=st.sampled_from((1, 3_000, 60_000)))
def test_what_pgsam_calls_exact_is_exact_and_the_rest_is_never_better(problem: Problem, budget: int) -> None:
    truth = best(problem)
    if not len(truth):
        return

    found = solve(problem, seed=2, evaluations=budget)

    points = found.points()
    assert (truth[:, None, :] <= points[None, :, :]).all(axis=2).any(axis=0).all()
    assert not found.exact or points.tobytes() == truth.tobytes()


def test_a_cheap_certificate_makes_pgsam_exact() -> None:
    problem = random_problem(11, 9, 3)

    found = solve(problem, seed=1, evaluations=2_000_000)

    assert found.exact
    assert found.points().tobytes() == best(problem).tobytes()


def test_a_dear_certificate_is_given_up_and_the_search_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solve_module, "_CERTIFICATE_LABELS", 10)
    problem = random_problem(11, 9, 3)

    found = solve(problem, seed=1, evaluations=300_000)
    tried = solve(problem, seed=1, evaluations=1)

    assert not found.exact
    assert not tried.exact
    assert found.evaluations >= 300_000


def test_an_exact_search_that_is_too_large_says_so() -> None:
    with pytest.raises(PlacementError, match="use method pgsam"):
        solve(random_problem(5, 20, 4, room=9.0), "exact", evaluations=50_000)


def test_the_exact_method_searches_first_as_far_as_its_budget_goes() -> None:
    problem = random_problem(5, 6, 2, room=9.0)

    assert solve(problem, "exact", evaluations=100_000).exact
    with pytest.raises(PlacementError, match="use method pgsam"):
        solve(problem, "exact", evaluations=1)


def test_the_exact_front_of_a_large_problem_is_refused_in_one_line() -> None:
    with pytest.raises(PlacementError, match="only tried up to 20000 pairs, 700 stages × 30 accelerators are more"):
        solve(random_problem(1, 700, 30, room=9.0), "exact")


def test_no_time_is_spent_on_proving_a_front_that_is_too_large_to_be_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*args: object, **options: object) -> None:
        raise AssertionError("a certificate was tried")

    problem = random_problem(4, 60, 3, room=9.0)
    monkeypatch.setattr(solve_module, "exact_front", unwanted)
    monkeypatch.setattr(solve_module, "_CERTIFICATE_MEMBERS", 100)

    assert len(solve(problem, seed=1, evaluations=400_000).front) > 2


def test_a_large_problem_is_planned_without_a_certificate() -> None:
    result = solve(random_problem(1, 1100, 30, room=9.0), seed=1, evaluations=1)

    assert result.front
    assert not result.exact


@pytest.mark.parametrize("looks", [0, 3, 30, 60, 100, 120, 140])
def test_the_certificate_gives_up_wherever_it_is_told_to(looks: int) -> None:
    found = exact_front(random_problem(9, 24, 3, room=9.0), stop=Countdown(looks))

    assert not found.complete
    assert not len(found.points)
