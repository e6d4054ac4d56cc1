"""Too many failures: rarely said of boards that fail as often as accepted, soon of those that fail more often."""

from __future__ import annotations

import math
import random

import pytest

from agent.fleet.failures import EXACT, REST, chance, limits, too_many
from agent.fleet.ring_rule import COHORTS, reach
from agent.schema.fleet import Plan

PLAN = Plan()


@pytest.mark.parametrize(("boards", "failed", "share"), [(10, 1, 0.1), (50, 3, 0.02), (200, 2, 0.002), (6, 6, 0.5)])
def test_the_chance_of_failures_is_the_tail_of_the_binomial_distribution(boards, failed, share):
    below = sum(math.comb(boards, k) * share**k * (1 - share) ** (boards - k) for k in range(failed))
    expected = 1.0 if failed <= share * boards else 1 - below
    assert chance(boards, failed, share) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("boards", "failed", "share", "expected"),
    [(9, 0, 0.0, 1.0), (9, 1, 0.0, 0.0), (9, 9, 1.0, 1.0), (1_000_000, 2_200, 0.002, 5e-6)],
)
def test_the_chance_of_failures_at_its_edges(boards, failed, share, expected):
    assert chance(boards, failed, share) == pytest.approx(expected, rel=0.2)


def stopped(share: float, boards: int, found: list[int], rng: random.Random) -> bool:
    """Whether boards of which `share` fail are ever stopped. Only after a failure can it be too many."""
    board = 0
    for limit in found:
        board += 1 + int(math.log(1 - rng.random()) / math.log1p(-share))
        if board > boards:
            return False
        if board <= limit:
            return True
    return False


@pytest.mark.parametrize(("accepted", "boards"), [(0.002, 2000), (0.02, 1000), (0.2, 150)])
def test_boards_that_fail_as_often_as_accepted_are_stopped_no_more_often_than_the_risk(accepted, boards):
    rng, found = random.Random(7), limits(accepted, 0.05, EXACT)
    share = sum(stopped(accepted, boards, found, rng) for _ in range(20_000)) / 20_000
    assert 0.03 < share <= 0.05


@pytest.mark.parametrize(("share", "risk"), [(0.002, 0.05), (0.05, 0.01), (0.3, 0.2)])
def test_the_chance_of_ever_being_stopped_is_that_of_every_path_and_within_the_risk(share, risk):
    """Board by board, with a look after each: nothing of how the limits are found is used."""
    found, alive, stopped_so_far = limits(share, risk, EXACT), [1.0], 0.0
    for board in range(1, found[-1] + 1):
        worked, failed = [*(a * (1 - share) for a in alive), 0.0], [0.0, *(a * share for a in alive)]
        alive = [a + b for a, b in zip(worked, failed, strict=True)][: EXACT + 1]
        for failures in range(1, len(alive)):
            if board <= found[failures - 1]:
                stopped_so_far += alive[failures]
                alive[failures] = 0.0
    assert 0.85 * risk < stopped_so_far <= risk
    assert found == sorted(found)


@pytest.mark.parametrize("failed", [1, 2, 5, EXACT])
def test_a_failure_is_too_many_up_to_its_limit(failed):
    limit = limits(0.002, 0.05, failed)[-1]
    assert too_many(limit, failed, 0.002, 0.05)
    assert not too_many(limit + 1, failed, 0.002, 0.05)


def test_later_failures_have_their_part_of_what_is_left_of_the_risk():
    failed = 2 * EXACT
    part = 0.05 * REST / (failed * (failed - 1))
    boards = next(n for n in range(failed, 10**6, 100) if chance(n, failed, 0.002) > part)
    assert too_many(boards - 100, failed, 0.002, 0.05)
    assert not too_many(boards, failed, 0.002, 0.05)


def test_whoever_looks_late_finds_what_was_too_many_before():
    boards = limits(0.002, 0.05, EXACT)[-1]
    assert too_many(boards, EXACT + 1, 0.002, 0.05)
    assert too_many(5000, 5000, 0.002, 0.05)


@pytest.mark.parametrize(
    ("boards", "failed", "share", "many"),
    [(0, 0, 0.0, False), (9, 0, 0.0, False), (9, 1, 0.0, True), (9, 9, 1.0, False), (3, 3, 1e-300, True)],
)
def test_too_many_at_its_edges(boards, failed, share, many):
    assert too_many(boards, failed, share, 0.05) == many


def test_three_broken_boards_of_a_hundred_are_too_many_within_the_first_ring():
    rng, found = random.Random(3), limits(PLAN.max_failed, PLAN.risk, EXACT)
    first = reach(PLAN, 0) * 1000 // COHORTS
    assert sum(stopped(0.03, first, found, rng) for _ in range(5_000)) / 5_000 >= 0.95
