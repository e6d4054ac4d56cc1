"""The line that settles a majority: its error is bounded, it rises, and nothing is drawn that can change nothing."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sampling import majority
from agent.sampling.strategy import Progress, Sample, Strategy, decide, replay
from agent.sampling.tally import Tally


def tally_of(answers: str) -> Tally:
    tally = Tally()
    for answer in answers:
        tally = tally.add(answer)
    return tally


def pool_of(answers: str) -> list[Sample]:
    return [Sample(None if answer == "-" else answer, 1, 1.0, 1.0) for answer in answers]


def touched(line: majority.Line, wins: int, losses: int) -> float:
    """Share of all orders of wins and losses that touch the line, by listing them."""
    orders = list(combinations(range(wins + losses), wins))
    hits = 0
    for order in orders:
        ahead = behind = 0
        for place in range(wins + losses):
            ahead, behind = (ahead + 1, behind) if place in order else (ahead, behind + 1)
            if behind < len(line) and ahead >= line[behind]:
                hits += 1
                break
    return hits / len(orders)


def test_the_risk_of_a_line_is_the_share_of_orders_that_touch_it() -> None:
    line = majority.boundary(8, 0.2)
    listed = max(
        (8 - most) * max(touched(line, x, most) / x for x in range(1, min(most - 1, 8 - most) + 1))
        for most in range(2, 8)
    )
    assert majority.wrong(line, 8) == pytest.approx(listed)
    assert 0 < listed <= 0.2


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 24), st.sampled_from([0.01, 0.05, 0.2, 0.4]))
def test_lines_rise_keep_their_error_and_settle_by_more_than_half(samples: int, alpha: float) -> None:
    line = majority.boundary(samples, alpha)
    assert majority.wrong(line, samples) <= alpha
    assert list(line) == sorted(line)
    assert all(losses < wins <= samples // 2 + 1 for losses, wins in enumerate(line))


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="aabc-", min_size=16, max_size=16), st.sampled_from([0.05, 0.2]))
def test_what_cannot_be_overtaken_any_more_is_what_the_whole_vote_says(answers: str, alpha: float) -> None:
    progress, decision = replay(Strategy("csvet", 16, alpha, certify="majority"), pool_of(answers))
    drawn = len(progress.samples)
    counts = sorted(progress.tally.counts, reverse=True)
    lead = counts[0] - (counts[1] if len(counts) > 1 else 0) if counts else 0
    if lead > 16 - drawn:
        whole = Progress().add(*pool_of(answers)).tally
        assert progress.tally.answers[progress.tally.leader()] == whole.answers[whole.leader()]
    if drawn < 16:
        assert decision.reason in {"majority", "certified"}


def test_over_all_orders_of_a_pool_the_certified_answer_differs_from_the_majority_no_more_often_than_alpha() -> None:
    for pool in ("aaaabbbb", "aaabbbcc", "aaaaabbb", "aabbccdd"):
        orders = set(permutations(pool))
        wrong = 0
        for order in orders:
            progress, _ = replay(Strategy("csvet", 8, 0.2, certify="majority"), pool_of("".join(order)))
            given_answer = progress.tally.answers[progress.tally.leader()]
            wrong += pool.count(given_answer) < max(pool.count(answer) for answer in pool)
        assert wrong / len(orders) <= 0.2


def test_four_that_agree_settle_a_vote_of_sixteen_at_a_twentieth_and_are_drawn_at_once() -> None:
    strategy = Strategy("csvet", 16, 0.05, certify="majority")
    assert strategy.line[:5] == (4, 6, 7, 8, 8)
    assert decide(strategy, Progress()).next_samples == 4
    progress, decision = replay(strategy, pool_of("a" * 16))
    assert (len(progress.samples), decision.reason) == (4, "majority")


def test_a_batch_is_as_large_as_it_takes_at_least_to_settle_the_vote() -> None:
    line = majority.boundary(16, 0.05)
    assert majority.missing(tally_of("aaab"), line, 12) == 3
    assert majority.missing(tally_of("aaaab"), line, 11) == 2
    assert majority.missing(tally_of("abcdefgh"), line, 8) == 5
    assert majority.missing(tally_of("aabb"), line, 1) == 1
    assert majority.missing(tally_of("aaabb"), line, 0) == 0


def test_a_worth_looks_in_the_usual_batches_because_it_may_stop_before_anything_is_settled() -> None:
    assert decide(Strategy("csvet", 16, 0.05, 100.0, certify="majority"), Progress()).next_samples == 2


def test_ties_to_the_end_are_no_settled_vote() -> None:
    progress, decision = replay(Strategy("csvet", 4, 0.05, certify="majority"), pool_of("abab"))
    assert (len(progress.samples), decision.reason) == (4, "samples")


def test_what_is_certified_of_the_model_too_is_called_certified() -> None:
    _, decision = replay(Strategy("csvet", 64, 0.4, certify="majority"), pool_of("a" * 64))
    assert decision.reason == "certified"


@pytest.mark.parametrize(("samples", "alpha"), [(0, 0.05), (129, 0.05), (16, 0.0), (16, 1.0)])
def test_votes_and_errors_that_are_none_are_refused(samples: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        majority.boundary(samples, alpha)


def test_a_majority_is_certified_by_csvet_alone_and_of_so_many_samples_at_most() -> None:
    with pytest.raises(ValueError, match="belongs to csvet"):
        Strategy("beta", 16, certify="majority")
    with pytest.raises(ValueError, match="goes up to 128"):
        Strategy("csvet", 200, certify="majority")


def test_the_statement_counts_and_bounds():
    said = majority.statement(Progress().add(*pool_of("aab")).tally, 16, 0.05)
    assert said == (
        "2 of 3 samples agree; no other answer would outnumber it among 16, wrongly so with probability at most 0.05"
    )
