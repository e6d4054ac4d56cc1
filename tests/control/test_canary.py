"""A known input has a known answer, and what lies too far from it is told in words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control import canary
from agent.schema.bfloat16 import from_floats
from agent.schema.workload import TensorSpec


def spec(datatype="FP32", shape=(1, 3), name="x"):
    return TensorSpec(name=name, datatype=datatype, shape=shape)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BOOL", "INT8", "UINT8", "INT64"])
def test_every_numeric_datatype_gets_the_same_inputs_for_the_same_seed(datatype):
    first, again = (canary.make_inputs([spec(datatype, (-1, 4))], 7) for _ in range(2))
    other = canary.make_inputs([spec(datatype, (8, 40))], 8)
    assert first["x"].shape == (1, 4)
    np.testing.assert_array_equal(first["x"], again["x"])
    assert 0 <= other["x"].min() <= other["x"].max() <= 1


@pytest.mark.parametrize("datatype", ["BYTES", "BF16"])
def test_no_input_is_made_up_for_texts_and_raw_bits(datatype):
    assert canary.make_inputs([spec(), spec(datatype, name="y")], 1) is None


def test_no_input_is_made_for_a_model_without_inputs_or_with_a_huge_one():
    assert canary.make_inputs([], 1) is None
    assert canary.make_inputs([spec(shape=(canary.MAX_ELEMENTS, 1))], 1) is not None
    assert canary.make_inputs([spec(shape=(canary.MAX_ELEMENTS + 1, 1))], 1) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_an_answer_does_not_deviate_from_itself(values):
    array = np.array(values)
    assert canary.deviation(array, array.copy()) == 0.0


def test_deviation_is_a_share_of_the_largest_magnitude():
    assert canary.deviation(np.array([10.0, 0.0]), np.array([10.0, 1.0])) == pytest.approx(0.1)
    assert canary.deviation(np.array([-10.0, np.inf]), np.array([-9.0, np.inf])) == pytest.approx(0.1)
    assert canary.deviation(np.array([np.nan, 2.0]), np.array([np.nan, 1.0])) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (np.zeros((1, 2)), np.zeros((2, 1))),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.zeros(1), np.array([np.nan])),
        (np.array([np.nan]), np.zeros(1)),
        (np.array([np.inf]), np.array([-np.inf])),
        (np.array(["a"], object), np.array(["b"], object)),
    ],
)
def test_another_shape_type_or_value_that_is_no_number_deviates_without_end(expected, got):
    assert canary.deviation(expected, got) == float("inf")


def test_texts_and_empty_arrays_may_be_equal():
    assert canary.deviation(np.array(["a"], object), np.array(["a"], object)) == 0.0
    assert canary.deviation(np.zeros((0, 2)), np.zeros((0, 2))) == 0.0


def test_a_deviation_from_all_zeros_is_seen():
    assert canary.deviation(np.zeros(2), np.array([0.0, 1e-3])) > canary.SAME_UNIT


def one(*values, dtype=np.float32):
    return {"y": np.array(values, dtype)}


def bits(*values):
    return {"y": from_floats(np.array(values))}


@pytest.mark.parametrize(
    ("expected", "got", "other_unit", "wrong"),
    [
        (bits(1.0, 0.0), bits(1.0, -0.0), False, False),
        (bits(1.0, 0.0), bits(1.0 + 2.0**-7, 0.0), False, False),
        (bits(1.0, 0.0), bits(1.0 + 2.0**-6, 0.0), False, True),
        (bits(1.0, 0.0), bits(5.0, -7.0), True, True),
        (one(1.0, 0.0), one(1.0, 0.0009), False, False),
        (one(1.0, 0.0), one(1.0, 0.0011), False, True),
        (one(1.0, 0.0), one(1.0, 0.24), True, False),
        (one(1.0, 0.0), one(1.0, 0.26), True, True),
        (one(5, 3, dtype=np.int64), one(5, 2, dtype=np.int64), False, True),
        (one(5, 3, dtype=np.int64), one(1, 2, dtype=np.int64), True, False),
        (one(100, 3, dtype=np.uint8), one(101, 3, dtype=np.uint8), False, False),
        (one(True, False, dtype=bool), one(False, False, dtype=bool), False, True),
        (one(100, 3, dtype=np.uint8), one(102, 3, dtype=np.uint8), False, True),
        (one(dtype=np.uint8), one(dtype=np.uint8), False, False),
        (one(1.0), {}, False, True),
        (one(5, 3, dtype=np.int64), one(5, dtype=np.int64), True, True),
    ],
)
def test_how_far_an_answer_may_lie_from_the_known_one(expected, got, other_unit, wrong):
    assert (canary.judge(expected, got, other_unit) is not None) == wrong


def test_the_finding_names_the_output():
    assert "'y'" in canary.judge(one(1.0), one(3.0), False)
    assert "'y' is missing" in canary.judge(one(1.0), {}, False)
