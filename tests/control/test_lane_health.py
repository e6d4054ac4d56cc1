"""The life of a lane as a table of events."""

from __future__ import annotations

import pytest

from agent.control.lane_health import (
    UNKNOWN_BRING_UP_S,
    Died,
    LaneHealth,
    Ready,
    Tick,
    back_in_s,
    capacity_share,
    step,
)
from agent.schema.policy import Recovery

LIMITS = Recovery(
    permit_s=1, hang_floor_s=0.1, hang_factor=3, restart_backoff_s=0.5, max_backoff_s=4, breaker_failures=3,
    breaker_window_s=60, breaker_open_s=30, ramp_start_share=0.5, ramp_s=10, max_replays=2,
)  # fmt: skip


def play(events, limits=LIMITS):
    state, trace = LaneHealth(), []
    for now_s, event in events:
        state, actions = step(state, event, limits, now_s)
        trace.append((state.phase, *actions))
    return state, trace


def test_a_lane_that_dies_is_started_again_after_the_back_off():
    _, trace = play([(0, Ready()), (5, Died("SIGKILL")), (5.4, Tick()), (5.5, Tick()), (5.6, Tick()), (6, Ready())])
    assert trace == [("ready",), ("waiting",), ("waiting",), ("starting", "start"), ("starting",), ("ready",)]


def test_the_back_off_doubles_up_to_its_bound():
    limits = LIMITS.model_copy(update={"breaker_failures": 100})
    state, pauses = LaneHealth(), []
    for i in range(6):
        state, _ = step(state, Died("x"), limits, 100.0 * i)
        pauses.append(state.next_start_s - 100.0 * i)
        state, _ = step(state, Tick(), limits, state.next_start_s)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_three_deaths_inside_the_window_open_the_breaker_and_a_probe_follows():
    events = [(0, Died("a")), (1, Tick()), (2, Died("b")), (4, Tick()), (5, Died("c")), (34.9, Tick()), (35, Tick())]
    state, trace = play(events)
    assert [t[0] for t in trace] == ["waiting", "starting", "waiting", "starting", "open", "open", "probing"]
    assert trace[-1] == ("probing", "start")
    assert (state.restarts, state.last_fault) == (3, "c")


def test_a_failed_probe_opens_the_breaker_again():
    state = LaneHealth(phase="probing")
    state, _ = step(state, Died("again"), LIMITS, 100.0)
    assert (state.phase, state.next_start_s) == ("open", 130.0)


def test_a_passed_probe_returns_the_lane():
    state, _ = step(LaneHealth(phase="probing"), Ready(), LIMITS, 7.0)
    assert (state.phase, state.since_s) == ("ready", 7.0)


def test_deaths_outside_the_window_do_not_count():
    state = LaneHealth(phase="ready", deaths_s=(0.0, 1.0))
    state, _ = step(state, Died("x"), LIMITS, 61.5)
    assert (state.phase, state.deaths_s) == ("waiting", (61.5,))


def test_a_death_exactly_one_window_ago_does_not_count_and_one_just_inside_does():
    two = LIMITS.model_copy(update={"breaker_failures": 2})
    assert step(LaneHealth(phase="ready", deaths_s=(0.0,)), Died("x"), two, 60.0)[0].phase == "waiting"
    assert step(LaneHealth(phase="ready", deaths_s=(0.0,)), Died("x"), two, 59.9)[0].phase == "open"


@pytest.mark.parametrize("phase", ["waiting", "open", "stopped"])
def test_news_of_a_death_already_known_changes_nothing(phase):
    state = LaneHealth(phase=phase, next_start_s=9.0)
    assert step(state, Died("late"), LIMITS, 1.0) == (state, ())


@pytest.mark.parametrize("phase", ["ready", "waiting", "open", "stopped"])
def test_ready_is_ignored_where_nothing_was_starting(phase):
    state = LaneHealth(phase=phase)
    assert step(state, Ready(), LIMITS, 1.0) == (state, ())


@pytest.mark.parametrize("phase", ["starting", "probing", "waiting", "open", "stopped"])
def test_a_lane_that_is_not_ready_has_no_capacity(phase):
    assert capacity_share(LaneHealth(phase=phase), LIMITS, 0.0) == 0.0


@pytest.mark.parametrize(("after_s", "share"), [(0, 0.5), (5, 0.75), (10, 1.0), (50, 1.0), (-1, 0.5)])
def test_a_returning_lane_ramps_from_half(after_s, share):
    state = LaneHealth(phase="ready", since_s=100.0, ramping=True)
    assert capacity_share(state, LIMITS, 100.0 + after_s) == pytest.approx(share)


def test_a_lane_that_never_died_starts_at_full_capacity():
    assert capacity_share(LaneHealth(phase="ready"), LIMITS, 0.0) == 1.0


def test_a_ramp_of_no_time_is_full_capacity_at_once():
    limits = LIMITS.model_copy(update={"ramp_s": 0.0})
    assert capacity_share(LaneHealth(phase="ready", ramping=True), limits, 0.0) == 1.0


def test_full_capacity_forgives_earlier_deaths():
    state = LaneHealth(phase="ready", since_s=0.0, consecutive=2, ramping=True)
    assert step(state, Tick(), LIMITS, 9.9)[0].consecutive == 2
    assert step(state, Tick(), LIMITS, 10.0)[0].consecutive == 0


def test_a_death_that_a_request_is_to_blame_for_restarts_and_never_opens_the_breaker():
    state = LaneHealth(phase="ready", deaths_s=(0.0, 0.5), consecutive=2)
    state, _ = step(state, Died("its request hung", blameless=True), LIMITS, 1.0)
    assert (state.phase, state.deaths_s, state.consecutive) == ("waiting", (0.0, 0.5), 2)
    assert (state.last_fault, state.ramping) == ("its request hung", True)
    assert step(state, Tick(), LIMITS, state.next_start_s)[1] == ("start",)


@pytest.mark.parametrize(
    ("phase", "since_s", "next_start_s", "bring_up_s", "back_s"),
    [
        ("ready", 90.0, 0.0, 3.0, 0.0),
        ("stopped", 90.0, 0.0, 3.0, None),
        ("waiting", 99.0, 102.0, 3.0, 5.0),
        ("waiting", 99.0, 99.5, 3.0, 3.0),
        ("open", 99.0, 130.0, 3.0, 33.0),
        ("open", 99.0, 130.0, None, 30.0 + UNKNOWN_BRING_UP_S),
        ("starting", 99.0, 0.0, 3.0, 2.0),
        ("probing", 98.0, 0.0, 3.0, 1.0),
        ("starting", 90.0, 0.0, 3.0, 7.0),
        ("starting", 100.0, 0.0, None, UNKNOWN_BRING_UP_S),
    ],
)
def test_a_lane_is_expected_back_after_its_pause_and_what_it_took_to_come_up(
    phase, since_s, next_start_s, bring_up_s, back_s
):
    assert back_in_s(LaneHealth(phase, since_s, next_start_s), 100.0, bring_up_s) == back_s
