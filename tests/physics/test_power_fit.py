"""Power coefficients come back from joules that they made, and a fit that cannot be trusted says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics.power_fit import fit_power

NAMES = ("fp32", "int8", "bytes", "seconds")
AMOUNTS = np.array(
    [
        [2e9, 0, 1e7, 0.10], [4e9, 0, 5e8, 0.30], [0, 8e9, 2e7, 0.08], [0, 1e9, 9e8, 0.20], [1e8, 0, 1e9, 0.15],
        [0, 0, 1e6, 0.50], [1e9, 1e9, 1e8, 0.12],
    ]
)  # fmt: skip


@given(
    st.tuples(*[st.floats(0.1, 10.0) for _ in NAMES]).map(lambda f: np.array([1e-11, 3e-12, 1e-10, 1.0]) * np.array(f))
)
def test_exact_joules_give_back_the_coefficients_that_made_them(true) -> None:
    fit = fit_power(NAMES, AMOUNTS, AMOUNTS @ true)
    assert fit.doubt is None
    assert [c.name for c in fit.coefficients] == list(NAMES)
    assert [c.value for c in fit.coefficients] == pytest.approx(true, rel=1e-6)


def test_noise_shows_in_the_uncertainty() -> None:
    true = np.array([1e-11, 3e-12, 1e-10, 1.0])
    noisy = AMOUNTS @ true * (1 + 0.05 * np.array([1, -1, 1, -1, 1, -1, 1]))
    fit = fit_power(NAMES, AMOUNTS, noisy)
    assert 0.01 < fit.rel_residual < 0.2
    for coefficient, value in zip(fit.coefficients, true, strict=True):
        assert coefficient.rel_uncertainty > 0
        assert abs(coefficient.value / value - 1) < 4 * coefficient.rel_uncertainty


def test_a_coefficient_never_gives_energy_back() -> None:
    amounts = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [1.0, 2.0]])
    fit = fit_power(("a", "b"), amounts, [3.0, 2.5, 2.0, 6.0])
    assert all(c.value >= 0 for c in fit.coefficients)
    assert fit.coefficients[0].value == 0
    assert fit.coefficients[0].rel_uncertainty == float("inf")


@pytest.mark.parametrize(
    ("amounts", "joules", "words"),
    [
        ([[1.0, 1.0], [2.0, 1.0], [1.0, 3.0]], [1.0, 0.0, 2.0], "no more energy than idle"),
        ([[1.0, 1.0], [2.0, 1.0]], [1.0, 2.0], "too few"),
        ([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], [1.0, 2.0, 3.0], "no load has any b"),
        ([[1.0, 1.0], [2.0, 1.0], [1.0, 1.0], [2.0, 1.0]], [1.0, 1.0, 9.0, 9.0], "misses its own measurements"),
    ],
)
def test_a_fit_that_cannot_be_trusted_says_why(amounts, joules, words) -> None:
    assert words in (fit_power(("a", "b"), np.array(amounts), joules).doubt or "")


def test_columns_that_cannot_be_told_apart_leave_one_of_them_at_zero() -> None:
    amounts = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
    values = [c.value for c in fit_power(("a", "b"), amounts, [2.0, 4.0, 6.0]).coefficients]
    assert sorted(v > 0 for v in values) == [False, True]


@pytest.mark.parametrize(
    ("names", "amounts", "joules", "words"),
    [
        (("a",), [[1.0, 2.0]], [1.0], "amounts must be"),
        (("a",), [[-1.0], [1.0]], [1.0, 2.0], "not negative"),
        (("a",), [[1.0], [1.0]], [1.0, float("nan")], "finite"),
    ],
)
def test_malformed_arguments_are_refused(names, amounts, joules, words) -> None:
    with pytest.raises(ValueError, match=words):
        fit_power(names, np.array(amounts), joules)
