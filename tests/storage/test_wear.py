"""What is written to flash stays within a day's budget, and telemetry is no slower than that takes."""

from __future__ import annotations

import pytest

from agent.storage.wear import BURST_SHARE, DAY_S, MAX_FLUSH_S, MAX_WINDOW_S, Wear

MIB = 1024 * 1024


def day(budget: int | None, commit_bytes: int, row_bytes: int, window_s: float = 10.0, flush_s: float = 1.0):
    """A board for a day: each group commit costs its rows and what a commit costs; bytes, and the worst stretch."""
    wear, now_s, written, waiting = Wear(budget, 0.0), 0.0, 0, 0
    next_window_s, next_flush_s, worst = window_s, flush_s, 1.0
    while now_s < DAY_S:
        now_s = min(next_window_s, next_flush_s)
        if now_s >= next_window_s:
            waiting += 1
            next_window_s = now_s + wear.window_s(window_s)
        if now_s >= next_flush_s:
            written += commit_bytes + waiting * row_bytes if waiting else 0
            waiting = 0
            next_flush_s = now_s + wear.flush_s(flush_s)
        worst = max(worst, wear.step(written, now_s))
    return written, worst


@pytest.mark.parametrize(("commit_bytes", "row_bytes"), [(30_000, 6_000), (5_000, 5_000), (250_000, 20_000)])
@pytest.mark.parametrize("budget", [16 * MIB, 60 * MIB])
def test_a_day_stays_within_its_budget_and_the_burst(budget, commit_bytes, row_bytes):
    written, _ = day(budget, commit_bytes, row_bytes)
    assert written <= budget * (1 + 2 * BURST_SHARE)


def test_within_the_budget_nothing_is_slower():
    written, worst = day(400 * MIB, 30_000, 6_000)
    assert worst == 1.0
    assert written > 8000 * 30_000


def test_without_a_budget_it_is_only_counted():
    wear = Wear(None, 0.0)
    assert wear.step(10**12, 3600.0) == 1.0
    assert wear.bytes_per_day(3600.0) == 24e12


def test_slowness_ends_when_less_is_written():
    wear = Wear(24 * MIB, 0.0)
    for minute in range(1, 5):
        wear.step(2 * MIB * minute, 60.0 * minute)
    assert wear.stretch > 1
    for minute in range(5, 900):
        wear.step(8 * MIB, 60.0 * minute)
    assert wear.stretch == 1


def test_a_storm_of_events_is_forgotten_within_half_a_day():
    wear = Wear(24 * MIB, 0.0)
    wear.step(10_000 * MIB, 60.0)
    assert wear.stretch == 2
    assert [wear.step(10_000 * MIB, 60.0 * minute) for minute in range(2, 720)][-1] == 1


def test_windows_and_commits_have_bounds_and_are_never_shorter_than_wanted():
    wear = Wear(MIB, 0.0)
    for minute in range(1, 60):
        wear.step(100 * MIB * minute, 60.0 * minute)
    assert (wear.window_s(60.0), wear.flush_s(60.0)) == (MAX_WINDOW_S, MAX_FLUSH_S)
    assert (wear.window_s(7200.0), wear.flush_s(600.0)) == (7200.0, 600.0)


def test_a_mean_of_the_first_seconds_is_not_told():
    assert Wear(MIB, 0.0).bytes_per_day(5.0) is None
