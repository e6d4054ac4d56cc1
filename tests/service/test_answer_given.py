"""Which answer is given after a verification, and that what is said beside it is said of that one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.schema.text import SamplingPlan, TextDone, TextPiece, TextUsage
from agent.service.decoding import answer_book
from agent.service.decoding.answer_book import AnswerBook
from agent.service.decoding.answering import Answering
from agent.service.decoding.verification import said_of
from tests.fakes import FakeClock
from tests.service.test_answering import ASKED, POLICY, Answers, Scribe, ask, passes

FIFTH = ("1", "2", "3", "4", *"55555", "6", *"55")


class Sure(Scribe):
    """The answer 7 is written with the highest log-probability, and derived as the script says."""

    def give(self, request, on_event):
        for row in range(request.first_sample, request.first_sample + request.samples):
            text = self.texts(row)
            on_event(TextPiece(row, 1, text, "stop", -0.1 if text == "7" else -5.0))
        usage = TextUsage(10, 0, request.samples, 0.5 * request.samples, float(request.samples), "modelled")
        on_event(TextDone(usage, "cpu", "CPU", "d"))


@pytest.mark.parametrize("rule", ["csvet", "majority"])
def test_the_answer_with_the_most_votes_is_asked_about_however_late_it_first_came(rule):
    scribe = Scribe(lambda row: FIFTH[row] if row < len(FIFTH) else "5")
    plan = SamplingPlan(rule, 12, answer="number", verify=True, certify="mode" if rule == "csvet" else None)
    report = ask(scribe, plan).report
    assert report.answer == "5"
    assert report.agreement == pytest.approx(7 / 12)
    assert report.confidence > 0.9
    assert report.checks[0][0] == "5"


def test_no_winner_is_made_up_where_the_checks_speak_against_all_answers(monkeypatch):
    telling = dict.fromkeys(answer_book.PRIORS, ((50.0, 1.0), (1.0, 50.0)))
    monkeypatch.setattr(answer_book, "PRIORS", telling)
    scribe = Scribe(lambda row: str(row % 2) if row < 8 else "99", says="no")
    report = given(AnswerBook(), scribe, "last").report
    assert {step[2] for step in report.checks} == {"fail"}
    assert (report.answer, report.confidence, report.certifies) == (None, None, None)
    assert any("speak against every answer" in note for note in report.notes)


def given(book, scribe, number, samples=8, verify=True):
    events = Answers()
    plan = SamplingPlan("majority", samples, answer="number", verify=verify)
    Answering(scribe, lambda: POLICY, lambda _: 1.0, FakeClock(), passes, book).answer(
        replace(ASKED, request_id=number), plan, events.append
    )
    return events


def test_the_most_probable_sample_carries_no_certificate_of_another_answer():
    scribe = Sure(lambda row: "7" if row == 3 else "42")
    events = ask(scribe, SamplingPlan("best-of-n", 16, answer="number"))
    report = events.report
    assert (report.answer, events.text, report.certifies) == ("7", "7", None)
    assert report.agreement == 1 / 16
    assert report.confidence < 0.1
    assert "15 of 16 samples agree" not in report.statement


def test_answers_told_to_be_wrong_do_not_make_fewer_votes_win():
    book = AnswerBook()
    for _ in range(60):
        given(book, Scribe(lambda row: "42"), "r", 4, verify=False)
        book.tell("r", None, False)
    scribe = Scribe(lambda row: "9" if row == 5 else "42", says="hm")
    for verify in (False, True):
        report = given(book, scribe, "last", verify=verify).report
        assert report.answer == "42"
    assert report.confidence == [step for step in report.checks if step[0] == "42"][-1][4]


def test_one_sample_of_one_is_not_certified():
    for plan, heat in ((SamplingPlan(max_samples=1, answer="number"), 1.0), (SamplingPlan(answer="number"), 0.01)):
        report = ask(Scribe(lambda row: "42"), plan, heat=heat).report
        assert (report.samples_used, report.certifies) == (1, None)
        assert "not certified" in report.statement
    assert ask(Scribe(lambda row: "42"), SamplingPlan(max_samples=2, answer="number")).report.samples_used == 2


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (" Yes.\n", "pass"), ("**no**", "fail"), ("Nobody knows", "unknown"), ("not sure", "unknown"),
        ("yesterday", "unknown"), ("Yes and no", "unknown"), ("", "unknown"),
    ],
)  # fmt: skip
def test_a_self_check_says_yes_or_no_or_nothing(text, outcome):
    assert said_of(text) == outcome
