"""Sampling run: one question on its way from its first batch of samples to its answer. Driven by the lanes' events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.errors import QeilError
from agent.ports import Clock, TextHandle
from agent.sampling import csvet, majority, strategy
from agent.sampling.reliability import Source
from agent.sampling.strategy import Progress, Sample, Strategy
from agent.schema.snapshot import EnergyProvenance
from agent.schema.text import (
    CertifyName,
    SampleTrace,
    SamplingPlan,
    SamplingReport,
    TextDone,
    TextEvent,
    TextPiece,
    TextRequest,
    TextUsage,
)
from agent.service.decoding.answer_book import AnswerBook, Given
from agent.service.decoding.answer_text import answer_in
from agent.service.decoding.verification import Candidate, Checked, Verification

MAX_CANDIDATES = 4
"""Answers that are asked about, in the order of their appearance."""

OnEvent = Callable[[TextEvent], None]


@dataclass(frozen=True)
class Asking:
    """What is asked and how. `rows`: texts that the decoder writes at once; the deadline is monotonic."""

    request: TextRequest
    plan: SamplingPlan
    strategy: Strategy
    rows: int
    deadline_s: float
    notes: tuple[str, ...]


@dataclass(eq=False)
class _Text:
    pieces: list[TextPiece] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def mean_logprob(self) -> float | None:
        known = [piece.logprob for piece in self.pieces if piece.logprob is not None]
        return sum(known) / len(known) if known else None


class SamplingRun:
    """`ports.TextHandle`. `begin` once; afterwards everything happens in events, in order."""

    def __init__(
        self, asking: Asking, write: Callable[[TextRequest, OnEvent], TextHandle], on_event: OnEvent, clock: Clock,
        book: AnswerBook,
    ) -> None:  # fmt: skip
        self._asking, self._write, self._on_event, self._clock = asking, write, on_event, clock
        self._book = book
        self._lock = threading.Lock()
        self._handle: TextHandle | None = None
        self._over = False
        self._progress = Progress()
        self._texts: dict[int, _Text] = {}
        self._batch: list[int] = []
        self._due = 0
        """Samples that the strategy wants before it looks again, beyond the batch under way."""
        self._dones: list[TextDone] = []
        self._notes = asking.notes

    def begin(self) -> None:
        """Draw the first batch. Raises what `write` raises."""
        self._due = strategy.decide(self._asking.strategy, self._progress).next_samples
        self._draw()

    def cancel(self) -> None:
        """Compute nothing more for it."""
        with self._lock:
            self._over = True
            handle = self._handle
        if handle is not None:
            handle.cancel()

    # ------------------------------------------------------------------ sampling

    def _draw(self) -> None:
        asking = self._asking
        count = min(self._due, asking.rows)
        self._due -= count
        first = asking.request.first_sample + len(self._texts)
        self._batch = list(range(first, first + count))
        self._texts |= {sample: _Text() for sample in self._batch}
        logprobs = asking.request.logprobs
        if logprobs is None and (asking.strategy.rule == "best-of-n" or asking.plan.trace):
            logprobs = 0
        left_s = self._left_s()
        request = replace(asking.request, samples=count, first_sample=first, logprobs=logprobs, deadline_s=left_s)
        self._begin_write(request, self._heard)

    def _left_s(self) -> float:
        return max(0.001, self._asking.deadline_s - self._clock.monotonic_s())

    def _begin_write(self, request: TextRequest, on_event: OnEvent) -> TextHandle:
        handle = self._write(request, on_event)
        with self._lock:
            self._handle = handle
            over = self._over
        if over:
            handle.cancel()
        return handle

    def _heard(self, event: TextEvent) -> None:
        if self._over:
            return
        if isinstance(event, TextPiece):
            self._texts[event.sample].pieces.append(event)
        elif isinstance(event, TextDone):
            self._drawn(event)
        else:
            self._end(event)

    def _drawn(self, done: TextDone) -> None:
        """A batch is finished: judge it, then draw on or answer."""
        self._dones.append(done)
        share = 1.0 / len(self._batch)
        energy_j, plan = done.usage.energy_j, self._asking.plan
        samples = []
        for number in self._batch:
            text = self._texts[number]
            found = answer_in(text.text, plan.answer, plan.choices)
            joules = None if energy_j is None else energy_j * share
            samples.append(Sample(found, len(text.pieces), done.usage.compute_s * share, joules, text.mean_logprob))
        self._progress = self._progress.add(*samples)
        reason = ""
        if self._due == 0:
            decision = strategy.decide(self._asking.strategy, self._progress)
            self._due, reason = decision.next_samples, decision.reason
        try:
            if self._due:
                self._draw()
            elif not self._verify(reason):
                self._answer(reason)
        except QeilError as error:
            self._end(error)

    # ------------------------------------------------------------------ the answer

    def _verify(self, reason: str) -> bool:
        """Ask about the candidates where that is wanted and nothing is certified; whether it has begun."""
        asking, progress = self._asking, self._progress
        undecided = reason != "majority" and csvet.certified_alpha(progress.tally) > asking.strategy.alpha
        if not asking.plan.verify or not undecided or not progress.tally.counts:
            return False
        if progress.joules is None:
            self._notes = (*self._notes, "nothing was verified: joules are unknown, so checks have no price")
            return False
        weighed = self._book.weigh(self._source, self._answers)
        chances = {} if weighed is None else weighed.calibrated()
        candidates = [
            Candidate(str(answer), self._texts[self._chosen(str(answer))].text, chances.get(answer, 0.0))
            for answer in progress.tally.answers[:MAX_CANDIDATES]
        ]
        budget_j = asking.strategy.budget_j
        number = asking.request.first_sample + len(self._texts)
        request = replace(asking.request, first_sample=number, deadline_s=self._left_s())
        verification = Verification(
            request, asking.plan, candidates, progress.joules / len(progress.samples),
            None if budget_j is None else max(0.0, budget_j - progress.joules), self._begin_write,
            lambda checked: self._end(checked) if isinstance(checked, QeilError) else self._answer(reason, checked),
            self._book.check, asking.strategy.worth_j,
        )  # fmt: skip
        verification.next()
        return True

    def _answer(self, reason: str, checked: Checked | None = None) -> None:
        if self._over:
            return
        report = self._report(reason, checked)
        plan = self._asking.plan
        self._book.remember(
            self._asking.request.request_id,
            Given(
                self._source, plan.answer, plan.choices, tuple(self._answers), report.answer, report.confidence,
                report.checks,
            ),
        )  # fmt: skip
        first = self._asking.request.first_sample
        for piece in self._texts[self._chosen(report.answer)].pieces:
            logprob = piece.logprob if self._asking.request.logprobs is not None else None
            self._on_event(replace(piece, sample=first, logprob=logprob))
        last, tokens = self._dones[-1], self._progress.tokens
        compute_s = sum(done.usage.compute_s for done in self._dones)
        if checked is not None:
            tokens, compute_s = tokens + checked.tokens, compute_s + checked.compute_s
        usage = TextUsage(
            last.usage.prompt_tokens,
            last.usage.cached_tokens,
            tokens,
            compute_s,
            report.energy_j,
            report.provenance,
            last.usage.energy_reason,
        )
        replays = sum(done.replays for done in self._dones)
        self._end(replace(last, usage=usage, replays=replays, sampling=report))

    @property
    def _answers(self) -> list[str]:
        return [str(sample.answer) for sample in self._progress.samples if sample.answer is not None]

    @property
    def _source(self) -> Source:
        return Source(self._asking.request.model, self._asking.plan.answer, "as served", self._dones[-1].placement)

    def _report(self, reason: str, checked: Checked | None) -> SamplingReport:
        asking, progress, tally = self._asking, self._progress, self._progress.tally
        answer, notes = strategy.answer(asking.strategy, progress), self._notes
        confidence: float | None = None
        if checked is not None:
            answer, confidence, notes = checked.answer, checked.belief, (*notes, f"verification ended: {checked.stop}")
        else:
            weighed = self._book.weigh(self._source, self._answers)
            confidence = weighed.confidence if weighed else None
            split = tally.samples > 1 and tally.counts[tally.leader()] == 1
            if split and asking.strategy.rule not in {"greedy", "best-of-n"}:
                answer, notes = None, (*notes, "every sample says something else, so none is the answer")
        notes = (*notes, *self._overspent())
        certified, alpha = csvet.certified_alpha(tally), asking.strategy.alpha
        verdict = csvet.Verdict(True, "samples", tally.leader() if tally.counts else None, certified)
        statement = csvet.statement(verdict, tally, alpha).replace("stopped: samples", f"stopped: {reason}")
        if reason == "majority":
            statement = majority.statement(tally, asking.strategy.max_samples, alpha)
        certifies: CertifyName | None = "mode" if certified <= alpha else "majority" if reason == "majority" else None
        joules = progress.joules
        provenance: EnergyProvenance = "unknown" if joules is None else self._dones[-1].usage.provenance
        if joules is not None and checked is not None:
            joules += checked.spent_j
        return SamplingReport(
            asking.strategy.rule, len(progress.samples), tally.samples, None if answer is None else str(answer),
            tally.agreement, confidence, reason, alpha, certified, statement, joules, provenance,
            checked.steps if checked else (), notes, self._trace() if asking.plan.trace else (),
            self._book.outcomes, certifies,
        )  # fmt: skip

    def _overspent(self) -> tuple[str, ...]:
        """A budget that the first batch passed already: what a sample costs is not known before one was drawn."""
        wanted, progress = self._asking.strategy, self._progress
        drawn = len(progress.samples)
        if drawn > strategy.FIRST_BATCH:
            return ()
        spent = (
            ("budget_j", wanted.budget_j, progress.joules, "J"),
            ("budget_s", wanted.budget_s, progress.seconds, "s"),
        )
        return tuple(
            f"{key} {limit:g} {unit} was passed by the first {drawn} samples, which took {took:.3g} {unit}"
            for key, limit, took, unit in spent
            if limit is not None and took is not None and took > limit
        )

    def _chosen(self, answer: str | None) -> int:
        """The sample whose text is sent: the first with the answer, for best-of-n the most probable of those."""
        given = [n for n, s in zip(self._texts, self._progress.samples, strict=True) if s.answer == answer]
        if answer is None or not given:
            return next(iter(self._texts))
        if self._asking.strategy.rule == "best-of-n":
            return max(given, key=lambda n: self._texts[n].mean_logprob or 0.0)
        return given[0]

    def _trace(self) -> tuple[SampleTrace, ...]:
        return tuple(
            SampleTrace(n, None if s.answer is None else str(s.answer), s.tokens, s.mean_logprob, s.joules)
            for n, s in zip(self._texts, self._progress.samples, strict=True)
        )

    def _end(self, event: TextEvent) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._on_event(event)
