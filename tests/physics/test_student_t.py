"""Student's t against closed forms and tables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import student_t


@pytest.mark.parametrize(
    ("confidence", "dof", "table"),
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 10, 2.228), (0.99, 5, 4.032), (0.90, 30, 1.697), (0.95, 1e6, 1.960)],
)
def test_two_sided_quantiles_match_the_printed_table(confidence, dof, table):
    assert student_t.two_sided(confidence, dof) == pytest.approx(table, abs=6e-4)


@given(st.floats(-50, 50))
def test_one_and_two_degrees_of_freedom_have_closed_forms(t):
    assert student_t.cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-12)
    assert student_t.cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-12)


@given(st.floats(0.001, 0.999), st.floats(1.0, 200.0))
def test_the_quantile_inverts_the_distribution_and_is_odd(probability, dof):
    t = student_t.quantile(probability, dof)

    assert student_t.cdf(t, dof) == pytest.approx(probability, abs=1e-12)
    assert student_t.quantile(1 - probability, dof) == pytest.approx(-t, rel=1e-9, abs=1e-9)


def test_the_incomplete_beta_function_has_its_ends_and_symmetry():
    assert student_t.incomplete_beta(2.0, 3.0, 0.0) == 0.0
    assert student_t.incomplete_beta(2.0, 3.0, 1.0) == 1.0
    assert student_t.incomplete_beta(2.0, 2.0, 0.5) == pytest.approx(0.5)
    assert student_t.incomplete_beta(1.0, 4.0, 0.3) == pytest.approx(1 - 0.7**4)


def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match="a and b"):
        student_t.incomplete_beta(0.0, 1.0, 0.5)
    with pytest.raises(ValueError, match="too large"):
        student_t.incomplete_beta(1e14, 1e14, 0.5)
    with pytest.raises(ValueError, match="x must"):
        student_t.incomplete_beta(1.0, 1.0, math.nan)
    with pytest.raises(ValueError, match="degrees_of_freedom"):
        student_t.cdf(0.0, 0.0)
    with pytest.raises(ValueError, match="probability"):
        student_t.quantile(1.0, 3)
    with pytest.raises(ValueError, match="confidence"):
        student_t.two_sided(1.0, 3)
