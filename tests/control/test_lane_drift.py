"""Lane drift: memory that grows from window to window, and calls that stay slower than they were."""

from __future__ import annotations

import pytest

from agent.control.lane_drift import SETTLED_S, WINDOW_S, drifted, grew

MIB = 2.0**20


def after(lows_mib, spike_mib=0.0):
    """The state once windows with these least readings are over."""
    state = None
    for window, low in enumerate((*lows_mib, 0.0)):
        for reading, share in ((low + spike_mib, 0.0), (low, 0.4), (low + spike_mib, 0.8)):
            state = grew(state, reading * MIB, (window + share) * WINDOW_S)
    return state


@pytest.mark.parametrize(
    ("lows_mib", "grown_mib"),
    [
        ([100, 130, 160, 190], 90), ([100, 130, 160], None), ([100, 130, 130, 190], None), ([100, 190, 180, 190], None),
        ([100, 120, 140, 163], None), ([100, 120, 140, 165], 65), ([1000, 1030, 1060, 1090], None),
        ([1000, 1100, 1200, 1251], 251), ([1000, 1100, 1200, 1250], None), ([100, 100, 100, 100, 130, 160, 190], 90),
        ([100, 130, 160, 190, 190], None), ([100, 102, 104, 106, 108, 110, 112, 175], 75), ([], None),
    ],
)  # fmt: skip
def test_growth_is_several_windows_in_a_row_and_enough_of_it(lows_mib, grown_mib):
    grown = after(lows_mib).grown_bytes()
    assert grown == (None if grown_mib is None else pytest.approx(grown_mib * MIB))


def test_what_a_request_holds_for_a_moment_is_not_growth():
    assert after([100, 100, 100, 100, 100], spike_mib=500.0).grown_bytes() is None


def test_memory_over_days_is_a_handful_of_numbers():
    assert len(after([100] * 500).lows) < 8


def slowed_by(factor, times=3):
    state, now_s = None, 0.0
    for typical_s in (0.010, 0.010, *([0.010 * factor] * times)):
        state = drifted(state, typical_s, now_s)
        now_s += SETTLED_S
    return state, now_s - SETTLED_S


@pytest.mark.parametrize(("factor", "slow"), [(1.0, False), (1.49, False), (1.5, True), (4.0, True), (0.5, False)])
def test_a_lane_is_slowed_where_calls_stay_half_as_long_again(factor, slow):
    state, now_s = slowed_by(factor)
    assert state.slowed(now_s) is slow
    assert state.factor == pytest.approx(max(1.0, factor) if factor >= 1 else 1.0)


def test_a_burst_is_not_drift():
    state, now_s = slowed_by(3.0, times=1)
    assert not state.slowed(now_s)
    assert not state.slowed(now_s + SETTLED_S - 1)
    assert state.slowed(now_s + SETTLED_S)


@pytest.mark.parametrize(("factor", "slow"), [(1.3, True), (1.2, True), (1.19, False)])
def test_it_is_quick_again_only_well_below_where_it_counted_as_slow(factor, slow):
    state, now_s = slowed_by(2.0)
    assert drifted(state, 0.010 * factor, now_s).slowed(now_s) is slow


def test_the_first_figure_is_taken_when_the_lane_has_settled():
    state = drifted(None, 0.5, 0.0)
    state = drifted(state, 0.5, SETTLED_S - 1)
    assert state.first_s is None
    assert drifted(state, 0.010, SETTLED_S).first_s == 0.010


def test_calls_that_take_no_time_are_no_drift():
    state = drifted(drifted(None, 0.0, 0.0), 0.0, SETTLED_S)
    assert drifted(state, 0.0, 2 * SETTLED_S).factor == 1.0
