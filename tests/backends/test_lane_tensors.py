"""What every lane promises of the tensors that cross: any shape, any size, any layout, text; bits are kept."""

from __future__ import annotations

import numpy as np
import pytest

from tests.backends.conftest import (
    Models,
    Rig,
    ramp,
)


@pytest.mark.parametrize("rows", [1, 4, 3000])
def test_free_dimensions_take_any_size(rig: Rig, models: Models, rows: int) -> None:
    lane = rig.lane()
    report = rig.load(lane, models.free)
    x = ramp((rows, 257))

    reply = rig.run(lane, {"x": x})

    assert report.inputs[0].shape == (-1, -1)
    np.testing.assert_array_equal(reply.outputs["y"], x + 1)


def test_empty_tensors_cross(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.free)

    assert rig.run(lane, {"x": np.zeros((0, 5), np.float32)}).outputs["y"].shape == (0, 5)


def test_an_answer_larger_than_the_question_crosses(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.grow)

    reply = rig.run(lane, {"x": np.full(1, 7, np.float32), "shape": np.array([500_000], np.int64)})

    np.testing.assert_array_equal(reply.outputs["y"], np.full(500_000, 7, np.float32))


def test_large_answers_stay_valid_while_they_are_referenced(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.five_megabytes)
    inputs = [np.full((1, 1_310_720), number, np.float32) for number in range(20)]

    kept = [rig.run(lane, {"x": x}).outputs["y"] for x in inputs]

    for x, y in zip(inputs, kept, strict=True):
        np.testing.assert_array_equal(y, x + 1)


def test_inputs_that_are_not_contiguous_cross(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.free)
    x = ramp((64, 33)).T[::2]

    np.testing.assert_array_equal(rig.run(lane, {"x": x}).outputs["y"], x + 1)


def test_strings_cross_as_text(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.strings)
    words = np.array(["", "three", "vier ü"], dtype=object)

    assert rig.run(lane, {"s": words}).outputs["t"].tolist() == ["", "three", "vier ü"]
