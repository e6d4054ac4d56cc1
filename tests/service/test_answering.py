from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import BadInput, DeadlineExceeded, Overloaded, QeilError
from agent.schema.text import SamplingPlan, TextDone, TextModel, TextPiece, TextRequest, TextUsage
from agent.service.decoding.answering import Answering
from agent.service.decoding.verification import QUESTION
from agent.storage import share, yaml_files
from tests.fakes import FakeClock

POLICY = yaml_files.load_policy(share.find_policy("balanced"))
ASKED = TextRequest("m", messages=({"role": "user", "content": "6 * 7?"},), temperature=0.8, seed=3)


def passes(request):
    """A screen that refuses nothing."""


class Scribe:
    """Writes what the script says: `texts` by number of the sample, `says` to a self-check."""

    def __init__(self, texts, says="yes", energy_j=1.0):
        self.texts, self.says, self.energy_j = texts, says, energy_j
        self.requests, self.cancelled, self.fail_at = [], 0, None
        self.hold = False

    def text_models(self):
        return (TextModel("m", True, None, 512, 4, 0.0, "cpu"),)

    def cancel(self):
        self.cancelled += 1

    def write(self, request, on_event):
        self.requests.append(request)
        if self.fail_at == len(self.requests):
            raise Overloaded("full")
        if self.hold:
            self.held = (request, on_event)
            return self
        self.give(request, on_event)
        return self

    def give(self, request, on_event):
        asked = request.messages[-1]["content"] == QUESTION
        for row in range(request.first_sample, request.first_sample + request.samples):
            text = self.says if asked else self.texts(row)
            logprob = -float(row + 1) if request.logprobs is not None else None
            on_event(TextPiece(row, 1, text[:1], None, logprob))
            on_event(TextPiece(row, 2, text[1:], "stop", logprob))
        energy_j = None if self.energy_j is None else self.energy_j * request.samples * (0.1 if asked else 1.0)
        provenance = "unknown" if energy_j is None else "modelled"
        usage = TextUsage(10, 0, 2 * request.samples, 0.5 * request.samples, energy_j, provenance)
        on_event(TextDone(usage, "cpu", "CPU", "d"))


class Answers(list):
    """Events of one request."""

    @property
    def done(self):
        assert isinstance(self[-1], TextDone), self[-1]
        return self[-1]

    @property
    def report(self):
        return self.done.sampling

    @property
    def text(self):
        return "".join(e.text for e in self if isinstance(e, TextPiece))


def ask(scribe, plan=None, *, request=ASKED, heat=1.0, policy=POLICY):
    events = Answers()
    service = Answering(scribe, lambda: policy, lambda _: heat, FakeClock(), passes)
    service.answer(request, plan or SamplingPlan(answer="number"), events.append)
    return events


def test_samples_that_agree_are_certified_and_drawing_ends():
    scribe = Scribe(lambda row: f"It is 42 ({'abcdefgh'[row % 8]}) so 42")
    events = ask(scribe, SamplingPlan(certify="mode", answer="number"))
    report = events.report
    assert (report.stop_reason, report.answer, report.agreement) == ("certified", "42", 1.0)
    assert report.certified <= report.alpha == 0.05
    assert report.samples_used == sum(r.samples for r in scribe.requests) < 16
    assert "most likely answer" in report.statement
    assert events.text == "It is 42 (a) so 42"
    assert events.done.usage.energy_j == report.energy_j == report.samples_used * 1.0


def test_a_majority_of_all_samples_is_certified_with_fewer_of_them_and_needs_no_verification():
    scribe = Scribe(lambda row: "42")
    report = ask(scribe, SamplingPlan(certify="majority", answer="number", verify=True)).report
    assert (report.stop_reason, report.certifies, report.samples_used) == ("majority", "majority", 4)
    assert "no other answer would outnumber it among 16, wrongly so with probability at most 0.05" in report.statement
    assert not report.checks


def test_where_nothing_is_said_what_all_samples_would_vote_for_is_certified():
    report = ask(Scribe(lambda row: "42")).report
    assert (report.certifies, report.samples_used) == ("majority", 4)


