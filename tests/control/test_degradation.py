"""Losing some of equal accelerators costs their share; losing the fastest costs more than the bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.degradation import degradation

times = st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-4, 10.0), min_size=2)


@pytest.mark.parametrize(
    ("times_s", "healthy", "bound", "factor", "holds"),
    [
        ({"a": 1.0, "b": 1.0, "c": 1.0}, {"a", "b"}, 1.5, 1.5, True),
        ({"a": 0.1, "b": 1.0}, {"a"}, 2.0, 1.1, True),
        ({"a": 0.1, "b": 1.0}, {"b"}, 2.0, 11.0, False),
    ],
)
def test_the_factor_is_that_of_the_speeds_and_the_bound_that_of_the_numbers(times_s, healthy, bound, factor, holds):
    found = degradation(times_s, healthy)
    assert (found.bound, found.factor, found.holds) == (pytest.approx(bound), pytest.approx(factor), holds)
    assert (found.total, found.healthy) == (len(times_s), len(healthy))


@pytest.mark.parametrize("healthy", [set(), {"x"}, {"a", "b"}])
def test_nothing_is_said_where_all_or_none_serve(healthy):
    assert degradation({"a": 1.0, "b": 2.0}, healthy) is None


@given(times)
def test_without_the_slowest_one_the_bound_holds_and_without_the_fastest_alone_it_never_does_better(times_s):
    slowest, fastest = max(times_s, key=times_s.get), min(times_s, key=times_s.get)
    assert degradation(times_s, set(times_s) - {slowest}).holds
    assert (
        degradation(times_s, set(times_s) - {fastest}).factor >= degradation(times_s, set(times_s) - {slowest}).factor
    )
