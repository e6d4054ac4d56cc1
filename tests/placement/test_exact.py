from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from agent.placement.baselines import brute_force, random_rows
from agent.placement.bounds import bounds
from agent.placement.exact import exact_front
from agent.placement.pareto import Archive
from agent.placement.problem import Problem
from tests.placement.problems import problems, random_problem


@settings(max_examples=120, deadline=None)
@given(problem=problems())
def test_exact_front_equals_brute_force(problem: Problem) -> None:
    truth = brute_force(problem)

    found = exact_front(problem)

    assert found.complete
    assert found.points.tobytes() == truth.points.tobytes()
    assert problem.objectives(found.assignments).tobytes() == found.points.tobytes()
    assert problem.feasible(found.assignments).all()


@settings(max_examples=120, deadline=None)
@given(problem=problems())
def test_exact_front_is_the_same_when_pruned_by_known_points(problem: Problem) -> None:
    truth = brute_force(problem)
    rows = random_rows(problem.allowed, np.random.default_rng(0), 60)
    rows = np.concatenate([rows[problem.feasible(rows)], truth.assignments[::2]])
    known = (problem.objectives(rows), rows)

    found = exact_front(problem, known=known)

    assert found.points.tobytes() == truth.points.tobytes()
    assert problem.objectives(found.assignments).tobytes() == found.points.tobytes()


@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_no_label_that_leads_to_a_front_point_is_called_hopeless(problem: Problem) -> None:
    truth = brute_force(problem)
    limits = bounds(problem)
    archive = Archive(problem.stage_count, 100)
    rest = np.arange(len(truth)) % 2 == 0
    archive.merge(truth.points[rest], truth.assignments[rest])
    for row in truth.assignments[~rest]:
        for stage in range(problem.stage_count):
            part = np.arange(stage + 1)
            link = np.arange(stage)
            sums = np.array(
                [
                    problem.energy[part, row[part]].sum()
                    + problem.transfer_energy[link, row[link], row[link + 1]].sum(),
                    problem.latency[part, row[part]].sum()
                    + problem.transfer_latency[link, row[link], row[link + 1]].sum(),
                    problem.busy_util_num[part, row[part]].sum(),
                    problem.busy_den[part, row[part]].sum(),
                ]
            )
            assert limits.hopeful(sums[None, :], stage, int(row[stage]), archive)[0]


def test_known_points_leave_fewer_labels() -> None:
    problem = random_problem(3, 12, 3, room=9.0)
    plain = exact_front(problem)

    pruned = exact_front(problem, known=(plain.points, plain.assignments))

    assert pruned.labels < plain.labels
    assert pruned.points.tobytes() == plain.points.tobytes()


@pytest.mark.parametrize(
    "limit",
    [{"label_limit": 20}, {"comparison_limit": 20}, {"evaluation_limit": 20}, {"stop": lambda: True}],
    ids=["labels", "comparisons", "evaluations", "stop"],
)
def test_a_limit_gives_no_front_rather_than_a_wrong_one(limit: dict[str, object]) -> None:
    found = exact_front(random_problem(3, 10, 3, room=9.0), **limit)  # type: ignore[arg-type]

    assert not found.complete
    assert len(found.points) == len(found.assignments) == 0


def test_a_paced_search_gives_up_before_the_limit_is_used() -> None:
    problem = random_problem(3, 14, 3, room=9.0)
    total = exact_front(problem).comparisons

    paced = exact_front(problem, comparison_limit=total // 3, paced=True)
    plain = exact_front(problem, comparison_limit=total // 3)

    assert not paced.complete
    assert paced.comparisons < plain.comparisons


def test_an_infeasible_problem_has_an_empty_front() -> None:
    found = exact_front(random_problem(5, 6, 3, room=0.01))

    assert found.complete
    assert len(found.points) == 0


def test_more_labels_than_the_limit_in_one_group_end_the_search_before_they_are_compared() -> None:
    found = exact_front(random_problem(3, 10, 3, room=9.0), label_limit=0)

    assert not found.complete
    assert found.comparisons == 0