def test_more_samples_than_a_vote_can_be_counted_for_certify_the_most_likely_answer():
    report = ask(Scribe(lambda row: "42"), SamplingPlan(max_samples=200, answer="number")).report
    assert (report.certifies, report.samples_used) == ("mode", 8)


@pytest.mark.parametrize("energy_j", [1.0, None])
def test_a_worth_in_samples_ends_sampling_whether_joules_are_known_or_not(energy_j):
    scattered = Scribe(str, energy_j=energy_j)
    report = ask(scattered, SamplingPlan(worth_samples=20, answer="number")).report
    assert (report.stop_reason, report.certifies) == ("not_worth_it", None)
    assert report.samples_used < 16


def test_looks_come_after_2_4_8_samples_and_every_sample_has_a_number_of_its_own():
    scribe = Scribe(lambda row: str(row % 2))
    ask(scribe, SamplingPlan(max_samples=12, certify="mode", answer="number"))
    assert [(r.first_sample, r.samples) for r in scribe.requests] == [(0, 2), (2, 2), (4, 4), (8, 4)]
    assert {r.seed for r in scribe.requests} == {3}


def test_a_majority_larger_than_the_decoder_is_drawn_in_parts():
    scribe = Scribe(lambda row: "7" if row % 3 else "8")
    report = ask(scribe, SamplingPlan("majority", 10, answer="number")).report
    assert [r.samples for r in scribe.requests] == [4, 4, 2]
    assert (report.answer, report.samples_used, report.stop_reason) == ("7", 10, "samples")


def test_no_winner_is_made_up_where_no_two_samples_agree():
    report = ask(Scribe(str), SamplingPlan("majority", 5, answer="number")).report
    assert report.answer is None
    assert any("something else" in note for note in report.notes)


def test_samples_without_an_answer_are_paid_for_but_do_not_vote():
    events = ask(Scribe(lambda row: "no idea"), SamplingPlan("majority", 4, answer="number"))
    assert (events.report.answer, events.report.answered, events.report.samples_used) == (None, 0, 4)
    assert (events.text, events.done.usage.energy_j) == ("no idea", 4.0)
    assert "nothing is certified" in events.report.statement


def test_the_budget_of_joules_ends_the_sampling():
    report = ask(Scribe(lambda row: str(row % 2)), SamplingPlan(budget_j=5.0, answer="number")).report
    assert (report.stop_reason, report.samples_used) == ("joules", 5)


def test_a_budget_that_the_first_batch_passes_is_said_with_what_it_took():
    report = ask(Scribe(lambda row: str(row)), SamplingPlan(budget_j=0.5, budget_s=0.1, answer="number")).report
    assert (report.samples_used, report.answer) == (2, None)
    assert "budget_j 0.5 J was passed by the first 2 samples, which took 2 J" in report.notes
    assert "budget_s 0.1 s was passed by the first 2 samples, which took 1 s" in report.notes
    assert not ask(Scribe(lambda row: "1"), SamplingPlan(budget_j=5.0, answer="number")).report.notes


@pytest.mark.parametrize(("plan", "says"), [
    (SamplingPlan("greedy", 4), "max_samples must be 1"),
    (SamplingPlan("csvet", threshold=0.8), "threshold belongs to beta and doubling"),
    (SamplingPlan("majority", threshold=0.8), "threshold belongs to beta and doubling"),
    (SamplingPlan("majority", worth_j=3.0), "worth_j belongs to csvet"),
    (SamplingPlan("beta", worth_samples=3.0), "worth_samples belongs to csvet"),
    (SamplingPlan(worth_j=3.0, worth_samples=3.0), "give one"),
    (SamplingPlan(answer="number", choices=("A", "B")), "choices belong to answer choice"),
])  # fmt: skip
def test_options_that_contradict_each_other_are_refused_before_anything_is_drawn(plan, says):
    scribe = Scribe(lambda row: "1")
    with pytest.raises(BadInput, match=says):
        ask(scribe, plan)
    assert not scribe.requests


def test_unknown_joules_are_said_to_be_unknown():
    report = ask(Scribe(lambda row: "1", energy_j=None)).report
    assert (report.energy_j, report.provenance) == (None, "unknown")


