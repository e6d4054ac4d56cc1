"""Split points: the best places to change accelerator, and a split only where it is worth more than the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.placement import split_points
from agent.placement.pace import pace_of
from agent.placement.problem import Problem
from agent.placement.split_points import STAYS, Timed, along, beats, best, fastest_as_measured
from agent.placement.tables import Tables
from agent.schema.policy import Objective, Weights

LATENCY = Objective(method="weights", weights=Weights(energy=1, latency=1, underutilisation=0))
SIZES = [10.0, 20.0, 30.0, 40.0]


def tables(handover_s: float = 0.001, capacity: float = 100.0) -> Tables:
    """Four stages: the first two are quick on a, the last two on b."""
    latency = np.array([[0.01, 0.1], [0.01, 0.1], [0.1, 0.01], [0.1, 0.01]])
    crossing = np.where(np.eye(2, dtype=bool), 0.0, handover_s)[None].repeat(3, axis=0)
    problem = Problem(
        latency=latency, energy=latency * 2, busy_util_num=latency * 0.5, busy_den=latency,
        transfer_latency=crossing, transfer_energy=crossing * 3, memory=np.full((4, 2), 10.0),
        capacity=np.array([capacity, capacity]), allowed=np.ones((4, 2), bool), accelerators=("a", "b"),
    )  # fmt: skip
    pace = pace_of(latency, crossing, ("a", "b"), ("m", "n"), np.zeros((4, 2), bool))
    return Tables(problem, (), (), pace, (("a",), ("b",)), ("a", "b"))


def test_the_best_split_runs_each_stage_where_it_is_quick():
    point = best(tables(), LATENCY, SIZES, 3, 5.0)[0]
    assert point.label == "a+b"
    first, second = point.parts
    assert (first.begin, first.end, second.begin, second.end) == (0, 2, 2, 4)
    assert first.time_s == pytest.approx(0.02)
    assert second.handover_s == pytest.approx(0.001)
    assert second.crossing_bytes == 20.0
    assert point.objectives[1] == pytest.approx(0.041)


def test_no_split_is_found_nor_searched_within_one_piece_of_silicon(monkeypatch):
    ways = replace(tables(), silicon=("cpu", "cpu"))
    monkeypatch.setattr(split_points, "solve", None)  # every start would wait for it
    assert best(ways, LATENCY, SIZES, 3, 5.0) == []
    assert along(ways, ["a", "b"], LATENCY, SIZES, 1)[0].label == "a+b"  # an owner may ask for one


def test_a_split_is_taken_where_it_beats_the_whole_and_not_where_hand_overs_eat_the_gain():
    cheap, dear = tables(), tables(handover_s=1.0)
    assert beats(best(cheap, LATENCY, SIZES, 1, 5.0)[0], cheap, "a", LATENCY, in_force=False)
    point = along(dear, ["a", "b"], LATENCY, SIZES, 1)[0]
    assert not beats(point, dear, "a", LATENCY, in_force=False)


def test_a_whole_placement_that_cannot_be_compared_is_not_beaten():
    assert not beats(best(tables(), LATENCY, SIZES, 1, 5.0)[0], tables(), "c", LATENCY, in_force=False)


def test_a_small_gain_keeps_a_split_in_force_but_does_not_begin_one():
    slow = tables(handover_s=0.0)
    whole_s = slow.problem.objectives(np.zeros((1, 4), np.int8))[0]
    near = split_points.SplitPoint((), (whole_s[0] * 0.99, whole_s[1] * 0.99, whole_s[2]))
    assert beats(near, slow, "a", LATENCY, in_force=True)
    assert not beats(near, slow, "a", LATENCY, in_force=False)


def test_throughput_counts_the_period_of_the_pipeline():
    objective = LATENCY.model_copy(update={"goal": "throughput"})
    point = best(tables(), objective, SIZES, 1, 5.0)[0]
    assert point.objectives[1] < 0.041


def test_nothing_is_offered_that_is_too_late_or_does_not_fit():
    assert best(tables(), LATENCY, SIZES, 3, 0.0001) == []
    assert along(tables(capacity=15.0), ["a", "b", "a"], LATENCY, SIZES, 3) == []


def test_a_named_placement_is_cut_at_its_best_place():
    point = along(tables(), ["b", "a"], LATENCY, SIZES, 1)[0]
    assert point.label == "b+a"
    assert len(along(tables(), ["b", "a"], LATENCY, SIZES, 9)) == 3


def test_positions_that_are_tried_are_bounded(monkeypatch):
    monkeypatch.setattr(split_points, "MAX_POSITIONS", 2)
    assert len(along(tables(), ["b", "a"], LATENCY, SIZES, 9)) == 2


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "tpu"], r"'tpu' cannot run it \(that can: a, b\)"),
        (["a"], "name 2 to 6 accelerators"),
        (["a", "a"], "each other than the last"),
        (["a", "b", "a", "b", "a"], "4 stages, too few for 5 parts"),
    ],
)
def test_a_name_that_is_no_split_is_refused(names, words):
    with pytest.raises(ValueError, match=words):
        along(tables(), names, LATENCY, SIZES, 1)


def as_measured(whole_s, split_s, serving="a", objective=LATENCY, static_w=None, split="a+b", whole="a"):
    point = along(tables(), split.split("+"), LATENCY, SIZES, 1)[0]
    return fastest_as_measured(
        whole, whole_s, [Timed(point, split_s)], tables(), static_w or {}, objective, serving
    )  # fmt: skip


def test_what_was_measured_decides_between_a_split_and_the_whole_whatever_was_predicted():
    fast = Objective(method="lexicographic", order=("latency",), tolerance=0)
    assert as_measured(0.2, 0.1, objective=fast) == "a+b"
    assert as_measured(0.01, 0.011, "a+b", objective=fast) == "a"


def test_who_serves_stays_where_another_is_hardly_better():
    fast = Objective(method="lexicographic", order=("latency",), tolerance=0)
    near, far = 0.1 / (1.0 + STAYS / 2.0), 0.1 / (1.0 + STAYS * 2.0)
    assert as_measured(0.1, near, "a", objective=fast) == "a"
    assert as_measured(0.1, near, None, objective=fast) == "a"
    assert as_measured(0.1, near, "a+b", objective=fast) == "a+b"
    assert as_measured(0.1, far, "a", objective=fast) == "a+b"


def test_joules_of_being_on_last_as_long_as_was_measured():
    # both a fifth of a second: the split has a quarter of the modelled joules, unless being on costs most of them
    frugal = Objective(method="lexicographic", order=("energy",), tolerance=0)
    assert as_measured(0.2, 0.2, objective=frugal) == "a+b"
    assert as_measured(0.2, 0.8, objective=frugal, static_w={"a": 1.0, "b": 1.0}) == "a"


def test_a_whole_placement_of_unknown_energy_is_not_beaten_by_times():
    assert as_measured(9.0, 0.01, whole="c") == "c"
