"""Squeezing keeps an honest picture's answer and is measured as a change of probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from agent.control import squeeze


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((1, 3, 8, 8), "NCHW"), ((2, 8, 8, 3), "NHWC"), ((1, 1, 8, 8), "NCHW"), ((1, 8, 8), None), ((1, 8, 8, 8), None),
     ((1, 3, 4, 4), None), ((0, 3, 8, 8), None)],
)  # fmt: skip
def test_a_picture_is_known_by_its_channels(shape, layout):
    assert squeeze.layout_of(np.zeros(shape, np.float32)) == layout


def test_whole_numbers_are_not_squeezed():
    assert squeeze.layout_of(np.zeros((1, 3, 8, 8), np.uint8)) is None
    assert squeeze.squeezed({"x": np.zeros((1, 2048), np.int32)}) == []


def test_fewer_bits_leave_so_many_values_and_the_ends():
    x = np.linspace(-1, 3, 1000, dtype=np.float32).reshape(1, 1, 10, 100)
    made = squeeze.fewer_bits(x, 3)
    assert len(np.unique(made)) == 8
    assert (made.min(), made.max(), made.dtype) == (-1, 3, np.float32)
    assert np.abs(made - x).max() <= 4 / 7 / 2 + 1e-6
    np.testing.assert_array_equal(squeeze.fewer_bits(np.full((2, 2), 5.0)), np.full((2, 2), 5.0))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_median_removes_single_points_and_keeps_areas(layout):
    x = np.zeros((1, 1, 8, 8) if layout == "NCHW" else (1, 8, 8, 1), np.float32)
    x.reshape(8, 8)[:, :4] = 1.0
    area = squeeze.smoothed(x, layout, 3)
    np.testing.assert_array_equal(area, x)
    x.reshape(8, 8)[2, 6] = 9.0
    assert squeeze.smoothed(x, layout, 3).max() == 1.0
    assert squeeze.smoothed(x, layout).shape == x.shape


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_median_is_taken_over_rows_and_columns_and_not_over_channels(layout):
    planes = np.stack([np.full((8, 8), value, np.float32) for value in (0.0, 5.0, 1.0)])
    x = planes[None] if layout == "NCHW" else np.moveaxis(planes, 0, -1)[None]
    np.testing.assert_array_equal(squeeze.smoothed(x, layout, 3), x)


def test_both_squeezed_inputs_keep_everything_that_is_no_picture():
    inputs = {"x": np.random.default_rng(1).random((1, 3, 8, 8)).astype(np.float32), "n": np.array([3])}
    bits, smooth = squeeze.squeezed(inputs)
    assert bits["n"] is inputs["n"]
    assert smooth["n"] is inputs["n"]
    assert not np.array_equal(bits["x"], inputs["x"])
    assert not np.array_equal(smooth["x"], inputs["x"])


def test_disagreement_is_the_l1_distance_of_probabilities():
    a = {"y": np.array([[1.0, 0.0], [0.5, 0.5]], np.float32)}
    b = {"y": np.array([[0.0, 1.0], [0.5, 0.5]], np.float32)}
    assert squeeze.disagreement(a, a) == 0.0
    assert squeeze.disagreement(a, b) == pytest.approx(2.0)
    logits = {"y": np.array([[0.0, 100.0]], np.float32)}, {"y": np.array([[100.0, 0.0]], np.float32)}
    assert squeeze.disagreement(*logits) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("a", "b"),
    [({"y": np.zeros(3, np.int64)}, {"y": np.zeros(3, np.int64)}), ({"y": np.zeros(3)}, {}),
     ({"y": np.zeros(3)}, {"y": np.zeros(4)}), ({"y": np.array(1.0)}, {"y": np.array(1.0)}),
     ({"y": np.zeros((1, 0))}, {"y": np.zeros((1, 0))})],
)  # fmt: skip
def test_answers_that_cannot_be_compared_do_not_disagree(a, b):
    assert squeeze.disagreement(a, b) is None
