"""Which day a row belongs to, and when a day is over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.fleet.days import DAY_S, UNDATED, day_of, is_over

TODAY = 20_718
NOON_S = TODAY * DAY_S + 43_200.0


@pytest.mark.parametrize(
    ("cls", "row", "day"),
    [
        ("tlm", {"ts": NOON_S}, TODAY),
        ("tlm", {"ts": NOON_S - DAY_S}, TODAY - 1),
        ("tlm", {"ts": NOON_S + 43_200}, TODAY + 1),
        ("tlm", {"ts": NOON_S - 30 * DAY_S}, TODAY - 30),
        ("tlm", {"ts": NOON_S - 31 * DAY_S}, UNDATED),
        ("tlm", {"ts": NOON_S + 1.1 * DAY_S}, UNDATED),
        ("tlm", {"ts": NOON_S, "tq": "none"}, UNDATED),
        ("tlm", {"ts": 5.0}, UNDATED),
        ("tlm", {"ts": -1e300}, UNDATED),
        ("tlm", {"ts": 10**400}, UNDATED),
        ("tlm", {"ts": "now"}, UNDATED),
        ("tlm", {"ts": True}, UNDATED),
        ("tlm", {}, UNDATED),
        ("evt", {"ts": NOON_S}, UNDATED),
        ("gap", {"ts": NOON_S}, UNDATED),
    ],
)
def test_a_row_has_the_day_that_it_tells_unless_that_is_far_from_now(cls, row, day):
    assert day_of(cls, row, NOON_S, 30.0) == day


@given(
    ago_s=st.floats(-86_000.0, 5 * DAY_S),
    later_s=st.floats(0.0, 25 * DAY_S),
    rows_days=st.sampled_from([0.5, 5.0, 30.0]),
)
def test_a_row_that_comes_again_within_its_time_has_the_same_day(ago_s, later_s, rows_days):
    row = {"ts": NOON_S - ago_s}
    first, again = (day_of("tlm", row, NOON_S + after_s, rows_days) for after_s in (0.0, later_s))
    if ago_s + later_s <= rows_days * DAY_S:
        assert first == again != UNDATED


@given(now_s=st.floats(NOON_S, NOON_S + 90 * DAY_S), rows_days=st.floats(0.1, 60.0))
def test_a_day_that_is_over_takes_no_rows_of_its_own_any_more(now_s, rows_days):
    if is_over(TODAY, now_s, rows_days):
        assert day_of("tlm", {"ts": NOON_S}, now_s, rows_days) == UNDATED
        assert day_of("tlm", {"ts": NOON_S}, now_s - 3599.0, rows_days) == UNDATED
        assert now_s - (TODAY + 1) * DAY_S >= rows_days * DAY_S
