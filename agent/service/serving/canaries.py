"""Canaries: asks each lane a question whose answer is known, and says what the answer proves.

The first sound answer of a lane is what it must give from then on, over its restarts too; where another accelerator
has answered for the same model, a newcomer is compared with it first. A first question is asked twice: a model that
draws at random answers it in two ways, and has no canary. Thread-safe; callbacks come on a lane's reader.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Literal

import numpy as np

from agent.control import canary
from agent.errors import BackendError, InferenceFailed, LaneDied, PermitExpired, QeilError, RequestError
from agent.ports import Clock, Lane, LaneReply, LoadReport, LoadSpec, Tensor
from agent.records import record
from agent.schema.device import Runtime
from agent.service.serving.admitted import Admitted

TIMEOUT_S = 10.0
SEED = 20180218
MAX_KEPT_BYTES = 16 * 1024 * 1024
"""Of one known answer; a model with larger outputs has no canary."""
CAUSE = "numerical canary"
"""How the cause of every death for a wrong answer begins."""

Outcome = Literal["passed", "wrong", "failed", "gone", "unchecked"]


@record(frozen=True)
class Finding:
    """passed and wrong speak of the numbers; failed: the run was refused; gone: the lane is; unchecked: no canary."""

    outcome: Outcome
    sentence: str = ""
    known: bool = False
    """Whether this accelerator had answered the same question rightly before."""


Told = Callable[[Finding], None]


@record
class _Question:
    """What one model on one accelerator is asked."""

    subject: str
    """The file and cut, whoever runs it: answers to the same subject can be compared."""
    made_for: tuple[str, Runtime]
    accelerator: str
    trusted: bool
    """Run by the host's own CPU kernels, which decide where two first answers differ."""
    inputs: dict[str, Tensor]
    answer: dict[str, Tensor] | None = None
    varies: str = ""
    """How two answers of one lane differed, where no other accelerator's repeated itself: nothing to compare with."""


