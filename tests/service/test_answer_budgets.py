"""What an answer from repeated samples cost, by whose word, and the budgets that end it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import DeadlineExceeded, LaneDied, Overloaded
from agent.schema.snapshot import AcceleratorStatus, AgentInfo, AgentSnapshot
from agent.schema.text import SamplingPlan, TextDone, TextModel, TextPiece, TextUsage
from agent.service.decoding.answer_book import AnswerBook
from agent.service.decoding.answering import Answering, hottest_c
from agent.service.decoding.verification import QUESTION, weakest
from tests.fakes import FakeClock
from tests.service.test_answering import ASKED, POLICY, Answers, Scribe, ask, passes

OPEN = SamplingPlan("majority", 8, answer="number", verify=True)


def parted(row):
    return "9" if row % 2 else "42"


class Told(Scribe):
    """What a call took is told as `told(request, is_check)` says: joules, provenance, accelerator, or an error."""

    def __init__(self, texts, told, **more):
        super().__init__(texts, **more)
        self.told = told

    def give(self, request, on_event):
        check = request.messages[-1]["content"] == QUESTION or request.temperature < 0.5
        told = self.told(request, check)
        if isinstance(told, Exception):
            on_event(told)
            return
        joules, provenance, place = told
        for row in range(request.first_sample, request.first_sample + request.samples):
            on_event(TextPiece(row, 1, "yes" if check else self.texts(row), "stop"))
        usage = TextUsage(10, 0, request.samples, 0.5 * request.samples, joules, provenance)
        on_event(TextDone(usage, place, "CPU", "d"))


def test_joules_are_no_surer_than_the_least_sure_batch():
    scribe = Told(parted, lambda r, _: (1.0, "measured" if r.first_sample >= 4 else "modelled", "cpu"))
    report = ask(scribe, replace(OPEN, verify=False)).report
    assert (report.energy_j, report.provenance) == (2.0, "modelled")
    assert weakest(["measured", "unknown", "modelled"]) == "unknown"


def test_checks_are_no_surer_than_what_their_server_says():
    scribe = Told(parted, lambda r, check: (1.0, "modelled" if check else "measured", "cpu"))
    report = ask(scribe, OPEN).report
    assert report.provenance == "modelled"
    assert report.energy_j == pytest.approx(2.0 + len(report.checks))


def test_joules_of_checks_that_nobody_states_are_unknown():
    scribe = Told(parted, lambda r, check: (None, "unknown", "cpu") if check else (1.0, "measured", "cpu"))
    done = ask(scribe, OPEN).done
    assert (done.sampling.energy_j, done.sampling.provenance) == (None, "unknown")
    assert "check" in done.usage.energy_reason
    assert any("joules of" in note for note in done.sampling.notes)


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), LaneDied("gone")])
def test_a_check_that_came_to_nothing_is_not_booked_as_free(error):
    scribe = Told(parted, lambda r, check: error if check else (1.0, "modelled", "cpu"))
    report = ask(scribe, OPEN).report
    assert report.checks
    assert all(step[3] > 0 for step in report.checks)
    assert (report.energy_j, report.provenance) == (None, "unknown")


def test_checks_keep_the_seconds_of_the_question():
    plan = replace(OPEN, budget_s=4.6)
    done = ask(Scribe(lambda row: str(row % 3), says="hm"), plan).done
    free = ask(Scribe(lambda row: str(row % 3), says="hm"), replace(plan, budget_s=None)).done
    assert free.usage.compute_s > 4.6
    assert done.usage.compute_s <= 4.6
    assert "verification ended: seconds" in done.sampling.notes


def test_every_sample_counts_for_the_accelerator_and_the_precision_that_wrote_it():
    class Fast(Told):
        def text_models(self):
            return (TextModel("m", True, None, 512, 4, 0.0, "cpu", precision="fast"),)

    scribe = Fast(
        lambda row: "13" if row < 4 else "42", lambda r, _: (1.0, "modelled", "npu" if r.first_sample < 4 else "cpu")
    )
    book = AnswerBook()
    service = Answering(scribe, lambda: POLICY, lambda _: 1.0, FakeClock(), passes, book)
    for number in range(6):
        service.answer(replace(ASKED, request_id=str(number)), replace(OPEN, verify=False), Answers().append)
        book.tell(str(number), "42", None)
    found = {source.accelerator: source.reliability for source in book.scores().sources}
    assert found["cpu"] > 0.7
    assert found["npu"] < 0.4
    assert {source.precision for source in book._reliabilities.known} == {"fast"}


# ---------------------------------------------------------------------- temperature


def heated(temperatures, plan, scribe=None):
    """A question while the accelerator reads these temperatures, one at each look and the last for ever."""
    looks = list(temperatures)
    events = Answers()
    service = Answering(
        scribe or Scribe(parted), lambda: POLICY, lambda _: 1.0, FakeClock(), passes,
        temperature_c=lambda name: (looks.pop(0) if len(looks) > 1 else looks[0]) if name == "cpu" else 1.0,
    )  # fmt: skip
    service.answer(ASKED, plan, events.append)
    return events.report


@pytest.mark.parametrize(
    "plan", [SamplingPlan(answer="number"), SamplingPlan("majority", 16, answer="number", verify=True)]
)
def test_drawing_ends_at_the_temperature_that_was_asked_for(plan):
    report = heated([50.0, 70.0], replace(plan, budget_c=70.0))
    assert (report.stop_reason, report.samples_used, report.checks) == ("temperature", 4, ())
    assert any("budget_c 70 °C ended the drawing after 4 samples" in note for note in report.notes)
    assert heated([69.9], replace(plan, budget_c=70.0)).stop_reason == "samples"


def test_parts_of_a_batch_are_not_drawn_either_once_it_is_too_hot():
    class Single(Scribe):
        def text_models(self):
            return (TextModel("m", True, None, 512, 1, 0.0, "cpu"),)

    plan = SamplingPlan("majority", 16, answer="number", budget_c=70.0)
    report = heated([50.0, 50.0, 71.0], plan, scribe=Single(parted))
    assert (report.samples_used, report.stop_reason) == (2, "temperature")


def test_an_accelerator_that_is_too_hot_already_draws_nothing():
    with pytest.raises(Overloaded, match=r"budget_c 70 °C is reached: the accelerator is at 71.0 °C"):
        heated([71.0], SamplingPlan(answer="number", budget_c=70.0))


def test_a_temperature_that_nobody_reads_ends_the_drawing_after_a_batch_and_is_said():
    report = heated([None], SamplingPlan(answer="number", budget_c=70.0))
    assert (report.stop_reason, report.samples_used) == ("temperature", 4)
    assert any("nobody reads" in note for note in report.notes)


def test_the_policy_may_say_the_temperature():
    warm = POLICY.model_copy(update={"sampling": POLICY.sampling.model_copy(update={"budget_c": 60.0})})
    report = ask(Scribe(parted), SamplingPlan(answer="number"), policy=warm).report
    assert report.stop_reason == "temperature"


def test_the_temperature_is_that_of_status():
    info = AgentInfo("1", "ready", "now", "balanced", "d", 1, "b", "p")
    cpu = AcceleratorStatus("cpu", "onnx", "CPU", "ready", True, 61.5, None, 0, None)
    snapshot = AgentSnapshot(info, accelerators=(cpu,))
    assert (hottest_c(snapshot, "cpu"), hottest_c(snapshot, "npu")) == (61.5, None)
