"""Figures of merit."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import merit

draws = st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(draws)
def test_pass_at_k_is_the_binomial_quotient(nck):
    n, c, k = nck

    assert float(merit.pass_at_k(n, c, k)) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


def test_pass_at_k_counts_the_subsets_that_hold_a_correct_sample():
    subsets = list(combinations([True, True, False, False, False], 3))

    assert merit.pass_at_k(5, 2, 3) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@given(st.lists(draws, min_size=1, max_size=6))
def test_an_array_gives_what_its_elements_give(cases):
    together = merit.pass_at_k(*np.array(cases).T)

    assert together.tolist() == [float(merit.pass_at_k(*case)) for case in cases]


def test_no_task_has_no_pass_rate():
    assert merit.pass_at_k([], [], 1).size == 0


@pytest.mark.parametrize(
    ("case", "name"),
    [((5, 6, 1), "correct"), ((5, 1, 6), "k"), ((5.5, 1, 1), "samples"), ((5, 0.5, 1), "correct"), ((5, 1, 0), "k")],
)
def test_impossible_counts_are_named(case, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        merit.pass_at_k(*case)


def test_intelligence_per_watt_is_the_plain_quotient():
    """75.7 % at 63.8 W; the paper prints 0.9749, whose normalisation is unpublished."""
    assert float(merit.intelligence_per_watt(0.757, 63.8)) == pytest.approx(1.187, abs=5e-4)


def test_quotients():
    assert merit.energy_coverage_efficiency(0.5, 100.0) == pytest.approx(0.005)
    assert merit.price_power_performance(30.0, 250.0, 12.0) == pytest.approx(0.01)


def test_impossible_quotients_are_named():
    with pytest.raises(ValueError, match="coverage"):
        merit.energy_coverage_efficiency(1.5, 1.0)
    with pytest.raises(ValueError, match="price_usd"):
        merit.price_power_performance(1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="mean_power_w"):
        merit.intelligence_per_watt(0.5, 0.0)
