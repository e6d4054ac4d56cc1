"""Answering: repeated sampling that stops when it stops paying, on the language models that are served.

Samples come in batches of the decoder; between two of them the strategy decides. The answer's own text is what the
client gets, with the report of how it was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from agent.errors import BadInput
from agent.ports import Clock, TextHandle
from agent.sampling.strategy import Strategy
from agent.schema.policy import Policy
from agent.schema.text import AnswerScores, AnswerTold, SamplingPlan, TextEvent, TextModel, TextRequest
from agent.service.decoding.answer_book import AnswerBook
from agent.service.decoding.sampling_run import Asking, SamplingRun


class Writer(Protocol):
    """What is needed of the service below; see `ports.TextService`."""

    def text_models(self) -> tuple[TextModel, ...]:
        """All language models."""
        ...

    def write(self, request: TextRequest, on_event: Callable[[TextEvent], None]) -> TextHandle:
        """Begin to write."""
        ...


class Answering:
    """`ports.TextService` on top of one that only writes."""

    def __init__(
        self,
        texts: Writer,
        policy: Callable[[], Policy],
        share: Callable[[str], float],
        clock: Clock,
        check: Callable[[TextRequest], None],
        book: AnswerBook | None = None,
    ) -> None:
        """`share(placement)` is the share of samples that heat leaves, 1 for all; `check` raises for refused texts."""
        self._texts, self._policy, self._share, self._clock, self._check = texts, policy, share, clock, check
        self._book = book or AnswerBook()

    def text_models(self) -> tuple[TextModel, ...]:
        """All language models."""
        return self._texts.text_models()

    def write(self, request: TextRequest, on_event: Callable[[TextEvent], None]) -> TextHandle:
        """Texts as they are asked for. Raises BadInput for what the policy's guard refuses, and what `write` raises."""
        self._check(request)
        return self._texts.write(request, on_event)

    def tell(self, number: str, truth: str | None, right: bool | None) -> AnswerTold:
        """Learn of an answer what was right; see `AnswerBook.tell`."""
        return self._book.tell(number, truth, right)

    def scores(self) -> AnswerScores:
        """What has been learnt so."""
        return self._book.scores()

    def plan_of(self, request: TextRequest) -> SamplingPlan | None:
        """The policy's plan, where it is for every request: those for one text that may be drawn differently."""
        always = (
            self._policy().sampling.always and request.samples == 1 and request.temperature > 0 and not request.echo
        )
        return SamplingPlan() if always else None

    def answer(self, request: TextRequest, plan: SamplingPlan, on_event: Callable[[TextEvent], None]) -> TextHandle:
        """Draw, decide, answer. Raises BadInput for options that contradict each other, and what `write` raises."""
        self._check(request)
        model = next((m for m in self._texts.text_models() if m.name == request.model), None)
        strategy, notes = self._strategy(plan, self._share(model.placement) if model and model.placement else 1.0)
        if strategy.rule == "greedy":
            request = replace(request, temperature=0.0)
        elif request.temperature == 0:
            raise BadInput(f"temperature 0 draws the same text every time; {strategy.rule} needs one above 0")
        if plan.answer == "choice" and not plan.choices:
            raise BadInput("qeil.answer choice needs qeil.choices, the labels to choose from")
        if plan.choices and plan.answer != "choice":
            raise BadInput(f"qeil.choices belong to answer choice, not to {plan.answer}")
        deadline_s = self._policy().admission.max_deadline_s if request.deadline_s is None else request.deadline_s
        asking = Asking(
            request, plan, strategy, max(1, model.rows) if model else 1, self._clock.monotonic_s() + deadline_s, notes
        )
        run = SamplingRun(asking, self._texts.write, on_event, self._clock, self._book)
        run.begin()
        return run

    def _strategy(self, plan: SamplingPlan, share: float) -> tuple[Strategy, tuple[str, ...]]:
        wanted = self._policy().sampling
        rule = plan.strategy or wanted.strategy
        samples = plan.max_samples or (1 if rule == "greedy" else wanted.max_samples)
        notes: tuple[str, ...] = ()
        if share < 1.0 and samples > 1:
            fewer = max(1, math.ceil(samples * share))
            notes = (
                (f"{fewer} samples at most instead of {samples}: heat leaves that share",) if fewer < samples else ()
            )
            samples = fewer
        worth_j = plan.worth_j or (wanted.worth_j if rule == "csvet" else None)
        certify = plan.certify or (wanted.certify if rule == "csvet" else "mode")
        try:
            strategy = Strategy(
                rule, samples, plan.alpha or wanted.alpha, worth_j, plan.threshold, plan.budget_j or wanted.budget_j,
                plan.budget_s or wanted.budget_s, certify,
            )  # fmt: skip
        except ValueError as error:
            raise BadInput(f"qeil: {error}") from error
        return strategy, notes
