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


def beside_prediction(*typical_s: float, predicted_s: float | None = 0.010):
    """Readings a minute apart; the state and the time of the last."""
    state, now_s = None, 0.0
    for number, value in enumerate(typical_s):
        now_s = number * SETTLED_S
        state = drifted(state, value, now_s, predicted_s)
    return state, now_s


@pytest.mark.parametrize(("typical_s", "beyond"), [(0.029, False), (0.030, True), (0.031, True)])
def test_three_times_the_prediction_for_a_minute_is_beyond_it(typical_s, beyond):
    state, now_s = beside_prediction(0.010, typical_s, typical_s)
    assert state.beyond(now_s) is beyond
    assert state.beyond_factor == pytest.approx(typical_s / 0.010)
    assert not state.beyond(now_s - 1)


def test_a_burst_is_not_beyond_a_prediction():
    state, now_s = beside_prediction(0.010, 0.050)
    assert not state.beyond(now_s)
    assert not beside_prediction(0.010, 0.050, 0.010, 0.050)[0].beyond(now_s)


@pytest.mark.parametrize(("typical_s", "beyond"), [(0.026, True), (0.025, True), (0.024, False)])
def test_a_prediction_holds_again_only_well_below_where_it_failed(typical_s, beyond):
    state, now_s = beside_prediction(0.010, 0.040, 0.040, typical_s)
    assert state.beyond(now_s) is beyond


@pytest.mark.parametrize("predicted_s", [None, 0.0])
def test_without_a_prediction_nothing_is_beyond_it(predicted_s):
    state, now_s = beside_prediction(0.010, 0.5, 0.5, predicted_s=predicted_s)
    assert not state.beyond(now_s)
    assert (state.beyond_since_s, state.beyond_factor) == (None, 1.0)


def test_what_was_measured_at_first_is_kept_beside_the_prediction():
    state, now_s = beside_prediction(0.040, 0.040, 0.040)
    assert (state.first_s, state.slowed(now_s), state.beyond(now_s)) == (0.040, False, True)
