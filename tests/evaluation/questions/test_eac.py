"""Which answers the cascade is about, and which one it gives."""

from __future__ import annotations

from agent.evaluation.questions import eac
from agent.evaluation.questions.checks import NAMES, Verdict, candidates
from agent.evaluation.questions.endpoint import Drawn
from agent.evaluation.questions.question import Question
from agent.evaluation.questions.scoring import Answered
from agent.sampling.strategy import Sample, Strategy

FIFTH = ("1", "2", "3", "4", *"55555", "6", *"55")
ASKED = Question("q", "number", "?", "5")


class Verdicts:
    """A book in which `right` passes everything and other answers fail; only `of` were asked about."""

    def __init__(self, right, of, joules=1.0):
        self.right, self.of, self.joules = right, of, joules

    def __len__(self):
        return len(self.of) * len(NAMES)

    def verdict(self, question, answer, name):
        outcome = "pass" if answer == self.right else "fail"
        return Verdict(outcome, self.joules, "modelled") if answer in self.of else None


def found(book, answers=FIFTH):
    pool = tuple(Sample(answer, 3, 0.5, 1.0, -1.0) for answer in answers)
    return eac.measured([Answered(ASKED, pool[0], pool)], book, Strategy("csvet", len(pool)), "number")


def test_the_answer_with_the_most_votes_is_checked_however_late_it_first_came():
    pool = [Drawn(answer, 3, 0.5, 1.0, "modelled", -1.0) for answer in FIFTH]
    assert set(candidates(ASKED, pool)) == {"1", "2", "3", "5"}
    document = found(Verdicts("5", ["1", "2", "3", "5"]))
    assert (document["accuracy"], document["every"]["accuracy"]) == (1.0, 1.0)


def test_a_leader_without_verdicts_stands_and_no_other_is_made_a_winner():
    document = found(Verdicts("4", ["5", "4"], joules=1.0), [*FIFTH[:5], "7", "7", "7"])
    assert document is None
    known, other = (Answered(ASKED, Sample(a[0], 1, 1.0, 1.0), tuple(Sample(x, 1, 1.0, 1.0) for x in a))
                    for a in (["4", "5", "5", "5"], ["4", "7", "7", "7"]))  # fmt: skip
    document = eac.measured([known, other], Verdicts("4", ["4", "5"]), Strategy("csvet", 4), "number")
    assert [row["answer"] for row in document["trace"]][1] == "7"


def test_where_the_checks_decide_against_all_answers_none_is_given(monkeypatch):
    monkeypatch.setattr(eac, "PRIORS", dict.fromkeys(NAMES, ((50.0, 1.0), (1.0, 50.0))))
    document = found(Verdicts("none", ["1", "2", "3", "5"]))
    assert document["trace"][0]["answer"] is None


def test_checks_without_joules_give_no_cascade():
    assert found(Verdicts("5", ["1", "2", "3", "5"], joules=None)) is None
