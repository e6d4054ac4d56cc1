from __future__ import annotations

import numpy as np
import pytest

from agent.errors import PlacementError
from agent.placement.pareto import normalised_hypervolume
from agent.placement.problem import Problem
from agent.placement.solve import solve
from agent.placement.warm import WARM_LIMIT, repair, replan, thin, without
from tests.placement.problems import random_problem


def board(room: float = 0.9) -> Problem:
    return random_problem(6, 24, 4, room=room)


def test_placements_survive_the_loss_of_an_accelerator() -> None:
    problem = board(9.0)
    old = solve(problem, evaluations=300_000, certify=False).assignments()
    left = without(problem, ["1"])

    archive = repair(left, old)

    assert len(archive) > 0
    assert left.feasible(archive.assignments).all()
    assert not (archive.assignments == 1).any()
    assert left.objectives(archive.assignments).tobytes() == archive.points.tobytes()


def test_stages_leave_memory_that_shrank() -> None:
    problem = board(9.0)
    old = solve(problem, evaluations=100_000, certify=False).assignments()
    used = problem.memory_used(old[:1])[0]
    old = old[:1]
    small = Problem.from_arrays(problem.arrays() | {"capacity": np.maximum(used * 0.8, 4.0)})
    assert not small.feasible(old).all()

    assert small.feasible(repair(small, old[:1]).assignments).all()


@pytest.mark.parametrize("capacity", [0.55, 0.45])
def test_when_no_old_placement_can_be_mended_any_that_fits_is_found(capacity: float) -> None:
    problem = board(capacity)
    wrong = np.zeros((1, 24), dtype=np.int8)

    assert problem.feasible(repair(problem, wrong).assignments).all()
    assert problem.feasible(repair(problem, wrong[:0]).assignments).all()


def test_repair_of_the_impossible_names_what_binds() -> None:
    with pytest.raises(PlacementError, match="no placement fits"):
        repair(board(0.05), np.zeros((1, 24), dtype=np.int8))


def test_replan_starts_from_the_old_placements() -> None:
    problem = board()
    old = solve(problem, evaluations=600_000, certify=False)
    left = without(problem, ["2"])
    first = repair(left, thin(old.assignments())).points

    found = replan(left, old.assignments(), seed=1, evaluations=100_000)

    assert left.feasible(found.assignments()).all()
    assert normalised_hypervolume(found.points(), first) >= normalised_hypervolume(first, first)


def test_thinning_keeps_both_ends_and_the_bound() -> None:
    rows = np.arange(1000, dtype=np.int64)[:, None].astype(np.int8)

    assert len(thin(rows)) == WARM_LIMIT
    assert thin(rows)[0] == rows[0]
    assert thin(rows)[-1] == rows[-1]
    assert thin(rows[:5]).tolist() == rows[:5].tolist()


def test_losing_the_only_accelerator_of_a_stage_names_the_stage() -> None:
    arrays = board().arrays()
    allowed = np.ones((24, 4), dtype=bool)
    allowed[5] = [False, True, False, False]
    problem = Problem.from_arrays(arrays | {"allowed": allowed})

    with pytest.raises(PlacementError, match="stage '5' may run only on 1"):
        without(problem, ["1"])
    with pytest.raises(PlacementError, match="no accelerator 'tpu' among 0, 1, 2, 3"):
        without(problem, ["tpu"])
