"""What a rail measured is divided among those who computed: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.energy_share import Used, shares, since, together

JOULES = st.floats(0, 1e6)
USED = st.builds(Used, st.floats(0, 1e4), st.none() | JOULES)


@given(JOULES, st.dictionaries(st.sampled_from("abcdef"), USED))
def test_the_parts_add_up_to_what_was_measured_and_whoever_did_nothing_pays_nothing(busy_j, used):
    parts = shares(busy_j, used)
    assert set(parts) == {model for model, u in used.items() if u.busy_s > 0}
    if parts:
        assert sum(parts.values()) == pytest.approx(busy_j, rel=1e-9, abs=1e-12)
    assert all(part >= 0 for part in parts.values())


def test_overlapping_models_share_by_their_joules_and_by_their_time_where_one_is_unknown():
    assert shares(12.0, {"a": Used(1.0, 1.0), "b": Used(1.0, 3.0)}) == {"a": 3.0, "b": 9.0}
    assert shares(12.0, {"a": Used(1.0, None), "b": Used(2.0, 3.0)}) == {"a": 4.0, "b": 8.0}
    assert shares(12.0, {"a": Used(1.0, 0.0), "b": Used(3.0, 0.0)}) == {"a": 3.0, "b": 9.0}


def test_the_smallest_time_there_is_still_pays_what_was_measured():
    assert shares(1.5, {"a": Used(5e-324, None)}) == {"a": 1.5}


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=8))
def test_windows_one_after_another_count_every_second_once(steps):
    total, then, seen = Used(0.0, 0.0), None, 0.0
    for busy_s, joules in steps:
        total = Used(total.busy_s + busy_s, (total.modelled_j or 0.0) + joules)
        seen += since(total, then).busy_s
        then = total
    assert seen == pytest.approx(total.busy_s)


def test_a_count_that_began_anew_counts_from_its_beginning_and_unknown_stays_unknown():
    assert since(Used(1.0, 2.0), Used(5.0, 9.0)) == Used(1.0, 2.0)
    assert since(Used(6.0, None), Used(5.0, 9.0)) == Used(1.0, None)
    assert since(Used(6.0, 9.0), Used(5.0, None)) == Used(1.0, None)


def test_only_what_ran_on_the_rail_counts_and_of_a_split_its_part():
    parts = {"cpu": Used(1.0, 2.0), "npu": Used(4.0, None), "cpu+npu": Used(2.0, 6.0)}
    assert together(parts, frozenset({"cpu"})) == Used(2.0, 5.0)
    assert together(parts, frozenset({"cpu", "npu"})) == Used(7.0, None)
    assert together(parts, frozenset()) == Used(0.0, 0.0)
