"""Where the samples of a question are written, and where what they leave open is verified."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import BadInput, DeadlineExceeded, LaneDied
from agent.schema.policy import RepeatedSampling
from agent.schema.text import SamplingPlan, TextModel, TextPiece, TextRequest
from agent.service.decoding.decoder_power import DecoderPower
from agent.service.decoding.sample_placement import Asking, StandingPlaces, places
from agent.service.decoding.text_costs import TextCosts
from tests.service.test_answering import ASKED, Scribe, ask

PLACING = Asking(16, 10, 30.0, True)
OPEN = SamplingPlan("majority", 6, answer="number", verify=True, trace=True)


def model(name, token_j=1.0, token_s=0.01, **more):
    known = {"family": "f", "precision": "exact", "nats": 0.0, "weight_bytes": 100, "cost_from": "answers"}
    known |= {"token_j": token_j, "token_s": token_s, "text_tokens": 10.0} | more
    return TextModel(name, known.pop("ready", True), None, 512, 4, 0.0, known.pop("on", "cpu"), **known)


OWN, CHEAP = model("m", 2.0, 0.01), model("cheap", 1.0, 0.02, on="npu")
BIG = model("big", 9.0, 0.1, family="g", weight_bytes=900, on="gpu")


def placed(*models, wanted=None, asking=PLACING, request=ASKED):
    return places(request, models, wanted or RepeatedSampling(), asking)


def test_samples_go_where_a_token_takes_the_fewest_joules_and_the_larger_model_verifies():
    found = placed(OWN, CHEAP, BIG)
    assert (found.samples.model, found.samples.accelerator) == ("cheap", "npu")
    assert (found.verifier.model, found.verifier.accelerator) == ("big", "gpu")
    assert "the most telling verifier, then the fewest joules" in found.why
    assert ("cheap", "big", pytest.approx(16 * 10 * 1.0 + 2 * 10 * 9.0), pytest.approx(5.2)) in found.front


def test_a_deadline_takes_the_samples_to_the_quicker_place_and_the_slow_verifier_away():
    found = placed(OWN, CHEAP, BIG, asking=replace(PLACING, deadline_s=3.0))
    assert (found.samples.model, found.verifier.model) == ("m", "cheap")
    hopeless = placed(OWN, CHEAP, BIG, asking=replace(PLACING, deadline_s=0.1))
    assert (hopeless.samples.model, hopeless.verifier.model) == ("m", "m")
    assert "the quickest" in hopeless.why


def test_without_verification_only_the_samples_are_placed():
    found = placed(OWN, CHEAP, BIG, asking=replace(PLACING, verify=False))
    assert (found.samples.model, found.verifier) == ("cheap", None)
    assert {pair[1] for pair in found.front} == {None}


@pytest.mark.parametrize(
    "other",
    [
        model("other", 0.1, family="g"), model("coarse", 0.1, precision="fast", nats=0.5),
        model("unmeasured", 0.1, precision="fast", nats=None), model("loading", 0.1, ready=False),
        replace(model("short", 0.1), context_tokens=64),
    ],
    ids=lambda m: m.name,
)  # fmt: skip
def test_samples_are_of_the_model_asked_for_in_a_precision_close_enough(other):
    assert placed(OWN, other).samples.model == "m"


def test_a_precision_that_is_close_enough_writes_the_samples_and_the_exact_one_verifies():
    fast = model("fast", 0.5, precision="fast", nats=0.01)
    found = placed(OWN, fast)
    assert (found.samples.model, found.verifier.model) == ("fast", "m")


def test_a_larger_model_is_not_asked_with_the_tokens_of_another():
    assert placed(OWN, BIG, request=TextRequest("m", prompt=(1, 2))).verifier.model == "m"


def test_the_owner_may_fix_both_places():
    fixed = placed(OWN, CHEAP, BIG, wanted=RepeatedSampling(samples_on="asked", verifier="cheap"))
    assert (fixed.samples.model, fixed.verifier.model) == ("m", "cheap")
    assert fixed.why == "as the policy's samples_on and verifier say"
    lost = placed(OWN, CHEAP, wanted=RepeatedSampling(samples_on="asked", verifier="gone"))
    assert lost.verifier.model == "m"
    assert lost.notes == ("sampling.verifier: 'gone' is not served or not ready; m did it",)


def test_where_joules_are_unknown_it_stays_as_asked_and_says_so():
    found = placed(OWN, model("new", None, None, cost_from="unknown"))
    assert (found.samples.model, found.verifier.model) == ("m", "m")
    assert "joules and seconds of new are unknown" in found.why
    assert "nothing else is served" in placed(OWN).why


class Pair(Scribe):
    """Two served models: `m` writes samples, `big` derives them anew."""

    def __init__(self, texts, *, lost=None, **more):
        super().__init__(texts, **more)
        self.lost = lost

    def text_models(self):
        return (OWN, BIG)

    def write(self, request, on_event):
        if request.model == "big":
            self.requests.append(request)
            if isinstance(self.lost, LaneDied):
                raise self.lost
            if self.lost is not None:
                on_event(self.lost)
                return self
            on_event(TextPiece(request.first_sample, 1, "7", "stop"))
            self.requests.pop()
        return super().write(request, on_event)


def split(row):
    return "7" if row % 2 else "8"


def test_the_dear_model_is_asked_about_what_the_samples_leave_open_and_the_reply_says_where():
    scribe = Pair(split, says="hm")
    report = ask(scribe, replace(OPEN, worth_j=None)).report
    assert {r.model for r in scribe.requests if r.samples > 1} == {"m"}
    assert "derive_elsewhere" in {check[1] for check in report.checks}
    assert (report.places.samples.model, report.places.verifier.model) == ("m", "big")
    assert len(report.places.front) == 2


def test_the_front_is_in_the_reply_only_with_the_trace():
    assert ask(Pair(split), replace(OPEN, trace=False)).report.places.front == ()


@pytest.mark.parametrize("lost", [LaneDied("its process died"), DeadlineExceeded("late")])
def test_a_verifier_that_crashes_or_hangs_is_named_and_the_votes_still_stand(lost):
    scribe = Pair(split, lost=lost, says="hm")
    report = ask(scribe, OPEN).report
    assert report.answer in {"7", "8"}
    assert any(f"derive_elsewhere came to nothing: {lost.message}" in note for note in report.notes)
    assert sum(r.model == "big" for r in scribe.requests) == 1


@pytest.mark.parametrize(("again", "says", "given"), [("3", "yes", True), ("none", "no", False)])
def test_of_samples_that_all_differ_only_one_that_checks_speak_for_is_the_answer(again, says, given):
    scribe = Scribe(lambda row: again if row > 3 else str(row), says=says)
    report = ask(scribe, replace(OPEN, max_samples=4)).report
    assert report.answer == ("3" if given else None)
    assert any("every sample says something else" in note for note in report.notes)


def test_a_check_leaves_time_for_the_answer():
    scribe = Pair(split, says="hm")
    ask(scribe, OPEN, request=replace(ASKED, deadline_s=100.0))
    assert scribe.requests[-1].deadline_s == pytest.approx(80.0)


class Known(Scribe):
    """A model whose last answers took 2 J and 0.01 s a token, ten tokens a text."""

    def text_models(self):
        return (replace(OWN, rows=16),)


def test_the_first_batch_is_as_large_as_a_budget_is_expected_to_allow():
    scribe = Known(lambda row: "1")
    ask(scribe, SamplingPlan("majority", 8, budget_j=65.0, answer="number"))
    assert scribe.requests[0].samples == 3


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (SamplingPlan(budget_j=15.0), "budget_j 15 J is less than one sample takes here: 20 J"),
        (SamplingPlan(budget_s=0.05), "budget_s 0.05 s is less than one sample takes here: 0.1 s"),
    ],
)
def test_a_budget_too_small_for_one_sample_is_refused_before_anything_is_drawn(plan, says):
    scribe = Known(lambda row: "1")
    with pytest.raises(BadInput, match=says):
        ask(scribe, plan)
    assert not scribe.requests


def test_a_token_costs_what_it_did_in_the_last_answers_or_else_by_the_profile():
    power = DecoderPower(10.0, 5.0, step_s=0.02)
    assert TextCosts().of_token(None) == (None, None, "unknown")
    assert TextCosts().of_token(power) == (0.1, 0.02, "profile")
    assert TextCosts().of_token(DecoderPower(10.0, 5.0)) == (None, None, "unknown")
    learnt = TextCosts().after(2, 20, 0.4, 10.0)
    assert learnt.of_token(power) == (0.5, 0.02, "answers")
    assert learnt.text_tokens == 10.0
    unpriced = learnt.after(1, 10, 0.4, None)
    assert unpriced.of_token(None)[0] == 0.5
    assert unpriced.of_token(None)[1] > 0.02
    assert TextCosts().after(1, 0, 1.0, None) == TextCosts()


def test_whoever_looks_is_told_where_samples_would_go():
    standing, wanted = StandingPlaces(), RepeatedSampling()
    told = standing.sentences((OWN, CHEAP, BIG), wanted, 30.0)
    assert told["m"].startswith(
        "samples by cheap (npu, 1 J a token), verified by big (gpu, 9 J a token): the most telling"
    )
    assert standing.sentences((OWN, CHEAP, BIG), wanted, 30.0) is told
    assert "by m" in standing.sentences((OWN, CHEAP, BIG), RepeatedSampling(samples_on="asked"), 30.0)["m"]
    assert standing.sentences((OWN,), wanted, 30.0) == {}
