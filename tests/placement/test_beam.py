from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.placement.baselines import brute_force
from agent.placement.beam import Scalarised, fitting_paths
from agent.placement.moves import costs, totals
from agent.placement.problem import Problem
from agent.placement.seeds import beamed, seeds, weight_vectors
from tests.placement.problems import problems, random_problem


def _weighted(problem: Problem, weights: np.ndarray, price: float) -> Scalarised:
    tables = costs(problem)
    column = weights[:, :, None, None]
    stage = column[:, 0] * problem.energy + column[:, 1] * problem.latency + np.where(problem.allowed, 0.0, np.inf)
    return Scalarised(
        stage,
        lambda at: column[:, 0] * problem.transfer_energy[at] + column[:, 1] * problem.transfer_latency[at],
        tables.stage[4:],
        tables.capacity,
        np.full((len(weights), len(tables.capacity)), price),
    )


@settings(deadline=None, max_examples=60)
@given(problem=problems(), price=st.sampled_from((0.0, 0.3, 5.0)))
def test_what_a_beam_returns_fits_is_allowed_and_appears_once_for_each_weighting(
    problem: Problem, price: float
) -> None:
    rows = fitting_paths(_weighted(problem, np.array([[1.0, 0.2]]), price), 4)

    assert problem.feasible(rows).all()
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert len(rows) <= 4 * problem.accelerator_count


@settings(deadline=None, max_examples=60)
@given(problem=problems(), price=st.sampled_from((0.0, 0.3, 5.0)))
def test_a_beam_that_keeps_everything_holds_the_cheapest_assignment_that_fits(problem: Problem, price: float) -> None:
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [0.4, 0.6]])
    truth = brute_force(problem)

    rows = fitting_paths(_weighted(problem, weights, price), 20_000)

    if not len(truth):
        assert not len(rows)
        return
    best = (weights @ truth.points[:, :2].T).min(axis=1)
    found = weights @ totals(costs(problem), rows)[:2]
    assert found.min(axis=1) == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_layers_that_are_alike_take_one_place_in_the_beam() -> None:
    problem = random_problem(3, 1, 3, room=0.4)
    stages = 10
    alike = Problem(
        *(np.repeat(table, stages, axis=0) for table in (problem.latency, problem.energy)),
        *(np.repeat(table, stages, axis=0) for table in (problem.busy_util_num, problem.busy_den)),
        np.zeros((stages - 1, 3, 3)),
        np.zeros((stages - 1, 3, 3)),
        np.repeat(problem.memory, stages, axis=0),
        np.array([1.2, 1.2, 100.0]),
        np.ones((stages, 3), dtype=bool),
        np.arange(3),
    )

    rows = fitting_paths(_weighted(alike, np.array([[1.0, 0.0]]), 0.0), 30)

    counts = {(row[-1], *np.bincount(row, minlength=3)) for row in rows}
    assert len(counts) == len(rows) > 30


def test_where_memory_cannot_bind_there_is_no_beam() -> None:
    assert beamed(costs(random_problem(5, 20, 3, room=9.0))) == 0


def test_seeds_reach_further_into_tight_memory_than_priced_paths_alone() -> None:
    problem, rng = random_problem(11, 40, 3, room=0.5), np.random.default_rng(1)
    tables = costs(problem)

    met, last = seeds(tables, problem.allowed, rng, weight_vectors(rng, 12), beams=12)

    fitting, paths = met[problem.feasible(met)], last[problem.feasible(last)]
    assert len(fitting) > 10 * len(paths)
    assert (problem.objectives(fitting).min(axis=0) <= problem.objectives(paths).min(axis=0)).all()
    assert (problem.objectives(fitting).min(axis=0)[:2] < problem.objectives(paths).min(axis=0)[:2]).any()
