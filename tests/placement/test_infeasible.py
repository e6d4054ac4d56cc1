from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from agent.placement import infeasible
from agent.placement.baselines import brute_force
from agent.placement.infeasible import Diagnosis, diagnose, feasible_assignment
from agent.placement.problem import Problem
from tests.placement.problems import problems, random_problem


def with_capacity(problem: Problem, capacity: np.ndarray) -> Problem:
    return Problem.from_arrays(problem.arrays() | {"capacity": capacity})


@settings(deadline=None, max_examples=60)
@given(problem=problems())
def test_a_feasible_assignment_is_found_exactly_when_there_is_one(problem: Problem) -> None:
    row = feasible_assignment(problem)

    assert (row is not None) == (len(brute_force(problem)) > 0)
    assert row is None or problem.feasible(row)[0]


@settings(deadline=None, max_examples=60)
@given(problem=problems())
def test_the_named_relaxation_is_enough_and_no_smaller_one_is(problem: Problem) -> None:
    short = with_capacity(problem, problem.capacity * 0.2)
    if len(brute_force(short)):
        return

    found = diagnose(short)

    assert found.proven
    told = found.error().context
    factor = told["capacity_factor"]
    if np.isfinite(factor):
        assert feasible_assignment(with_capacity(short, short.capacity * factor)) is not None
    if told["domain"] is not None:
        unit = np.arange(len(short.capacity)) == told["domain"]
        for share, enough in ((1.0, True), (1.0 - 2e-8, False)):
            given_more = short.capacity + unit * told["relaxation_bytes"] * share
            assert (feasible_assignment(with_capacity(short, given_more)) is not None) == enough
    assert feasible_assignment(with_capacity(short, short.capacity * (factor * (1 + 1e-6)))) is not None
    assert feasible_assignment(with_capacity(short, short.capacity * (factor * (1 - 1e-6)))) is None
    if found.domain is not None and found.relaxation_bytes is not None:
        unit = np.arange(len(short.capacity)) == found.domain
        assert (
            feasible_assignment(with_capacity(short, short.capacity + unit * found.relaxation_bytes * (1 + 1e-9)))
            is not None
        )
        assert feasible_assignment(with_capacity(short, short.capacity + unit * found.relaxation_bytes * 0.999)) is None


def test_the_message_names_accelerators_and_bytes() -> None:
    base = random_problem(1, 3, 2, room=9.0).arrays()
    arrays = base | {"memory": np.full((3, 2), 10.0), "allowed": np.ones((3, 2), dtype=bool)}
    problem = Problem.from_arrays(arrays | {"capacity": np.array([15.0, 12.0])}, accelerators=("cpu", "npu"))

    error = diagnose(problem).error()

    assert error.message == "no placement fits: memory of cpu (domain 0) binds; 5 bytes more there would do"
    assert error.code == "infeasible"
    assert error.context["relaxation_bytes"] == pytest.approx(5.0)


@pytest.mark.parametrize(("stages", "capacity", "more"), [(30, (7.0, 8.0, 7.0, 7.0), 1.0), (50, (9.0, 9.0, 9.0), 23.0)])
def test_equal_stages_ask_for_no_more_than_what_is_short_in_sum(
    stages: int, capacity: tuple[float, ...], more: float
) -> None:
    count = len(capacity)
    base = random_problem(1, stages, count, room=9.0).arrays()
    arrays = base | {"memory": np.ones((stages, count)), "allowed": np.ones((stages, count), dtype=bool)}

    found = diagnose(Problem.from_arrays(arrays | {"capacity": np.array(capacity)}))

    assert found.relaxation_bytes == pytest.approx(more)
    assert found.proven


def test_several_short_domains_are_mended_by_a_common_factor() -> None:
    base = random_problem(1, 2, 2, room=9.0).arrays()
    arrays = base | {"memory": np.full((2, 2), 10.0), "allowed": np.eye(2, dtype=bool)}
    problem = Problem.from_arrays(arrays | {"capacity": np.array([5.0, 8.0])})

    found = diagnose(problem)

    assert found.domain is None
    assert found.capacity_factor == pytest.approx(2.0)
    assert "all capacities × 2 would do" in found.error().message


def test_no_factor_mends_a_capacity_of_zero() -> None:
    base = random_problem(1, 1, 1, room=9.0).arrays()
    problem = Problem.from_arrays(base | {"capacity": np.array([0.0])})

    assert diagnose(problem).capacity_factor == float("inf")
    none = Diagnosis(None, problem.accelerators, None, float("inf"), True)
    assert "no common factor would do" in none.error().message


def test_a_search_that_was_cut_short_does_not_claim_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infeasible, "_DIAGNOSIS_WORK", 1)
    problem = random_problem(3, 8, 3, room=0.05)

    found = diagnose(problem)

    assert not found.proven
    assert "the search was cut short" in found.error().message


def test_a_large_problem_that_fits_nowhere_is_diagnosed_with_bounded_work() -> None:
    problem = random_problem(1, 200, 8, room=0.002)

    assert feasible_assignment(problem) is None
    found = diagnose(problem)

    assert not found.proven
    assert feasible_assignment(with_capacity(problem, problem.capacity * found.capacity_factor * 1.01)) is not None


def test_what_is_too_small_in_sum_is_proven_at_once() -> None:
    problem = random_problem(1, 120, 6, room=0.01)
    row, sure = infeasible._fit(problem, problem.capacity, width=1)

    assert row is None
    assert sure