def test_the_most_probable_of_n_is_given():
    events = ask(Scribe(lambda row: str(5 + row)), SamplingPlan("best-of-n", 3, answer="number", trace=True))
    assert (events.report.answer, events.text) == ("5", "5")
    assert [t.mean_logprob for t in events.report.trace] == [-1.0, -2.0, -3.0]
    assert all(piece.logprob is None for piece in events[:-1])


def test_one_greedy_sample_is_drawn_at_temperature_0():
    scribe = Scribe(lambda row: "9")
    assert ask(scribe, SamplingPlan("greedy", answer="number")).report.samples_used == 1
    assert scribe.requests[0].temperature == 0


def test_heat_takes_samples_away_and_the_reply_says_so():
    report = ask(Scribe(lambda row: str(row % 2)), SamplingPlan("majority", 8, answer="number"), heat=0.5).report
    assert report.samples_used == 4
    assert "4 samples at most instead of 8" in report.notes[0]


def test_an_undecided_question_is_verified_by_cheap_checks_before_dear_ones():
    scribe = Scribe(lambda row: "7" if row in {0, 1, 4} or row > 5 else "8", says="yes")
    events = ask(scribe, SamplingPlan("majority", 6, answer="number", verify=True))
    report = events.report
    assert report.answer == "7"
    assert report.checks[0][1] == "self_check"
    assert report.energy_j == pytest.approx(6.0 + sum(check[3] for check in report.checks))
    assert any("verification ended" in note for note in report.notes)
    assert report.confidence == pytest.approx(max(c[4] for c in report.checks if c[0] == "7"), abs=0.5)


def test_a_model_that_denies_its_answers_loses_belief_in_them():
    texts = lambda row: "7" if row % 2 else "8"  # noqa: E731
    plan = SamplingPlan("majority", 6, answer="number", verify=True)
    agreed, denied = (ask(Scribe(texts, says=word), plan).report for word in ("yes", "no"))
    assert agreed.checks[0][4] > denied.checks[0][4]
    assert {check[2] for check in denied.checks if check[1] == "self_check"} == {"fail"}


def test_nothing_is_verified_where_checks_have_no_price():
    plan = SamplingPlan("majority", 4, answer="number", verify=True)
    report = ask(Scribe(lambda row: str(row % 2), energy_j=None), plan).report
    assert report.checks == ()
    assert "joules are unknown" in report.notes[0]


def test_an_error_in_the_middle_ends_the_question_with_it():
    scribe = Scribe(lambda row: str(row % 2))
    scribe.fail_at = 3
    events = ask(scribe)
    assert isinstance(events[-1], Overloaded)
    assert sum(isinstance(e, QeilError | TextDone) for e in events) == 1


def test_a_question_that_is_given_up_draws_nothing_more():
    scribe, events = Scribe(lambda row: "1"), []
    scribe.hold = True
    run = Answering(scribe, lambda: POLICY, lambda _: 1.0, FakeClock(), passes).answer(
        ASKED, SamplingPlan(), events.append
    )
    run.cancel()
    scribe.give(*scribe.held)
    assert (scribe.cancelled, len(scribe.requests), events) == (1, 1, [])


def test_the_deadline_is_that_of_the_whole_question():
    scribe, clock, events = Scribe(lambda row: str(row % 2)), FakeClock(), []
    scribe.hold = True
    service = Answering(scribe, lambda: POLICY, lambda _: 1.0, clock, passes)
    service.answer(replace(ASKED, deadline_s=30.0), SamplingPlan(answer="number"), events.append)
    clock.advance(12.0)
    scribe.give(*scribe.held)
    assert [r.deadline_s for r in scribe.requests] == pytest.approx([30.0, 18.0])
    scribe.held[1](DeadlineExceeded("late"))
    assert isinstance(events[-1], DeadlineExceeded)


