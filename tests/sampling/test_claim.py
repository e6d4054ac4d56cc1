"""What may be said of the answer that is given."""

from __future__ import annotations

import pytest

from agent.sampling.cascade import Check, start
from agent.sampling.claim import claim
from agent.sampling.ensemble import Calibration, consensus, learn_wrong
from agent.sampling.ensemble import decide as decide_votes
from agent.sampling.reliability import Reliabilities, Reliability, Source, Vote
from agent.sampling.strategy import Progress, Sample, Strategy, decide, replay
from agent.sampling.tally import Tally

MAJORITY = Strategy("csvet", 16, certify="majority")


def tally(answers):
    found = Tally()
    for answer in answers:
        found = found.add(answer)
    return found


def test_agreement_and_certificate_are_those_of_the_answer_given_not_of_the_one_with_the_most_votes():
    votes = tally("aaaaaaaaaaaaaaab")
    leader, other = (claim(Strategy("best-of-n", 16), votes, answer, "samples") for answer in "ab")
    assert (leader.agreement, leader.certifies) == (15 / 16, "mode")
    assert (other.agreement, other.certified, other.certifies) == (1 / 16, 1.0, None)
    assert other.statement.startswith("1 of 16 samples agree on it, another answer has 15; not certified")
    assert "another answer has as many" in claim(MAJORITY, tally("ab"), "b", "samples").statement


@pytest.mark.parametrize(("votes", "says"), [("ab", "no answer is given"), ("", "no sample gave an answer")])
def test_nothing_is_certified_of_no_answer(votes, says):
    said = claim(MAJORITY, tally(votes), None, "majority")
    assert (said.agreement, said.certifies, said.statement) == (0.0, None, f"{says}; nothing is certified")


def test_one_sample_is_no_agreement():
    said = claim(Strategy("csvet", 2, certify="majority"), tally("a"), "a", "majority")
    assert said.certifies is None
    assert "not certified" in said.statement


def test_a_settled_vote_says_so():
    said = claim(MAJORITY, tally("aaaa"), "a", "majority")
    assert said.certifies == "majority"
    assert "no other answer would outnumber it among 16" in said.statement


@pytest.mark.parametrize("answers", [["a"] * 2, [*[None] * 15, "a"]])
def test_no_vote_is_settled_by_a_single_sample(answers):
    strategy = Strategy("csvet", len(answers), certify="majority")
    progress, decision = replay(strategy, [Sample(answer, 1, 1.0) for answer in answers])
    assert (len(progress.samples), decision.reason) == (len(answers), "samples")
    assert claim(strategy, progress.tally, "a", decision.reason).certifies is None


def test_the_answers_with_the_most_votes_come_first_the_earlier_one_of_equals():
    votes = tally("bcaaacd")
    assert votes.most(3) == ("a", "c", "b")
    assert Progress().tally.most(3) == ()


def test_only_checks_that_say_something_can_refute_all_answers():
    check = Check("c", 1.0, (99.0, 1.0), (1.0, 99.0))
    silent = start([0.01, 0.01]).after(0, check, "unknown", 1.0)
    assert not silent.spoken
    assert not silent.refuted(0.95)
    assert silent.after(0, check, "fail", 1.0).refuted(0.95)
    assert not start([0.5, 0.5]).after(0, check, "pass", 1.0).refuted(0.95)


@pytest.mark.parametrize(
    ("temperature_c", "drawn", "expected"),
    [
        (69.9, 0, (4, "go_on")), (70.0, 0, (0, "temperature")), (None, 0, (4, "go_on")),
        (69.9, 4, (4, "go_on")), (70.0, 4, (0, "temperature")), (None, 4, (0, "temperature")),
    ],
)  # fmt: skip
def test_a_budget_of_degrees_ends_drawing_and_is_looked_at_every_four_samples(temperature_c, drawn, expected):
    progress = Progress().add(*[Sample(str(n), 1, 1.0) for n in range(drawn)])
    decision = decide(Strategy("majority", 16, budget_c=70.0), progress, temperature_c)
    assert (decision.next_samples, decision.reason) == expected


def test_more_votes_of_a_source_that_is_mostly_wrong_still_win():
    source = Source("m", "number", "fast", "cpu")
    wrong = Reliabilities({source: Reliability(0.0, 200.0)})
    chances = consensus([Vote(source, answer) for answer in "aaaab"], wrong)
    assert chances["a"] > chances["b"] > 0


def test_a_wrong_answer_that_was_believed_lowers_later_confidence():
    votes = [Vote(Source("m", "number", "fast", "cpu"), "a")] * 4
    before = decide_votes(votes, Reliabilities(), Calibration())
    _, calibration = learn_wrong(votes, Reliabilities(), Calibration(), "a")
    after = decide_votes(votes, Reliabilities(), calibration)
    assert after.confidence < before.confidence
