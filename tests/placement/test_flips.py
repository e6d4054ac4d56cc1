"""A flip is stated only where choosing again at it differs, and choosing again a tenth short of it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.flips import SHORT, flip, nearest
from agent.placement.ranking import Option


def steps(*edges: float):
    """A choice that differs from step to step."""
    return lambda value: sum(value >= edge for edge in edges)


@given(st.floats(-50.0, 50.0), st.floats(1e-3, 200.0), st.floats(0.001, 1.0), st.booleans())
def test_the_stated_value_flips_and_a_tenth_short_of_it_does_not(now, span, share, up):
    limit = now + span if up else now - span
    edge = now + share * (limit - now)
    choose = (lambda value: value >= edge) if up else (lambda value: value <= edge)
    turn = nearest(choose, lambda flipped: not flipped, now, limit)
    assert turn is not None
    assert choose(turn.at)
    assert turn.then
    assert not choose(turn.holds)
    assert turn.holds == pytest.approx(now + SHORT * (turn.at - now))
    assert abs(turn.at - edge) <= 0.06 * abs(edge - now)


def test_nothing_is_stated_where_nothing_changes():
    assert nearest(lambda _: "a", lambda name: name == "a", 1.0, 9.0) is None


def test_the_nearest_of_several_changes_is_found():
    turn = nearest(steps(0.4, 3.0, 7.0), lambda count: count == 0, 0.0, 10.0)
    assert turn is not None
    assert (turn.at, turn.then) == (pytest.approx(0.4, rel=0.01), 1)


def test_a_change_between_two_that_were_looked_at_is_not_overlooked_at_nine_tenths():
    def choose(value: float) -> bool:
        return 0.895 <= value / 6.4 <= 0.905 or value >= 6.4

    turn = nearest(choose, lambda flipped: not flipped, 0.0, 10.0)
    assert turn is not None
    assert choose(turn.at)
    assert not choose(turn.holds)


def test_a_limit_is_found_as_sharply_as_its_value_needs():
    turn = nearest(lambda limit: limit < 0.01222, lambda broken: not broken, 30.0, 0.0)
    assert turn is not None
    assert turn.at == pytest.approx(0.01222, rel=0.006)


def test_the_readable_value_is_what_was_tried():
    tried = []

    def choose(value: float) -> bool:
        tried.append(value)
        return value >= 3.14159

    turn = nearest(choose, lambda flipped: not flipped, 1.0, 10.0)
    assert turn is not None
    assert turn.at in tried
    assert len(f"{turn.at:.12g}") <= 6


def test_what_a_change_brings_is_unknown_where_a_joule_is():
    turn = nearest(lambda v: (Option("b", None, 2.0, 0.0), Option("a", 1.0, 3.0, 0.0)) if v > 2 else (None, None),
                   lambda pair: pair[0] is None, 1.0, 4.0)  # fmt: skip
    assert turn is not None
    made = flip("weight", "w", "", 1.0, turn)
    assert (made.then, made.energy_j, made.latency_s) == ("b", None, -1.0)
    assert made.relative == pytest.approx(turn.at - 1.0)
    assert flip("weight", "w", "", None, turn).relative is None


def test_a_present_value_that_chooses_otherwise_is_a_mistake():
    with pytest.raises(ValueError, match="already"):
        nearest(lambda _: "b", lambda name: name == "a", 1.0, 2.0)


def test_where_the_readable_value_would_not_flip_the_exact_one_is_given():
    def choose(value: float) -> bool:
        return 4.321 <= value <= 4.3216

    turn = nearest(choose, lambda flipped: not flipped, 0.0, 4.3215)
    assert turn is not None
    assert choose(turn.at)


def test_a_choice_that_comes_and_goes_without_end_is_not_stated():
    def choose(value: float) -> bool:
        return int(value * 1e9) % 2 == 1 or value >= 5.0

    turn = nearest(choose, lambda flipped: not flipped, 0.0, 10.0)
    assert turn is None or not choose(turn.holds)


def test_a_change_at_the_very_end_is_found():
    turn = nearest(lambda value: value == 0.0, lambda flipped: not flipped, 1.0, 0.0)
    assert turn is not None
    assert turn.at == 0.0


def test_what_holds_only_in_a_sliver_is_given_exactly():
    def choose(value: float) -> bool:
        return 1.80205 <= value <= 1.80245

    turn = nearest(choose, lambda flipped: not flipped, 0.0, 4.4)
    assert turn is not None
    assert choose(turn.at)
