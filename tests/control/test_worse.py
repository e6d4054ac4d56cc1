"""The sequential test: it finds what got worse, and says so wrongly no more often than it was allowed to."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.worse import Evidence, weighed, weighed_all


def ratios(seed: int, shift: float, count: int, noise: float) -> list[float]:
    rng = random.Random(seed)
    return [math.log(1 + shift) + rng.gauss(0, noise) - rng.gauss(0, noise) for _ in range(count)]


def first_alarm(values: list[float], alpha: float, margin: float) -> int | None:
    evidence = Evidence()
    for i, value in enumerate(values, 1):
        evidence = weighed(evidence, value, margin, 0.25)
        if evidence.proves(alpha):
            return i
    return None


def test_a_fifth_more_energy_is_found_within_twenty_five_windows():
    alarms = [first_alarm(ratios(seed, 0.2, 48, 0.05), 0.01, 0.05) for seed in range(200)]
    assert all(alarm is not None for alarm in alarms)
    assert sorted(alarms)[180] <= 25


@pytest.mark.parametrize("shift", [0.0, 0.02, -0.3])
def test_what_is_no_worse_than_the_margin_is_rarely_called_so(shift):
    alarms = [first_alarm(ratios(seed, shift, 500, 0.1), 0.05, 0.02) for seed in range(400)]
    assert sum(alarm is not None for alarm in alarms) <= 20


def test_one_wild_value_proves_nothing():
    assert not weighed_all([1e9], 0.02, 0.25).proves(0.05)
    assert weighed_all([1e9], 0.02, 0.25) == weighed_all([0.25], 0.02, 0.25)


def test_the_mean_excess_is_what_was_seen():
    assert Evidence().mean_excess == 0.0
    assert weighed_all([0.1, 0.2], 0.0, 0.25).mean_excess == pytest.approx(0.15)


@given(st.lists(st.floats(-10, 10), max_size=50), st.floats(0, 0.2))
def test_wealth_never_ends_and_never_says_anything_of_improvements(values, margin):
    evidence = weighed_all(values, margin, 0.25)
    assert math.isfinite(evidence.log_wealth)
    assert evidence.pairs == len(values)
    if all(value <= margin for value in values):
        assert not evidence.proves(0.5)


@pytest.mark.parametrize(("excess", "margin"), [(0.1, 0.25), (0.1, -0.01), (math.nan, 0.0)])
def test_a_margin_beyond_the_bound_and_no_number_are_refused(excess, margin):
    with pytest.raises(ValueError, match="margin"):
        weighed(Evidence(), excess, margin, 0.25)
