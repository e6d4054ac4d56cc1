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
from agent.sampling import majority
from agent.sampling.strategy import Expected, Strategy
from agent.schema.policy import Policy
from agent.schema.snapshot import AgentSnapshot
from agent.schema.text import AnswerScores, AnswerTold, SamplingPlan, TextEvent, TextModel, TextRequest
from agent.service.decoding.answer_book import AnswerBook
from agent.service.decoding.sample_placement import Asking as Placing
from agent.service.decoding.sample_placement import places
from agent.service.decoding.sampling_run import Asking, SamplingRun

LEAST_FREEDOM = 0.01
"""Temperature, and share of the probability, below which samples are as good as one text drawn again."""


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
        temperature_c: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        """`share(placement)` is the share of samples that heat leaves, 1 for all; `check` raises for refused texts.

        `temperature_c(placement)` is the hottest reading of an accelerator, None where nobody reads one.
        """
        self._temperature_c = temperature_c
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
            self._policy().sampling.always and request.samples == 1 and not request.echo
            and _draws_one_text(request) is None
        )  # fmt: skip
        return SamplingPlan() if always else None

    def answer(self, request: TextRequest, plan: SamplingPlan, on_event: Callable[[TextEvent], None]) -> TextHandle:
        """Draw, decide, answer. Raises BadInput for options that contradict each other, and what `write` raises."""
        self._check(request)
        models = self._texts.text_models()
        model = next((m for m in models if m.name == request.model), None)
        deadline_s = self._policy().admission.max_deadline_s if request.deadline_s is None else request.deadline_s
        found = None
        if model is not None:
            wanted = self._policy().sampling
            texts = plan.max_samples or (1 if (plan.strategy or wanted.strategy) == "greedy" else wanted.max_samples)
            found = places(request, models, wanted, Placing(texts, request.max_tokens, deadline_s, plan.verify))
            model = next(m for m in models if m.name == found.samples.model)
            request = replace(request, model=model.name)
        strategy, notes = self._strategy(plan, self._share(model.placement) if model and model.placement else 1.0)
        if strategy.rule == "greedy":
            request = replace(request, temperature=0.0)
        elif (same := _draws_one_text(request)) is not None:
            raise BadInput(f"{same} draws the same text every time, which proves nothing by agreeing; {strategy.rule} "
                           "needs texts that may differ")  # fmt: skip
        if plan.answer == "choice" and not plan.choices:
            raise BadInput("qeil.answer choice needs qeil.choices, the labels to choose from")
        if plan.choices and plan.answer != "choice":
            raise BadInput(f"qeil.choices belong to answer choice, not to {plan.answer}")
        asking = Asking(
            request, plan, strategy, max(1, model.rows) if model else 1, self._clock.monotonic_s() + deadline_s,
            (*notes, *(found.notes if found else ())), found,
            None if model is None else _expected(model, request.max_tokens), model.precision if model else "",
            lambda: self._temperature_c(model.placement) if model is not None and model.placement else None,
        )  # fmt: skip
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
        worth_j, worth_samples = plan.worth_j, plan.worth_samples
        if rule == "csvet" and worth_j is None and worth_samples is None:
            worth_j, worth_samples = wanted.worth_j, wanted.worth_samples
        certify = plan.certify
        if certify is None:  # the policy's, where it can be kept
            certify = wanted.certify if rule == "csvet" and samples <= majority.MAX_SAMPLES else "mode"
        try:
            strategy = Strategy(
                rule, samples, plan.alpha or wanted.alpha, worth_j, plan.threshold, plan.budget_j or wanted.budget_j,
                plan.budget_s or wanted.budget_s, certify, worth_samples, plan.budget_c or wanted.budget_c,
            )  # fmt: skip
        except ValueError as error:
            raise BadInput(f"qeil: {error}") from error
        return strategy, notes


def hottest_c(snapshot: AgentSnapshot, accelerator: str) -> float | None:
    """The hottest reading of an accelerator; None where nobody reads one."""
    return next((a.temperature_c for a in snapshot.accelerators if a.name == accelerator), None)


def _draws_one_text(request: TextRequest) -> str | None:
    """The setting that leaves as good as nothing but the likeliest token; None where texts may differ."""
    if request.temperature < LEAST_FREEDOM:
        return f"temperature {request.temperature:g}"
    if request.top_k == 1:
        return "top_k 1"
    if request.top_p < LEAST_FREEDOM:
        return f"top_p {request.top_p:g}"
    return f"min_p {request.min_p:g}" if request.min_p > 1 - LEAST_FREEDOM else None


def _expected(model: TextModel, max_tokens: int | None) -> Expected | None:
    """What a sample takes by the last answers; None before any, as a profile's figures know no prompt."""
    if model.cost_from != "answers" or model.token_s is None or model.text_tokens is None:
        return None
    tokens = model.text_tokens if max_tokens is None else min(model.text_tokens, max_tokens)
    return Expected(None if model.token_j is None else model.token_j * tokens, model.token_s * tokens)
