"""Waiting before the next attempt."""

from __future__ import annotations

import random

from agent.mqtt.backoff import FIRST_S, MAX_S, STORM_PAUSE_S, Backoff


def test_attempts_that_fail_wait_twice_as_long_each_up_to_half_a_minute_with_jitter():
    backoff = Backoff(random.Random(1))
    delays = [backoff.refused() for _ in range(12)]
    for i, delay_s in enumerate(delays):
        base_s = min(MAX_S, FIRST_S * 2**i)
        assert 0.5 * base_s <= delay_s <= base_s
    assert len(set(delays)) == 12


def test_two_boards_do_not_return_in_the_same_instant():
    assert Backoff(random.Random(1)).refused() != Backoff(random.Random(2)).refused()


def test_a_good_session_starts_the_back_off_anew_and_a_short_one_does_not():
    backoff = Backoff(random.Random(1))
    for _ in range(5):
        backoff.refused()
    assert backoff.ended(100.0, 1.0, taken_over=False) >= 0.5 * FIRST_S * 32
    assert backoff.ended(200.0, 60.0, taken_over=False) <= FIRST_S


def test_a_fourth_short_session_within_a_minute_is_a_storm_and_pauses_for_minutes_once():
    backoff = Backoff(random.Random(1))
    for now_s in (0.0, 10.0, 20.0):
        assert backoff.ended(now_s, 0.1, taken_over=False) < STORM_PAUSE_S
    assert backoff.ended(30.0, 0.1, taken_over=False) >= STORM_PAUSE_S
    assert backoff.storms == 1
    assert backoff.ended(400.0, 0.1, taken_over=False) < STORM_PAUSE_S


def test_short_sessions_spread_over_minutes_are_no_storm():
    backoff = Backoff(random.Random(1))
    for i in range(10):
        assert backoff.ended(i * 25.0, 0.1, taken_over=False) < STORM_PAUSE_S
    assert backoff.storms == 0


def test_take_overs_that_the_broker_names_count_however_long_the_session_lived():
    backoff = Backoff(random.Random(1))
    for now_s in (0.0, 15.0, 30.0, 45.0):
        backoff.ended(now_s, 14.0, taken_over=True)
    assert backoff.storms == 1
