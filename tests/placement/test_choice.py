"""One placement is marked by the same rule everywhere, and a power cap is kept where anything keeps it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import PlacementError
from agent.placement.capped import nearest_to_cap, under_cap
from agent.placement.choice import mark, pool
from agent.placement.limits import Constraints
from agent.placement.problem import Problem
from agent.placement.selection import select
from agent.placement.solve import solve
from agent.schema.policy import Objective, Weights
from tests.placement.problems import problems, random_problem

BALANCED = Objective(method="weights", weights=Weights(energy=1.0, latency=1.0, underutilisation=0.1))


def every_assignment(problem: Problem) -> np.ndarray:
    rows = np.array(list(itertools.product(range(problem.accelerator_count), repeat=problem.stage_count)))
    return rows[problem.feasible(rows)]


def two(watts: tuple[float, float], seconds: tuple[float, float]) -> Problem:
    """Two stages on two accelerators; the first is the better one in everything but power."""
    latency = np.array([seconds, seconds])
    return Problem(
        latency=latency, energy=latency * np.array(watts), busy_util_num=0.5 * latency, busy_den=latency,
        transfer_latency=np.zeros((1, 2, 2)), transfer_energy=np.zeros((1, 2, 2)), memory=np.ones((2, 2)),
        capacity=np.full(2, np.inf), allowed=np.ones((2, 2), dtype=bool), accelerators=("hot", "slow"),
    )  # fmt: skip


def test_without_limits_the_selection_of_the_front_is_marked():
    problem = random_problem(3, 5, 3)
    front = solve(problem, "exact")
    marked = mark(problem, front.assignments(), BALANCED, Constraints())
    choice = select(front.points(), BALANCED)
    assert marked.objectives == front.front[choice.index or 0].objectives
    assert problem.objectives([marked.runner_up])[0].tolist() == list(front.front[choice.runner_up or 0].objectives)
    assert mark(problem, front.assignments()[:1], BALANCED, Constraints()).runner_up is None


def test_a_cap_that_the_whole_front_breaks_is_kept_by_what_is_not_on_it():
    problem = two(watts=(10.0, 6.0), seconds=(1.0, 2.0))
    front = solve(problem, "exact").assignments()
    assert (problem.objectives(front)[:, 0] / problem.objectives(front)[:, 1]).min() > 6.5
    marked = mark(problem, front, BALANCED, Constraints(power_cap_w=6.5))
    assert marked.objectives[0] / marked.objectives[1] <= 6.5
    with pytest.raises(PlacementError, match="power_cap_w 5 W; 6 W would admit one"):
        mark(problem, front, BALANCED, Constraints(power_cap_w=5.0))


@settings(max_examples=60, deadline=None)
@given(problems().filter(lambda p: p.accelerator_count**p.stage_count <= 5000), st.floats(0.3, 3.0))
def test_what_is_found_below_a_cap_keeps_it_and_without_memory_it_is_found_where_it_exists(problem, cap_w):
    rows = under_cap(problem, cap_w)
    points = problem.objectives(rows)
    assert problem.feasible(rows).all()
    assert (points[:, 0] / points[:, 1] <= cap_w).all()
    roomy = Problem.from_arrays({**problem.arrays(), "capacity": np.full(len(problem.capacity), np.inf)})
    truth = roomy.objectives(every_assignment(roomy))
    # Rounding decides at the cap itself.
    if (truth[:, 0] <= (1.0 - 1e-9) * cap_w * truth[:, 1]).any():
        assert len(under_cap(roomy, cap_w))


@settings(max_examples=60, deadline=None)
@given(problems().filter(lambda p: p.accelerator_count**p.stage_count <= 5000), st.floats(0.05, 1.0))
def test_the_cap_that_would_admit_one_is_the_least_power_there_is_where_memory_is_loose(problem, cap_w):
    roomy = Problem.from_arrays({**problem.arrays(), "capacity": np.full(len(problem.capacity), np.inf)})
    front = solve(roomy, "pgsam", evaluations=2000).assignments()
    truth = roomy.objectives(every_assignment(roomy))
    least_w = (truth[:, 0] / truth[:, 1]).min()
    # Rounding decides at the cap itself.
    if least_w <= cap_w * (1.0 + 1e-9):
        return
    with pytest.raises(PlacementError) as raised:
        mark(roomy, front, BALANCED, Constraints(power_cap_w=cap_w))
    assert raised.value.context["relaxed"] == pytest.approx(least_w, rel=2e-5)
    assert mark(roomy, front, BALANCED, Constraints(power_cap_w=raised.value.context["relaxed"]))


def test_the_search_for_the_least_power_is_bounded(monkeypatch):
    monkeypatch.setattr("agent.placement.capped._STEPS", 1)
    problem = two(watts=(10.0, 6.0), seconds=(1.0, 2.0))
    assert nearest_to_cap(problem, np.array([[0, 0]], dtype=np.int8), 1.0).tolist() == [[0, 0]]
    assert nearest_to_cap(problem, np.zeros((0, 2), dtype=np.int8), 1.0).tolist() == []


def test_what_is_chosen_among_holds_each_placement_once():
    problem = random_problem(1, 4, 2, room=9.0)
    rows = [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert len(pool(problem, rows, Constraints())) == 1
