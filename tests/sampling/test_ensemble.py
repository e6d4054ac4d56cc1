"""ARDE: weighted votes, their calibration, and a broken accelerator that loses its say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sampling.ensemble import (
    Calibration,
    Verdict,
    brier,
    calibration_error,
    consensus,
    decide,
    learn,
    learn_wrong,
)
from agent.sampling.reliability import Reliabilities, Reliability, Source, Vote

SOURCES = [Source("smol", "choice", "int8", name) for name in ("cpu", "gpu", "npu")]
VOTES = st.lists(st.builds(Vote, st.sampled_from(SOURCES), st.integers(0, 5)), max_size=20)


@given(VOTES)
def test_chances_are_probabilities_of_the_answers_given(votes):
    chances = consensus(votes, Reliabilities())
    assert set(chances) == {vote.answer for vote in votes}
    assert sum(chances.values()) <= 1 + 1e-9
    assert all(0 <= chance <= 1 for chance in chances.values())


@given(VOTES, st.integers(0, 5))
def test_one_more_source_for_an_answer_never_makes_it_less_probable(votes, answer):
    votes = [vote for vote in votes if vote.source != SOURCES[0]] + [Vote(SOURCES[1], answer)]
    before = consensus(votes, Reliabilities())[answer]
    assert consensus([*votes, Vote(SOURCES[0], answer)], Reliabilities())[answer] >= before - 1e-12


def test_one_reliable_source_outvotes_two_unreliable_ones():
    known = Reliabilities(
        {SOURCES[0]: Reliability(90, 2), SOURCES[1]: Reliability(5, 9), SOURCES[2]: Reliability(5, 9)}
    )
    votes = [Vote(SOURCES[0], "a"), Vote(SOURCES[1], "b"), Vote(SOURCES[2], "b")]
    assert decide(votes, known, Calibration()).answer == "a"
    assert decide(votes, Reliabilities(), Calibration()).answer == "b"


def test_samples_of_one_source_count_less_than_those_of_several():
    same = consensus([Vote(SOURCES[0], "a")] * 3, Reliabilities())["a"]
    apart = consensus([Vote(source, "a") for source in SOURCES], Reliabilities())["a"]
    assert same < apart


def test_without_votes_there_is_no_answer():
    assert decide([], Reliabilities(), Calibration()) is None
    assert learn([], Reliabilities(), Calibration(), truth="a") == (Reliabilities(), Calibration())


def test_a_lone_source_learns_nothing_from_itself():
    assert learn([Vote(SOURCES[0], "a")] * 5, Reliabilities(), Calibration())[0] == Reliabilities()


def questions(seed: int, count: int, rates: list[float]):
    """Questions of four choices; each source gives four samples, its errors of one question partly in common."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        truth = int(rng.integers(4))
        votes = []
        for source, rate in zip(SOURCES, rates, strict=True):
            hard = rng.beta(rate * 2, (1 - rate) * 2)
            for _ in range(4):
                answer = truth if rng.random() < hard else int((truth + rng.integers(1, 4)) % 4)
                votes.append(Vote(source, answer))
        yield truth, votes


def test_confidence_becomes_better_calibrated_than_the_share_of_votes():
    reliabilities, calibration = Reliabilities(), Calibration()
    ours, shares, right_ours, right_shares = [], [], [], []
    for number, (truth, votes) in enumerate(questions(1, 600, [0.75, 0.6, 0.35])):
        verdict = decide(votes, reliabilities, calibration)
        answers = [vote.answer for vote in votes]
        leader = max(set(answers), key=answers.count)
        if number >= 100:
            ours.append(verdict.confidence)
            right_ours.append(verdict.answer == truth)
            shares.append(answers.count(leader) / len(answers))
            right_shares.append(leader == truth)
        reliabilities, calibration = learn(votes, reliabilities, calibration, truth)
    assert brier(ours, right_ours) < brier(shares, right_shares)
    assert calibration_error(ours, right_ours) < calibration_error(shares, right_shares)


@pytest.mark.parametrize("seed", [2, 5, 8])
@pytest.mark.parametrize(("known_truth", "margin"), [(True, 0.1), (False, 0.05)])
def test_an_accelerator_that_answers_noise_loses_its_weight_within_twenty_questions(known_truth, margin, seed):
    reliabilities, calibration = Reliabilities(), Calibration()
    for truth, votes in questions(seed, 30, [0.75, 0.75, 0.75]):
        reliabilities, calibration = learn(votes, reliabilities, calibration, truth if known_truth else None)
    for truth, votes in questions(seed + 1, 20, [0.75, 0.75, 0.26]):
        reliabilities, calibration = learn(votes, reliabilities, calibration, truth if known_truth else None)
    means = [reliabilities.of(source).mean for source in SOURCES]
    assert means[2] < min(means[:2]) - margin


def test_scores_of_certainty():
    assert brier([1.0, 0.0], [True, False]) == 0.0
    assert calibration_error([1.0, 1.0], [True, False]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="one of each"):
        brier([], [])


def test_extreme_odds_do_not_overflow():
    assert Calibration(slope=1e6).probability(-1e6) == pytest.approx(0.0)
    assert Calibration(slope=1e6).probability(1e6) == pytest.approx(1.0)


@given(VOTES.filter(bool))
def test_calibrated_chances_are_probabilities_that_keep_the_order_of_the_rest(votes):
    verdict = decide(votes, Reliabilities(), Calibration(slope=0.5))
    chances = verdict.calibrated()
    assert chances[verdict.answer] == verdict.confidence
    assert sum(chances.values()) <= 1 + 1e-9
    rest = [a for a in chances if a != verdict.answer]
    assert sorted(rest, key=lambda a: (chances[a], a)) == sorted(rest, key=lambda a: (verdict.chances[a], a))


def test_certainty_leaves_nothing_to_the_rest():
    sure = Verdict("a", 0.9, 9.0, {"a": 1.0, "b": 0.0})
    assert sure.calibrated() == {"a": 0.9, "b": 0.0}


def test_a_known_wrong_answer_counts_against_those_who_gave_it_alone():
    a, b = (Source("m", "t", "p", name) for name in "ab")
    votes = [Vote(a, "x"), Vote(a, "x"), Vote(a, "y"), Vote(b, "y")]
    known, calibration = learn_wrong(votes, Reliabilities(), Calibration(), "x")
    assert known.of(a).wrong == pytest.approx(2 / 3)
    assert (known.of(a).right, known.of(b)) == (0.0, Reliabilities().of(b))
    leader = decide(votes, Reliabilities(), Calibration())
    changed = leader.answer == "x"
    assert (calibration != Calibration()) == changed
    again = learn_wrong(votes, Reliabilities(), Calibration(), "y" if changed else "x")[1]
    assert again == Calibration()
