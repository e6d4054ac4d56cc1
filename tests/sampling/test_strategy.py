"""Strategies: batches, stops and answers, the same live and replayed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sampling.strategy import Expected, Progress, Sample, Strategy, answer, batch_size, decide, replay

RULES = ["majority", "best-of-n", "beta", "doubling", "csvet"]


def pool(answers, joules: float | None = 1.0) -> list[Sample]:
    return [Sample(a, 10, 0.5, joules, -1.0 - i / 100) for i, a in enumerate(answers)]


@given(
    st.sampled_from(RULES), st.integers(1, 24), st.lists(st.sampled_from(["a", "b", None]), min_size=24, max_size=24)
)
def test_every_rule_ends_within_its_samples_and_answers_what_was_given(rule, most, answers):
    strategy = Strategy(rule, most)
    progress, decision = replay(strategy, pool(answers))
    assert 1 <= len(progress.samples) <= most
    assert decision.next_samples == 0
    given_answer = answer(strategy, progress)
    assert given_answer in {s.answer for s in progress.samples} or given_answer is None


def test_batches_grow_to_four_and_end_at_the_most_allowed():
    sizes, drawn = [], 0
    while size := batch_size(drawn, 15):
        sizes.append(size)
        drawn += size
    assert sizes == [2, 2, 4, 4, 3]


def test_agreement_is_certified_before_all_samples_are_drawn():
    progress, decision = replay(Strategy("csvet", 16), pool("a" * 16))
    assert decision.reason == "certified"
    assert len(progress.samples) == 8
    assert decision.certified <= 0.05


def test_what_is_not_worth_its_joules_is_not_drawn():
    cheap, dear = Strategy("csvet", 16, worth_j=1e9), Strategy("csvet", 16, worth_j=10.0)
    assert len(replay(cheap, pool("a" * 16))[0].samples) == 8
    progress, decision = replay(dear, pool("a" * 16))
    assert len(progress.samples) < 8
    assert decision.reason == "not_worth_it"


def test_budgets_stop_every_rule():
    assert replay(Strategy("beta", 16, budget_j=5.0), pool("ab" * 8))[1].reason == "joules"
    assert replay(Strategy("csvet", 16, budget_s=2.5), pool("ab" * 8))[1].reason == "seconds"
    assert replay(Strategy("csvet", 16, budget_j=5.0), pool("ab" * 8, joules=None))[1].reason == "joules"


def test_the_published_rules_stop_where_they_were_published_to():
    assert len(replay(Strategy("doubling", 8), pool("a" * 8))[0].samples) == 2
    assert len(replay(Strategy("doubling", 8), pool("abababab"))[0].samples) == 8
    assert len(replay(Strategy("doubling", 3), pool("abababab"))[0].samples) == 3
    assert len(replay(Strategy("beta", 16), pool("a" * 16))[0].samples) == 4
    assert len(replay(Strategy("beta", 16, threshold=0.99), pool("a" * 16))[0].samples) > 4
    assert len(replay(Strategy("majority", 16), pool("a" * 16))[0].samples) == 16
    assert len(replay(Strategy("greedy", 1), pool("a"))[0].samples) == 1


def test_without_any_answer_there_is_no_winner():
    strategy = Strategy("csvet", 4)
    progress, decision = replay(strategy, pool([None] * 4))
    assert answer(strategy, progress) is None
    assert (len(progress.samples), decision.reason) == (4, "samples")
    assert progress.tokens == 40


def test_best_of_n_takes_the_most_probable_and_needs_to_know_it():
    strategy = Strategy("best-of-n", 3)
    progress = Progress().add(Sample("a", 1, 0.1, None, -2.0), Sample("b", 1, 0.1, None, -1.0), Sample(None, 1, 0.1))
    assert answer(strategy, progress) == "b"
    with pytest.raises(ValueError, match="log-probability"):
        answer(strategy, progress.add(Sample("c", 1, 0.1)))


def test_a_pool_that_ends_too_early_is_said():
    with pytest.raises(ValueError, match="more samples"):
        replay(Strategy("majority", 4), pool("ab"))


def test_unknown_joules_of_one_sample_make_the_sum_unknown():
    assert Progress().add(Sample("a", 1, 0.1, 1.0), Sample("a", 1, 0.1)).joules is None
    assert decide(Strategy("csvet", 8), Progress().add(Sample("a", 1, 0.1))).next_samples == 2


@pytest.mark.parametrize("fields", [
    {"max_samples": 0}, {"max_samples": 5000}, {"rule": "greedy", "max_samples": 2}, {"alpha": 0.0}, {"alpha": 1.0},
    {"threshold": 0.0}, {"worth_j": 0.0}, {"worth_samples": 0.0},
    {"rule": "beta", "worth_j": 1.0}, {"rule": "majority", "threshold": 0.8},
])  # fmt: skip
def test_contradictory_options_are_refused(fields):
    with pytest.raises(ValueError, match=r"must|belongs"):
        Strategy(**fields)


@pytest.mark.parametrize("certify", ["mode", "majority"])
@pytest.mark.parametrize("most", [16, 32, 64, 128])
def test_batches_are_cut_to_what_a_budget_leaves(certify, most):
    progress, decision = replay(Strategy("csvet", most, budget_j=3.0, certify=certify), pool("abc" * most))
    assert (len(progress.samples), decision.reason) == (3, "joules")


@pytest.mark.parametrize("rule", ["majority", "best-of-n", "doubling"])
def test_a_budget_of_seconds_cuts_the_published_rules_too(rule):
    progress, decision = replay(Strategy(rule, 16, budget_s=3.6), pool("abcd" * 4))
    assert (len(progress.samples), decision.reason) == (7, "seconds")


def test_the_first_batch_is_small_where_a_budget_waits_and_nobody_knows_what_a_sample_costs():
    assert decide(Strategy("majority", 16), Progress()).next_samples == 16
    assert decide(Strategy("majority", 16, budget_j=100.0), Progress()).next_samples == 2
    progress, decision = replay(Strategy("majority", 16, budget_j=5.0), pool("ab" * 8, joules=None))
    assert (len(progress.samples), decision.reason) == (2, "joules")


def test_a_worth_in_samples_is_one_in_joules_of_what_a_sample_takes():
    answers = pool("abacabdabacabdab")
    for worth in (10.0, 100.0, 1000.0):
        counted = replay(Strategy("csvet", 16, worth_samples=worth), answers)
        priced = replay(Strategy("csvet", 16, worth_j=worth), answers)
        assert (len(counted[0].samples), counted[1].reason) == (len(priced[0].samples), priced[1].reason)
    assert Strategy(worth_samples=3.0).worth(2.0) == 6.0
    assert Strategy(worth_j=3.0).worth(2.0) == 3.0
    assert Strategy().worth(2.0) is None


@pytest.mark.parametrize(
    ("budgets", "one", "count"),
    [
        ({"budget_j": 6.5}, Expected(2.0, 0.1), 3), ({"budget_s": 0.25}, Expected(None, 0.1), 2),
        ({"budget_j": 1.9}, Expected(2.0, 0.1), 0), ({"budget_j": 99.0}, Expected(None, 0.1), 0),
        ({}, Expected(2.0, 0.1), 8), ({"budget_j": 1.9}, None, 2),
    ],
)  # fmt: skip
def test_the_first_batch_is_what_budgets_allow_at_the_cost_expected(budgets, one, count):
    decision = decide(Strategy("majority", 8, **budgets), Progress(), expected=one)
    assert (decision.next_samples, decision.reason) == (count, "go_on" if count else "budget")


def test_a_worth_is_said_in_one_way_only():
    with pytest.raises(ValueError, match="give one"):
        Strategy("csvet", worth_j=9.0, worth_samples=9.0)
