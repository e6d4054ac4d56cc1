"""bfloat16 as bits: rounding, widening and being told apart from whole numbers."""

from __future__ import annotations

import numpy as np
import pytest

from agent.schema.bfloat16 import BF16, finite, from_floats, is_bf16, to_floats


@pytest.mark.parametrize(
    ("number", "bits"),
    [
        (1.0, 0x3F80), (-3.0, 0xC040), (0.0, 0), (-0.0, 0x8000), (np.inf, 0x7F80), (3.4e38, 0x7F80),
        (1.00390625, 0x3F80), (1.01171875, 0x3F82), (1.0040, 0x3F81), (np.nan, 0x7FC0),
    ],
)  # fmt: skip
def test_a_number_becomes_the_nearest_bits_and_of_two_as_near_the_even_ones(number: float, bits: int) -> None:
    assert from_floats(np.array([number])).tolist() == [bits]


def test_every_pattern_of_bits_survives_the_way_to_float32_and_back() -> None:
    every = np.arange(2**16, dtype=np.uint16)
    wide = to_floats(every)
    back = from_floats(wide)
    number = ~np.isnan(wide)
    np.testing.assert_array_equal(back[number], every[number])
    assert np.isnan(to_floats(back[~number])).all()
    np.testing.assert_array_equal(finite(every), np.isfinite(wide))


def test_bits_are_told_apart_from_whole_numbers_also_when_cut_and_copied() -> None:
    bits = from_floats(np.ones((2, 3)))
    assert bits.shape == (2, 3)
    assert all(is_bf16(array) for array in (bits, bits[1], bits.copy(), np.frombuffer(bytes(4), BF16)))
    assert not is_bf16(np.zeros(3, np.uint16))
    assert bits.dtype == np.uint16


def test_a_lone_number_keeps_its_shape() -> None:
    assert from_floats(np.float64(2.0)).shape == ()
