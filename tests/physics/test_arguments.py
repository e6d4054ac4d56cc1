"""Argument checks: in range passes unchanged, everything else is named."""

import math

import numpy as np
import pytest

from agent.physics import arguments


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (arguments.finite, [-1.0, 0.0, 1e300], [math.nan, math.inf, -math.inf]),
        (arguments.nonnegative, [0.0, 1e300], [math.nan, math.inf, -1e-300]),
        (arguments.positive, [5e-324, 1.0], [math.nan, math.inf, 0.0, -1.0]),
        (arguments.positive_or_unlimited, [1.0, math.inf], [math.nan, 0.0]),
        (arguments.nonnegative_or_unlimited, [0.0, math.inf], [math.nan, -1.0]),
        (arguments.share, [0.0, 1.0], [math.nan, -0.1, 1.1]),
        (arguments.positive_share, [1e-9, 1.0], [math.nan, 0.0, 1.1]),
        (arguments.celsius, [-273.15, 25.0], [math.nan, -274.0, math.inf]),
    ],
)
def test_values_in_range_pass_and_others_are_named(check, good, bad):
    assert check("thing", good).tolist() == good
    for value in bad:
        with pytest.raises(ValueError, match=r"^thing must be .*; got"):
            check("thing", value)


def test_the_first_offender_of_an_array_is_pointed_at():
    with pytest.raises(ValueError, match=r"got -3 at index 2"):
        arguments.nonnegative("thing", [[0.0, 1.0], [-3.0, math.nan]])


def test_an_empty_array_is_in_range():
    assert arguments.positive("thing", np.array([])).size == 0