@pytest.mark.parametrize(
    ("plan", "changes", "says"),
    [
        (SamplingPlan("majority", worth_j=2.0), {}, "worth_j belongs to csvet"),
        (SamplingPlan("csvet"), {"temperature": 0.0}, "draws the same text"),
        (SamplingPlan("csvet", answer="choice"), {}, "choices"),
    ],
)
def test_options_that_contradict_each_other_are_refused(plan, changes, says):
    with pytest.raises(BadInput, match=says):
        ask(Scribe(str), plan, request=replace(ASKED, **changes))


def test_the_policy_may_sample_for_requests_that_do_not_ask():
    always = POLICY.model_copy(update={"sampling": POLICY.sampling.model_copy(update={"always": True})})
    for policy, request, expected in (
        (POLICY, ASKED, None), (always, ASKED, SamplingPlan()), (always, replace(ASKED, samples=2), None),
        (always, replace(ASKED, temperature=0.0), None),
    ):  # fmt: skip
        assert (
            Answering(Scribe(str), lambda p=policy: p, lambda _: 1.0, FakeClock(), passes).plan_of(request) == expected
        )


@pytest.mark.parametrize("change", [
    {"temperature": 0.0}, {"temperature": 1e-9}, {"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0},
])  # fmt: skip
def test_settings_that_draw_one_text_again_and_again_certify_nothing(change):
    request = replace(ASKED, **change)
    with pytest.raises(BadInput, match="draws the same text every time"):
        ask(Scribe(lambda row: "42"), SamplingPlan(answer="number"), request=request)
    always = POLICY.model_copy(update={"sampling": POLICY.sampling.model_copy(update={"always": True})})
    service = Answering(Scribe(str), lambda: always, lambda _: 1.0, FakeClock(), passes)
    assert service.plan_of(request) is None


def test_labels_of_several_letters_are_voted_on():
    plan = SamplingPlan(answer="choice", choices=("yes", "no"))
    assert ask(Scribe(lambda row: "The answer is yes"), plan).report.answer == "yes"


def test_what_the_screen_refuses_is_neither_written_nor_answered():
    def refuses(request):
        raise BadInput("a control character")

    scribe = Scribe(str)
    service = Answering(scribe, lambda: POLICY, lambda _: 1.0, FakeClock(), refuses)

    for ask in (lambda: service.write(ASKED, print), lambda: service.answer(ASKED, SamplingPlan(), print)):
        with pytest.raises(BadInput, match="a control character"):
            ask()
    assert not scribe.requests


def test_an_answer_can_be_told_of_by_its_number_and_counts_from_then_on():
    scribe = Scribe(lambda row: "42")
    service = Answering(scribe, lambda: POLICY, lambda _: 1.0, FakeClock(), passes)
    reports = []
    for number in ("a", "b"):
        events = Answers()
        service.answer(replace(ASKED, request_id=number), SamplingPlan(answer="number"), events.append)
        reports.append(events.report)
        told = service.tell(number, "41", None)
        assert (told.right, told.model) == (False, "m")
    assert [report.outcomes for report in reports] == [0, 1]
    assert reports[1].confidence < reports[0].confidence
    assert service.scores().outcomes == 2


def test_the_prompt_is_kept_for_later_looks_and_not_where_one_look_is_all():
    request = replace(ASKED, request_id="q-1")
    scribe = Scribe(lambda row: f"{row % 2}")
    ask(scribe, SamplingPlan(answer="number", max_samples=8), request=request)
    assert len(scribe.requests) > 1
    assert {asked.kept_as for asked in scribe.requests} == {"q-1"}
    once = Scribe(lambda row: "4")
    ask(once, SamplingPlan("majority", 4, answer="number"), request=request)
    assert [asked.kept_as for asked in once.requests] == [""]


def test_a_replys_cached_tokens_are_those_of_the_first_look():
    class Remembering(Scribe):
        def give(self, request, on_event):
            def told(event):
                if isinstance(event, TextDone) and request.first_sample > ASKED.first_sample:
                    event = replace(event, usage=replace(event.usage, cached_tokens=10))
                on_event(event)

            super().give(request, told)

    events = ask(Remembering(lambda row: f"{row % 2}"), SamplingPlan(answer="number", max_samples=8))
    assert events.done.usage.cached_tokens == 0
