"""A board that would rather not begin with a bundle now says why, begins when it may, and ends where it never may."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from pydantic import ValidationError

from agent.schema.settings import BundleSettings
from tests.service.bundle_world import Board

DAY_S = 86_400.0


@pytest.fixture
def board(tmp_path):
    made = Board(tmp_path)
    made.clock.advance(-(made.clock.wall_s() + time.localtime(made.clock.wall_s()).tm_gmtoff) % DAY_S)  # local midnight
    return made


def wants(board, **settings) -> None:
    board.deferral = BundleSettings(**settings)
    board.boot()


def why(board) -> list[str]:
    """What was reported while it waited, once each."""
    return list(dict.fromkeys(r["problem"] for r in board.reports if r.get("phase") == "waiting"))


def hour_of(board) -> float:
    now = time.localtime(board.clock.wall_s())
    return now.tm_hour + now.tm_min / 60


def began_at(board) -> list[float]:
    """Hours of the day at which it measured."""
    seen = []

    def look():
        if board.bundles._progress.get("phase") == "measuring" and not seen:
            seen.append(hour_of(board))

    board.on_time = look
    return seen


@pytest.mark.parametrize(("hours", "begins"), [("05:30-06:30", 5.5), ("22:00-05:00", 0.0), ("05:00-05:00", 0.0)])
def test_it_begins_within_its_hours(board, hours, begins):
    wants(board, hours=hours)
    seen = began_at(board)
    board.offer(1, trial={"windows": 2})
    assert board.status == "kept"
    assert seen[0] == pytest.approx(begins, abs=0.1)
    assert why(board) == ([] if begins == 0 else [f"only at {hours}, the board's time"])


def test_an_offer_that_ends_before_its_hours_expires_and_says_why(board):
    wants(board, hours="20:00-21:00")
    board.offer(1)
    assert (board.status, board.bundles.record.code) == ("refused", "expired")
    assert "only at 20:00-21:00" in board.bundles.record.message


def test_a_busy_board_waits_until_it_is_less_so(board):
    wants(board, max_requests_per_s=5.0)
    counted = [0.0]

    def serve():
        now_s = board.clock.monotonic_s()
        rate = 8.0 if now_s - begun_s < 600 else 2.0
        counted[0] += rate
        model = replace(board.snapshot.models[0], requests=round(counted[0]))
        board.snapshot = replace(board.snapshot, models=(model,))

    begun_s = board.clock.monotonic_s()
    board.on_time = serve
    board.offer(1, trial={"windows": 2})
    assert board.status == "kept"
    said = why(board)
    assert said[0] == "counting requests for 60 s"
    assert "busy: 8 requests/s, more than 5" in said
    assert board.clock.monotonic_s() - begun_s > 600


def test_a_model_that_is_loaded_anew_counts_from_its_beginning(board):
    wants(board, max_requests_per_s=5.0)
    ticks = []

    def reload():
        ticks.append(1)
        model = replace(board.snapshot.models[0], requests=10_000 if len(ticks) < 30 else len(ticks))
        board.snapshot = replace(board.snapshot, models=(model,))

    board.on_time = reload
    board.offer(1, trial={"windows": 2})
    assert board.status == "kept"


@pytest.mark.parametrize("mode", ["starting", "draining", "throttled", "fault"])
def test_a_board_that_is_not_at_its_best_waits(board, mode):
    board.snapshot = replace(board.snapshot, agent=replace(board.snapshot.agent, mode=mode))
    begun_s = board.clock.monotonic_s()

    def better():
        if board.clock.monotonic_s() - begun_s > 100:
            board.snapshot = replace(board.snapshot, agent=replace(board.snapshot.agent, mode="ready"))

    board.on_time = better
    board.offer(1, trial={"windows": 2})
    assert board.status == "kept"
    assert len(why(board)) == 1


def test_a_newer_offer_ends_the_waiting(board):
    wants(board, hours="20:00-21:00")
    sent = []

    def newer():
        if not sent:
            sent.append(1)
            board.bundles._latest = b""
            wants_now = board.document(2, "second", exp=board.clock.wall_s() + 60)
            board.bundles._latest = board.sealed(wants_now)

    board.on_time = newer
    board.offer(1)
    assert board.bundles.record.code == "superseded"


def test_an_offer_that_is_taken_back_ends_the_waiting_and_the_board_stays_as_it_is(board):
    wants(board, hours="20:00-21:00")

    def taken_back():
        board.bundles._latest = b""

    board.on_time = taken_back
    board.offer(1)
    assert (board.status, board.bundles.record.code, board.policy) == ("refused", "withdrawn", "own")


@pytest.mark.parametrize("hours", ["22-05", "24:00-05:00", "1:00-2:00", "01:00–02:00", "01:60-02:00", ""])
def test_hours_that_are_none_are_refused(hours):
    with pytest.raises(ValidationError):
        BundleSettings(hours=hours)
