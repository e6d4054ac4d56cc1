"""Statistics of inputs and facts of model files: what was learnt, what lies far from it, and what may not be served."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control import input_statistics as stats
from agent.control import model_guard
from agent.control.model_guard import ModelFacts
from agent.schema.bfloat16 import from_floats
from agent.schema.guard import ModelGuard


def learnt(count=60, seed=0, shape=(1, 3, 20, 20), dtype=np.float32):
    rng = np.random.default_rng(seed)
    known = stats.empty()
    for _ in range(count):
        image = rng.random(shape) * rng.uniform(0.5, 1.0)
        known = stats.learn(known, image.astype(dtype))
    return known


def test_inputs_like_those_learnt_lie_near_and_others_far():
    known, rng = learnt(), np.random.default_rng(9)
    near = [
        stats.distance(known, (rng.random((1, 3, 20, 20)) * rng.uniform(0.5, 1.0)).astype(np.float32))
        for _ in range(40)
    ]
    assert max(near) < 6.0
    assert np.median(near) == pytest.approx(1.0, abs=0.6)
    for strange in (np.zeros((1, 3, 20, 20)), rng.random((1, 3, 20, 20)) * 255, np.full((1, 3, 20, 20), 0.5),
                    rng.standard_normal((1, 3, 20, 20))):  # fmt: skip
        assert stats.distance(known, strange.astype(np.float32)) > 6.0


def test_nothing_is_said_before_enough_was_learnt():
    image = np.ones((1, 3, 20, 20), np.float32)
    assert stats.distance(learnt(stats.ENOUGH - 1), image * 900) is None
    assert stats.distance(learnt(stats.ENOUGH), image * 900) > 6.0
    assert stats.outside(learnt(stats.ENOUGH - 1), image * 900) is None
    assert stats.outside(learnt(stats.ENOUGH), image * 900) == 900.0


@pytest.mark.parametrize("tensor", [np.array(["a"], object), np.zeros((0, 3), np.float32), np.array([np.nan, 1.0])])
def test_what_has_no_features_is_neither_learnt_nor_judged(tensor):
    known = learnt()
    assert stats.learn(known, tensor) is known
    assert stats.distance(known, tensor) is None


@pytest.mark.parametrize("tensor", [np.array(["a"], object), np.zeros((0, 3), np.float32)])
def test_texts_and_empty_inputs_are_in_no_range(tensor):
    assert stats.outside(learnt(), tensor) is None


def test_the_range_is_widened_by_a_quarter_on_both_sides():
    known = stats.empty()
    for _ in range(stats.ENOUGH):
        known = stats.learn(known, np.array([0.0, 1.0, 4.0]))
    assert stats.outside(known, np.array([-1.0, 5.0])) is None
    assert stats.outside(known, np.array([-1.01, 5.0])) == -1.01
    assert stats.outside(known, np.array([-1.0, 5.01])) == 5.01
    assert stats.outside(known, np.array([-9.0, 5.01])) == -9.0


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_an_input_with_one_value_that_is_not_finite_has_no_features(odd):
    assert stats.features(np.array([1.0, odd, 2.0])) is None


def test_the_seven_numbers_are_mean_deviation_ends_zeros_steps_and_how_much_lies_at_the_ends():
    values = np.array([0.0, 1.0, 5.0, 5.0, 2.0, 3.0, 3.0, 5.0])
    assert stats.features(values).tolist() == pytest.approx([3.0, 3.25**0.5, 0.0, 5.0, 0.125, 11 / 7, 0.5])


def test_bfloat16_is_summed_up_by_its_numbers_and_not_by_its_bits():
    values = np.array([1.0, 2.0, -3.0, 0.5])
    assert stats.features(from_floats(values)).tolist() == stats.features(values).tolist()
    known = stats.empty()
    for _ in range(stats.ENOUGH):
        known = stats.learn(known, from_floats(values))
    assert stats.outside(known, from_floats(values * 100)) is not None
    assert stats.outside(known, from_floats(values)) is None


def test_an_input_of_one_element_has_features():
    assert stats.features(np.array([3.0])).tolist() == [3.0, 0.0, 3.0, 3.0, 0.0, 0.0, 1.0]
    assert stats.features(np.array([True, False])).tolist()[4] == 0.5


def test_of_a_large_input_blocks_of_neighbours_are_looked_at():
    large = np.arange(1_000_000, dtype=np.float64)
    taken = stats.sample(large)
    assert taken.size == stats.BLOCKS * stats.BLOCK
    assert taken[0] == 0
    assert taken[-1] == 999_999
    assert taken[1] - taken[0] == 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40))
def test_mean_and_deviation_are_those_of_all_inputs(values):
    known = stats.empty()
    for value in values:
        known = stats.learn(known, np.array([value, value]))
    assert known.count == len(values)
    assert known.mean[0] == pytest.approx(np.mean(values), abs=1e-6)
    assert known.scatter[0][0] == pytest.approx(np.var(values) * len(values), rel=1e-6, abs=1e-3)
    assert (known.low, known.high) == (min(values), max(values))


def test_inputs_that_never_varied_do_not_make_every_other_one_infinitely_far():
    known = stats.empty()
    for _ in range(50):
        known = stats.learn(known, np.full(16, 2.0))
    assert stats.distance(known, np.full(16, 2.0)) == pytest.approx(0.0)
    assert 0 < stats.distance(known, np.full(16, 3.0)) < 1e9


def facts(**changes):
    given = {"digest": "d", "size_bytes": 10, "opset": 17, "operators": frozenset({("", "Conv"), ("", "Relu")})}
    return ModelFacts(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "limits", "kinds"),
    [
        ({}, {}, []),
        ({"size_bytes": 11}, {"max_bytes": 10}, ["size"]),
        ({"size_bytes": 10}, {"max_bytes": 10}, []),
        ({"opset": 18}, {"max_opset": 17}, ["opset"]),
        ({"opset": 17}, {"max_opset": 17}, []),
        ({"opset": None}, {"max_opset": 17}, []),
        ({}, {"digests": ("e",)}, ["digest"]),
        ({}, {"digests": ("e", "d")}, []),
        ({"outside": ("../../etc/shadow",)}, {}, ["outside"]),
        ({"operators": frozenset({("evil.org", "Shell")})}, {}, ["custom"]),
        ({"operators": frozenset({("evil.org", "Shell")})}, {"custom_operators": "ignore"}, []),
        ({"operators": frozenset({("com.microsoft", "FusedConv"), ("ai.onnx.ml", "Scaler")})}, {}, []),
        ({}, {"forbidden_operators": ("Relu",)}, ["forbidden"]),
        ({}, {"allowed_operators": ("Conv",)}, ["unlisted"]),
        ({}, {"allowed_operators": ("Conv", "Relu")}, []),
    ],
)
def test_what_speaks_against_a_model_file(changes, limits, kinds):
    verdict = model_guard.judge(facts(**changes), ModelGuard(**limits))
    assert [f.kind for f in verdict.findings] == kinds
    assert (verdict.action == "allow") == (not kinds)


def test_only_some_of_many_operators_are_named():
    many = frozenset(("evil.org", f"Op{i}") for i in range(7))
    verdict = model_guard.judge(facts(operators=many), ModelGuard())
    assert "and 2 more" in verdict.sentence
    assert "'evil.org:Op0'" in verdict.sentence
