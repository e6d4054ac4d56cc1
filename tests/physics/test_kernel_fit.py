"""Kernel times: recovered from sums, never negative, not bent by one disturbed measurement."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.physics import kernel_fit
from agent.physics.kernel_fit import fit_kernels, nonnegative_least_squares

RNG = np.random.default_rng(3)
AMOUNTS = RNG.random((30, 4)) * np.array([1e9, 1e6, 1e2, 1e7])
TRUE = np.array([1e-10, 2e-9, 5e-6, 0.0])


def test_times_that_are_sums_give_their_parts_back():
    found = fit_kernels(AMOUNTS, AMOUNTS @ TRUE)
    assert found.coefficients == pytest.approx(TRUE, rel=1e-6, abs=1e-18)
    assert found.rel_residual < 1e-9


def test_one_disturbed_measurement_moves_the_rest_little():
    seconds = AMOUNTS @ TRUE
    seconds[4] *= 5.0
    found = fit_kernels(AMOUNTS, seconds)
    assert np.abs(np.delete(found.errors, 4)).max() < 0.1
    assert found.errors[4] < -0.7


def test_a_kind_that_nowhere_occurs_takes_nothing():
    table = np.column_stack([AMOUNTS[:, 0], np.zeros(30)])
    assert fit_kernels(table, AMOUNTS[:, 0] * 2.0).coefficients == pytest.approx([2.0, 0.0])


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 6))
def test_the_solution_is_not_negative_and_satisfies_the_optimality_conditions(seed, rows, columns):
    rng = np.random.default_rng(seed)
    matrix, target = rng.standard_normal((rows, columns)), rng.standard_normal(rows)
    x = nonnegative_least_squares(matrix, target)
    gradient = matrix.T @ (target - matrix @ x)
    assert (x >= 0).all()
    assert (gradient <= 1e-6).all()
    assert np.abs(gradient[x > 1e-9]).max(initial=0.0) < 1e-6


@pytest.mark.parametrize(
    ("amounts", "seconds", "said"),
    [
        ([[1.0]], [1.0, 2.0], "amounts must be"),
        ([1.0], [1.0], "amounts must be"),
        (np.zeros((0, 2)), [], "amounts must be"),
        ([[-1.0]], [1.0], "not negative"),
        ([[float("nan")]], [1.0], "finite"),
        ([[1.0]], [0.0], "positive"),
        ([[1.0]], [float("inf")], "positive"),
    ],
)
def test_what_cannot_be_fitted_is_said(amounts, seconds, said):
    with pytest.raises(ValueError, match=said):
        fit_kernels(amounts, seconds)


def test_no_columns_explain_nothing():
    assert fit_kernels(np.zeros((2, 0)), [1.0, 2.0]).errors == pytest.approx([-1.0, -1.0])


def test_a_fit_without_end_is_an_error(monkeypatch):
    monkeypatch.setattr(kernel_fit, "MAX_STEPS", 1)
    with pytest.raises(ValueError, match="did not converge"):
        nonnegative_least_squares(np.eye(3), np.ones(3))
