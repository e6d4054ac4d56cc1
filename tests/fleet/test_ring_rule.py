"""The ring rule: who is first, how far it goes, and when it stops."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from agent.fleet.ring_rule import COHORTS, Progress, cohort, may_offer, reach, step
from agent.schema.fleet import MaintenanceWindow, Plan

PLAN = Plan(soak_s=60, per_minute=10, rings=(0.01, 0.05, 0.25, 1.0))
START = Progress(0, 0, 0, 0, 0, None, (), 0)


@pytest.mark.parametrize(
    ("progress", "what"),
    [
        (replace(START, waiting=50), "offer"),
        (replace(START, waiting=50, offered_last_minute=10), "wait"),
        (replace(START, under_way=1), "wait"),
        (replace(START, kept=9), "settled"),
        (replace(START, kept=9, settled_s=950.0), "wait"),
        (replace(START, kept=9, settled_s=940.0), "next_ring"),
        (replace(START, ring=3, kept=9, settled_s=None), "done"),
        (replace(START, ring=3, kept=9, under_way=1), "wait"),
        (replace(START, waiting=5, kept=4, failed=1), "abort"),
        (replace(START, waiting=5, kept=3, failed=1), "offer"),
        (replace(START, waiting=5, kept=25, failed=1), "offer"),
        (replace(START, waiting=5, kept=98, failed=2), "abort"),
        (replace(START, waiting=5, kept=198, failed=2), "offer"),
        (replace(START, waiting=50, under_way=10), "wait"),
    ],
)
def test_each_situation_has_its_step(progress, what):
    assert step(PLAN, progress, 1000.0).what == what


@pytest.mark.parametrize("plan", [PLAN, Plan(min_boards=10**9, max_failed=0)])
def test_a_ring_of_fewer_boards_than_must_settle_is_judged_when_all_have(plan):
    assert step(plan, replace(START, failed=3, settled_s=0.0), 1000.0).what == "abort"
    assert step(plan, replace(START, failed=3, under_way=1), 1000.0).what == "wait"
    assert step(plan, replace(START, kept=3, settled_s=0.0), 1000.0).what == "next_ring"


def test_offers_stay_within_the_rate():
    assert step(PLAN, replace(START, waiting=50, offered_last_minute=4), 0.0).offers == 6
    assert step(PLAN, replace(START, waiting=3), 0.0).offers == 3


def test_offers_under_way_are_few_at_first_and_then_as_many_as_have_settled():
    plan = Plan(per_minute=100_000, ramp_boards=8)
    assert step(plan, replace(START, waiting=500), 0.0).offers == 8
    assert step(plan, replace(START, waiting=500, under_way=5, kept=3), 0.0).offers == 3
    assert step(plan, replace(START, waiting=500, under_way=5, kept=100), 0.0).offers == 95
    assert step(plan, replace(START, waiting=2, kept=100), 0.0).offers == 2


def broken_in(seed: int, share: float, boards: int) -> int | None:
    rng, failed = random.Random(seed), 0
    for settled in range(1, boards + 1):
        failed += rng.random() < share
        if step(Plan(), replace(START, waiting=1, kept=settled - failed, failed=failed), 0.0).what == "abort":
            return settled
    return None


def test_three_broken_boards_of_a_hundred_stop_the_first_ring_and_one_of_a_thousand_rarely_stops_any():
    first = reach(Plan(), 0) * 1000 // COHORTS
    assert sum(broken_in(seed, 0.03, first) is not None for seed in range(100)) >= 95
    assert sum(broken_in(seed, 0.001, 1000) is not None for seed in range(100)) <= 10


def test_cohorts_are_the_same_for_everybody_and_spread_evenly():
    numbers = [cohort("r1", f"board-{i}") for i in range(5000)]
    assert numbers == [cohort("r1", f"board-{i}") for i in range(5000)]
    assert numbers[:10] != [cohort("r2", f"board-{i}") for i in range(10)]
    assert 0 <= min(numbers) <= max(numbers) < COHORTS
    share = sum(n < reach(PLAN, 1) for n in numbers) / len(numbers)
    assert 0.04 < share < 0.06
    assert reach(PLAN, 99) == COHORTS


def excesses(seed: int, shift: float, count: int) -> list[float]:
    rng = random.Random(seed)
    return [math.log(1 + shift) + rng.gauss(0, 0.08) for _ in range(count)]


def aborted_at(seed: int, shift: float, boards: int) -> int | None:
    values = excesses(seed, shift, boards)
    for count in range(1, boards + 1):
        if step(PLAN, replace(START, kept=count, excesses=tuple(values[:count])), 0.0).what == "abort":
            return count
    return None


def test_eight_per_cent_more_joules_stop_it_before_a_quarter_of_a_thousand_boards_has_it():
    found = [aborted_at(seed, 0.08, 250) for seed in range(40)]
    assert all(count is not None and count < 250 for count in found)


def test_a_neutral_bundle_is_rarely_stopped():
    assert sum(aborted_at(seed, 0.0, 200) is not None for seed in range(100)) <= 5


@pytest.mark.parametrize("rings", [(), (0.5, 0.1), (0.0, 1.0), (0.5, 0.5), (2.0,)])
def test_rings_that_do_not_grow_are_none(rings):
    with pytest.raises(ValueError, match="rings"):
        Plan(rings=rings)


def test_a_plan_whose_rings_accept_that_most_boards_fail_contradicts_itself():
    for share in (0.5, 1.0):
        with pytest.raises(ValueError, match="rings stop nothing"):
            Plan(max_failed=share)
    assert Plan(max_failed=1.0, rings=(1.0,)).max_failed == 1.0


def test_nothing_goes_on_after_rings_in_which_every_board_failed_however_few_they_were():
    plan = Plan(max_failed=0.49)
    found = step(plan, replace(START, failed=2, settled_s=0.0), 1000.0)
    assert (found.what, found.reason) == ("abort", "all 2 boards of the first rings failed or fell silent")
    assert step(plan, replace(START, failed=2, kept=1, settled_s=0.0), 1000.0).what == "next_ring"


WEDNESDAY_S = 1_790_121_600.0


@pytest.mark.parametrize(
    ("days", "begins", "ends", "hours", "inside"),
    [
        (("wed",), "09:00", "17:00", 9.0, True),
        (("wed",), "09:00", "17:00", 8.99, False),
        (("wed",), "09:00", "17:00", 17.0, False),
        (("tue", "thu"), "09:00", "17:00", 12.0, False),
        (("wed",), "22:30", "04:00", 22.5, True),
        (("wed",), "22:30", "04:00", 27.9, True),
        (("wed",), "22:30", "04:00", 3.9, False),
        (("tue",), "22:30", "04:00", 3.9, True),
        (("tue",), "22:30", "04:00", 4.0, False),
    ],
)
def test_offers_leave_within_windows_only_and_those_may_pass_midnight(days, begins, ends, hours, inside):
    plan = Plan(windows=(MaintenanceWindow(days=days, begins=begins, ends=ends),))
    now_s = WEDNESDAY_S + 3600 * hours
    assert may_offer(plan, now_s) is inside
    assert step(plan, replace(START, waiting=5), now_s).what == ("offer" if inside else "wait")
    assert step(plan, replace(START, waiting=5, failed=5), now_s).what == "abort"


@pytest.mark.parametrize("fields", [{"begins": "24:00"}, {"begins": "9:00"}, {"ends": "09:00"}, {"days": ()}])
def test_a_window_that_is_none_is_refused(fields):
    with pytest.raises(ValueError, match=r"begins|days|string"):
        MaintenanceWindow(**{"begins": "09:00", "ends": "17:00", **fields})
