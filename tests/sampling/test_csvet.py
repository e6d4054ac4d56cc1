"""CSVET: the error it promises, kept under peeking after every sample; budgets; what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sampling import baselines
from agent.sampling.csvet import Budget, Spent, certified_alpha, share, statement, step
from agent.sampling.tally import Tally

ANSWERS = st.lists(st.integers(0, 4), max_size=40)
FREE = Spent(joules=0.0, seconds=0.0, temperature_c=30.0, next_joules=1.0, next_seconds=0.1)


def tally_of(answers) -> Tally:
    tally = Tally()
    for answer in answers:
        tally = tally.add(answer)
    return tally


def distribution(kind: str, categories: int) -> np.ndarray:
    if kind == "two leaders":
        weights = np.array([0.35, 0.30] + [0.35 / max(1, categories - 2)] * (categories - 2))
    elif kind == "tie":
        weights = np.array([1.0] * categories)
    else:
        weights = 1.0 / np.arange(1, categories + 1) ** 1.1
    return weights / weights.sum()


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize(("kind", "categories"), [("two leaders", 2), ("two leaders", 12), ("heavy tail", 60)])
def test_a_wrong_answer_is_certified_no_more_often_than_promised(kind, categories, alpha):
    rng = np.random.default_rng(categories)
    chances = distribution(kind, categories)
    streams, wrong = 400, 0
    for _ in range(streams):
        tally = Tally()
        for answer in rng.choice(categories, size=64, p=chances):
            tally = tally.add(int(answer))
            if certified_alpha(tally) <= alpha:
                wrong += tally.answers[tally.leader()] != 0
                break
    # Three standard deviations above the promise would be no accident.
    assert wrong <= alpha * streams + 3 * math.sqrt(alpha * (1 - alpha) * streams)


def test_the_usual_rule_breaks_its_promise_under_peeking():
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(400):
        tally = Tally()
        for answer in rng.choice(2, size=64, p=[0.52, 0.48]):
            tally = tally.add(int(answer))
            if baselines.adaptive_consistency(tally):
                wrong += tally.answers[tally.leader()] != 0
                break
    assert wrong / 400 > 0.10


def test_clear_agreement_is_certified_after_few_samples():
    looks = [n for n in range(1, 20) if certified_alpha(tally_of(["42"] * n)) <= 0.05]
    assert looks[0] == 8


@given(ANSWERS)
def test_the_tally_is_the_same_as_counting(answers):
    tally = tally_of(answers)
    assert tally.samples == len(answers)
    assert dict(zip(tally.answers, tally.counts, strict=True)) == {a: answers.count(a) for a in answers}
    for i, first in enumerate(tally.answers):
        after = answers[answers.index(first) + 1 :]
        assert tally.since(i) == tuple(after.count(a) for a in tally.answers)
    if answers:
        assert tally.counts[tally.leader()] == max(tally.counts)
        assert tally.runner_up() is None or tally.runner_up() != tally.leader()
        assert 0 < tally.agreement <= 1


def test_a_tally_of_answers_that_all_differ_holds_one_entry_a_sample():
    tally = tally_of(range(1024))
    assert len(tally.order) == len(tally.counts) == 1024
    assert certified_alpha(tally) == 1.0


@given(ANSWERS)
def test_another_vote_for_the_leader_never_weakens_its_certificate(answers):
    tally = tally_of([*answers, 0])
    leader = tally.answers[tally.leader()]
    assert certified_alpha(tally.add(leader)) <= certified_alpha(tally) + 1e-15


def test_the_shares_of_the_error_sum_to_one():
    assert sum(share(rank) for rank in range(100_000)) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="rank"):
        share(-1)


@pytest.mark.parametrize(
    ("budget", "spent", "reason"),
    [
        (Budget(2), FREE, "samples"),
        (Budget(64, joules=3.5), Spent(3.0, 0.0, 30.0, 1.0, 0.1), "joules"),
        (Budget(64, joules=3.5), Spent(None, 0.0, 30.0, None, 0.1), "joules"),
        (Budget(64, seconds=2.0), Spent(0.0, 1.95, 30.0, 1.0, 0.1), "seconds"),
        (Budget(64, temperature_c=80.0), Spent(0.0, 0.0, 80.5, 1.0, 0.1), "temperature"),
        (Budget(64, temperature_c=80.0), Spent(0.0, 0.0, None, 1.0, 0.1), "temperature"),
        (Budget(64, joules=9.0, seconds=9.0, temperature_c=80.0), FREE, "go_on"),
    ],
)
def test_the_first_budget_that_the_next_batch_would_pass_stops(budget, spent, reason):
    verdict = step(tally_of(["a", "b"]), budget, spent, alpha=0.05)
    assert (verdict.reason, verdict.stop) == (reason, reason != "go_on")


def test_a_batch_that_costs_more_than_it_can_bring_is_not_bought():
    tally = tally_of(["a"] * 7)
    assert certified_alpha(tally) > 0.05
    assert step(tally, Budget(64), FREE, 0.05, worth_j=20.0).reason == "not_worth_it"
    assert step(tally, Budget(64), FREE, 0.05, worth_j=1e6).reason == "go_on"
    unknown = Spent(None, 0.0, None, None, 0.1)
    assert step(tally, Budget(64), unknown, 0.05, worth_j=2.0).reason == "go_on"


def test_certification_comes_before_every_budget():
    verdict = step(tally_of(["a"] * 30), Budget(1, joules=0.0), FREE, 0.05)
    assert (verdict.stop, verdict.reason, verdict.leader) == (True, "certified", 0)


def test_what_was_certified_is_said_and_what_was_not_too():
    agreed, split = tally_of(["a"] * 10), tally_of(["a", "b"])
    assert "probability at most 0.05" in statement(step(agreed, Budget(64), FREE, 0.05), agreed, 0.05)
    said = statement(step(split, Budget(2), FREE, 0.05), split, 0.05)
    assert said == "1 of 2 samples agree; not certified at 0.05 (stopped: samples)"
    assert "no sample" in statement(step(Tally(), Budget(2), FREE, 0.05), Tally(), 0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_an_alpha_that_is_no_probability_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        step(Tally(), Budget(1), FREE, alpha)


def test_nothing_leads_before_the_first_answer():
    with pytest.raises(ValueError, match="no sample"):
        Tally().leader()
    assert Tally().agreement == 0
    assert certified_alpha(Tally()) == 1.0


def test_the_rules_of_others_stop_where_theirs_say():
    assert baselines.fixed_k(tally_of("aab"), 3)
    assert not baselines.fixed_k(tally_of("aa"), 3)
    assert not baselines.adaptive_consistency(Tally())
    assert not baselines.adaptive_consistency(tally_of("aaa"))
    assert baselines.adaptive_consistency(tally_of("aaaa"))
    assert baselines.doubling(tally_of("aa"))
    assert not baselines.doubling(tally_of("aaa"))
    assert not baselines.doubling(tally_of("ab"))
    assert baselines.doubling(tally_of("aaab"))
    assert baselines.doubling(tally_of("abcdefgh"))


def test_best_of_n_takes_the_most_confident_sample():
    assert baselines.best_of_n(["a", "b", "c"], [-2.0, -1.0, -1.0]) == "b"
    with pytest.raises(ValueError, match="one of each"):
        baselines.best_of_n(["a"], [])
