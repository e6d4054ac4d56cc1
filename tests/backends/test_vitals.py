"""The page that a lane and its process share: what is paced rests, and what was run is counted."""

from __future__ import annotations

import pytest

from agent.backends.vitals import MAX_REST_S, VitalsPage

MS = 1_000_000


def run(page: VitalsPage, begin_ms: int, end_ms: int) -> None:
    page.begin(begin_ms * MS)
    page.end(end_ms * MS)


def test_a_lane_that_is_not_paced_never_rests():
    page = VitalsPage()
    run(page, 100, 150)
    assert page.rest_s(150 * MS) == 0.0


@pytest.mark.parametrize(("share", "rest_s"), [(0.5, 0.05), (0.25, 0.15), (1.0, 0.0)])
def test_a_paced_lane_rests_until_its_share_is_kept(share, rest_s):
    page = VitalsPage()
    page.pace(share)
    run(page, 100, 150)
    assert page.rest_s(150 * MS) == pytest.approx(rest_s)
    assert page.rest_s(150 * MS + int(rest_s * 1e9)) == 0.0


def test_a_rest_is_bounded():
    page = VitalsPage()
    page.pace(0.01)
    run(page, 0, 60_000)
    assert page.rest_s(60_000 * MS) == MAX_REST_S


def test_busy_time_adds_up():
    page = VitalsPage()
    run(page, 100, 150)
    run(page, 200, 230)
    assert page.busy_s() == pytest.approx(0.08)


def test_the_page_says_whose_call_is_in_progress_and_nothing_once_it_is_over():
    page = VitalsPage()
    page.beat(90 * MS, 1000)
    page.begin(100 * MS, 2_500 * MS)
    assert page.signs().busy_until_s == pytest.approx(2.5)
    page.end(150 * MS)
    assert page.signs().busy_until_s is None
    page.begin(160 * MS)
    assert page.signs().busy_until_s is None
