"""One rule of preference for points of a front and for whole-model placements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.preference import best_first, frame, scores, terms
from agent.placement.ranking import Option, rank
from agent.placement.selection import select
from agent.schema.policy import Objective, Weights
from agent.storage import share, yaml_files

ORDERS = st.permutations(["energy", "latency", "underutilisation"]).flatmap(
    lambda names: st.integers(1, 3).map(lambda count: tuple(names[:count]))
)
OBJECTIVES = st.one_of(
    st.tuples(*[st.floats(0.0, 5.0)] * 2, st.floats(0.01, 5.0)).map(
        lambda w: Objective(method="weights", weights=Weights(energy=w[0], latency=w[1], underutilisation=w[2]))
    ),
    st.just(Objective(method="knee")),
    st.tuples(ORDERS, st.sampled_from((0.0, 0.02, 0.5))).map(
        lambda drawn: Objective(method="lexicographic", order=drawn[0], tolerance=drawn[1])
    ),
)
ROWS = st.lists(
    st.tuples(st.floats(1e-3, 1e3), st.floats(1e-6, 1e2), st.floats(0.0, 1.0)), min_size=2, max_size=12, unique=True
)


@given(ROWS, OBJECTIVES)
def test_the_first_and_second_of_a_ranking_are_the_choice_and_the_runner_up_of_a_selection(rows, objective):
    options = [Option(str(i), *row) for i, row in enumerate(rows)]
    ranked = [int(option.name) for option in rank(options, objective)]
    choice = select(rows, objective)
    assert [choice.index, choice.runner_up] == ranked[:2]
    assert sorted(ranked) == list(range(len(rows)))


@given(ROWS, st.tuples(*[st.floats(0.1, 5.0)] * 3))
def test_with_weights_the_order_of_two_does_not_depend_on_the_others(rows, weights):
    wanted = Weights(energy=weights[0], latency=weights[1], underutilisation=weights[2])
    objective = Objective(method="weights", weights=wanted)
    options = [Option(str(i), *row) for i, row in enumerate(rows)]
    among_all = [o.name for o in rank(options, objective) if o.name in ("0", "1")]
    assert [o.name for o in rank(options[:2], objective)] == among_all


def test_equal_weights_order_by_the_energy_delay_product():
    objective = Objective(method="weights", weights=Weights(energy=1, latency=1, underutilisation=0))
    rows = np.array([[1.0, 6.0, 0.0], [5.0, 1.0, 0.9], [2.0, 2.0, 0.9]])
    assert best_first(rows, objective, frame(rows), 3).tolist() == [2, 1, 0]
    gap = scores(rows * [1.0, 1.02, 1.0], objective, frame(rows)) - scores(rows, objective, frame(rows))
    assert gap == pytest.approx([np.log(1.02) / 2] * 3)


def test_a_knee_is_sought_among_the_options_given():
    rows = np.array([[0.0, 2.0, 0.5], [2.0, 0.0, 0.5], [0.5, 0.5, 0.5]])
    assert best_first(rows, Objective(method="knee"), frame(rows), 1).tolist() == [2]


def test_what_costs_nothing_has_a_finite_score():
    assert np.isfinite(terms(np.zeros((1, 3)))).all()


def test_lexicographic_ranks_everything_and_the_last_objective_is_strict():
    rows = np.array([[1.0, 3.0, 0.0], [1.01, 2.0, 0.0], [9.0, 1.0, 0.0]])
    objective = Objective(method="lexicographic", order=("energy", "latency"), tolerance=0.02)
    assert best_first(rows, objective, frame(rows), 9).tolist() == [1, 0, 2]


def test_who_misses_the_deadline_stands_behind_who_keeps_it():
    objective = Objective(method="weights", weights=Weights(energy=1, latency=0, underutilisation=0))
    options = [Option("frugal", 1.0, 9.0, 0.0), Option("late", 2.0, 8.0, 0.0), Option("fast", 5.0, 1.0, 0.0)]
    assert [o.name for o in rank(options, objective)] == ["frugal", "late", "fast"]
    assert [o.name for o in rank(options, objective, deadline_s=2.0)] == ["fast", "frugal", "late"]
    assert [o.name for o in rank(options, objective, deadline_s=0.5)] == ["frugal", "late", "fast"]


FEWEST_JOULES = Objective(method="lexicographic", order=("energy", "latency", "underutilisation"), tolerance=0.0)


@given(ROWS, OBJECTIVES)
def test_who_wants_fewest_joules_never_takes_more_than_any_other_policy(rows, objective):
    points = np.array(rows)
    fewest, other = (points[select(points, wish).index or 0, 0] for wish in (FEWEST_JOULES, objective))
    assert fewest <= other


@given(ROWS, OBJECTIVES, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_the_options(rows, objective, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    chosen = [tuple(r[select(r, objective).index or 0]) for r in (np.array(rows), np.array(shuffled))]
    assert chosen[0] == chosen[1]


@given(ROWS, OBJECTIVES.filter(lambda objective: objective.method != "knee"))
def test_what_another_one_beats_is_never_chosen(rows, objective):
    points = np.array(rows)
    chosen = points[select(points, objective).index or 0]
    assert not ((points <= chosen).all(axis=1) & (points < chosen).any(axis=1)).any()


def test_the_shipped_policies_that_promise_fewest_joules_want_nothing_else_first():
    for name in ("max-efficiency", "battery"):
        objective = yaml_files.load_policy(share.find_policy(name)).objective
        assert (objective.method, objective.order[0], objective.tolerance) == ("lexicographic", "energy", 0.0)