class Canaries:
    """See module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._questions: dict[tuple[str, str], _Question] = {}
        self.counters = {"asked": 0, "passed": 0, "wrong": 0, "failed": 0}

    def loaded(
        self, accelerator: str, lane: Lane, spec: LoadSpec, report: LoadReport, told: Told,
        admitted: Admitted | None = None,
    ) -> None:  # fmt: skip
        """A model was loaded: make its question where one can be made, ask it, and tell what that showed.

        admitted: the file that was loaded, where it is known.
        """
        subject = _subject(spec) if admitted is None else f"{spec.model}:{'+'.join(admitted.contents)}"
        key = (accelerator, spec.model)
        with self._lock:
            question = self._questions.get(key)
            if question is None or question.made_for != (subject, spec.runtime):
                inputs = canary.make_inputs(report.inputs, SEED)
                if inputs is None:
                    self._questions.pop(key, None)
                else:
                    trusted = not lane.spec.simulated and report.actual == ("CPUExecutionProvider",)
                    self._questions[key] = _Question(subject, (subject, spec.runtime), accelerator, trusted, inputs)
            elif question.answer is None:
                question.varies = ""  # asked anew: what varied may have been the lane
            made = self._questions.get(key)
            if made is not None and admitted is not None and admitted.draws:
                made.varies = f"its graph draws at random ({admitted.draws})"
        self.ask(accelerator, lane, spec.model, told)

    def has_answered(self, accelerator: str, model: str) -> bool:
        """Whether a model's question was answered on this accelerator, so that a refusal speaks against the lane."""
        with self._lock:
            question = self._questions.get((accelerator, model))
            return question is not None and question.answer is not None

    def varies(self, accelerator: str, model: str) -> str:
        """Why a model has no canary there though it could be asked; empty where it has one, or cannot be asked."""
        with self._lock:
            question = self._questions.get((accelerator, model))
            return "" if question is None else question.varies

    def question(self, accelerator: str, model: str) -> dict[str, Tensor] | None:
        """The inputs of a question that was answered there; None where there is none."""
        with self._lock:
            question = self._questions.get((accelerator, model))
        return None if question is None or question.answer is None else question.inputs

    def timed(self, accelerator: str, lane: Lane | None, model: str) -> Future[LaneReply] | None:
        """Run the model's question for its time only; None where there is none that was answered. Raises as `submit`.

        The lane's deadline bounds it, and what is wrong with an answer the canary finds.
        """
        inputs = self.question(accelerator, model)
        if inputs is None or lane is None:
            return None
        return lane.submit(model, inputs, None, self._clock.monotonic_s() + TIMEOUT_S)

    def ask(self, accelerator: str, lane: Lane, model: str, told: Told) -> None:
        """Run the model's question once; `told` is called exactly once, at once where there is no question."""
        with self._lock:
            question = self._questions.get((accelerator, model))
        if question is None:
            told(Finding("unchecked", "no known input can be made for this model"))
            return
        if question.varies:
            told(Finding("unchecked", question.varies))
            return
        self.counters["asked"] += 1
        if question.answer is not None:
            self._run(lane, model, question, told, lambda done: told(self._judged(question, model, done)))
            return

        def again(first: Future[LaneReply]) -> None:
            if first.cancelled() or first.exception() is not None:
                told(self._judged(question, model, first))
                return
            self._run(lane, model, question, told, lambda then: told(self._judged_twice(question, model, first, then)))

        self._run(lane, model, question, told, again)

    def _run(
        self, lane: Lane, model: str, question: _Question, told: Told, then: Callable[[Future[LaneReply]], None]
    ) -> None:
        try:
            reply = lane.submit(model, question.inputs, None, self._clock.monotonic_s() + TIMEOUT_S)
        except QeilError as error:
            told(Finding("gone", error.message))
            return
        reply.add_done_callback(then)

    def _judged_twice(
        self, question: _Question, model: str, first: Future[LaneReply], then: Future[LaneReply]
    ) -> Finding:
        """Of one lane's two first answers. Where another accelerator repeated itself, a lane that does not is wrong."""
        if not then.cancelled() and then.exception() is None:
            off = canary.judge(first.result().outputs, then.result().outputs, other_unit=False)
            with self._lock:
                if off is not None and question.answer is None and not self._peers(question):
                    question.varies = f"two runs of the same input differ ({off})"
                    return Finding("unchecked", question.varies)
                off = None if question.answer is not None else off
            if off is not None:
                self.counters["wrong"] += 1
                return Finding("wrong", f"{CAUSE}: {model} {off} between two runs of the same input")
        return self._judged(question, model, then)

    def _judged(self, question: _Question, model: str, done: Future[LaneReply]) -> Finding:
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or isinstance(error, LaneDied | PermitExpired | RequestError):
            # A question that waited too long behind requests proves nothing; hangs are seen by their deadline.
            return Finding("gone", "the lane is gone" if error is None else str(error))
        if error is not None:
            return self._refused(question, model, error)
        outputs = done.result().outputs
        with self._lock:
            known = question.answer is not None
            problem = self._compare(question, outputs)
        if problem is None:
            self.counters["passed"] += 1
            return Finding("passed")
        self.counters["wrong"] += 1
        return Finding("wrong", f"{CAUSE}: {model} {problem}", known)

    def _refused(self, question: _Question, model: str, error: BaseException) -> Finding:
        """A question that was never answered may be one the model cannot take; once answered, a refusal is a fault."""
        sentence = getattr(error, "message", str(error))
        if question.answer is None and isinstance(error, InferenceFailed):
            with self._lock:
                self._questions.pop((question.accelerator, model), None)
            return Finding("unchecked", f"the model takes no made-up input: {sentence}")
        if question.answer is None and isinstance(error, BackendError):
            return Finding("unchecked", sentence)
        self.counters["failed"] += 1
        return Finding("failed", f"{CAUSE}: {model} fails on an input that it answered before ({sentence})", known=True)

    def _compare(self, question: _Question, outputs: dict[str, Tensor]) -> str | None:
        if question.answer is not None:
            return canary.judge(question.answer, outputs, other_unit=False)
        for other in self._peers(question):
            assert other.answer is not None  # noqa: S101  (peers have answered)
            problem = canary.judge(other.answer, outputs, other_unit=True)
            if problem is None:
                break
            if question.trusted and not other.trusted:
                other.answer = None  # its next question compares it with this one
                continue
            return f"{problem}, compared with {other.accelerator}"
        if sum(array.nbytes for array in outputs.values()) <= MAX_KEPT_BYTES:
            question.answer = {name: np.array(array) for name, array in outputs.items()}
        return None

    def _peers(self, question: _Question) -> Sequence[_Question]:
        same = [
            q
            for q in self._questions.values()
            if q.subject == question.subject and q.accelerator != question.accelerator and q.answer is not None
        ]
        return sorted(same, key=lambda q: not q.trusted)


def _subject(spec: LoadSpec) -> str:
    """Names the content by path, size and time: what was answered before the file changed proves nothing."""
    path = spec.source or spec.path
    try:
        stat = path.stat()
    except OSError:
        return f"{spec.model}:{path}"
    return f"{spec.model}:{path}:{stat.st_size}:{stat.st_mtime_ns}"
