"""Sampling run: one question on its way from its first batch of samples to its answer. Driven by the lanes' events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import field, replace

from agent.errors import BadInput, Overloaded, QeilError
from agent.ports import Clock, TextHandle
from agent.records import record
from agent.sampling import claim, strategy
from agent.sampling.reliability import Source, Vote
from agent.sampling.strategy import Expected, Progress, Sample, Strategy
from agent.schema.snapshot import EnergyProvenance
from agent.schema.text import (
    SamplePlaces,
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
from agent.service.decoding.verification import Candidate, Checked, Elsewhere, Means, Verification, weakest

MAX_CANDIDATES = 4
"""Answers that are asked about: those with the most votes."""

CHECK_SHARE = 0.8
"""Of the time left, for one check."""

COOLING_S = 10.0
"""After which a question that an accelerator was too hot for may be asked again."""

BELIEVED = 0.5
"""What checks must make of an answer that no two samples share, so that it is given."""

OnEvent = Callable[[TextEvent], None]


@record(frozen=True)
class Asking:
    """What is asked and how. `rows`: texts that the decoder writes at once; the deadline is monotonic.

    expected: what a sample is known to take there. precision: that the samples are written in. temperature_c: of the
    hottest zone of the accelerator that writes them, as read last; None: nobody reads it.
    """

    request: TextRequest
    plan: SamplingPlan
    strategy: Strategy
    rows: int
    deadline_s: float
    notes: tuple[str, ...]
    places: SamplePlaces | None = None
    expected: Expected | None = None
    precision: str = ""
    temperature_c: Callable[[], float | None] = lambda: None

    @property
    def too_hot(self) -> bool:
        """Whether budget_c is reached; what nobody reads reaches any."""
        limit_c, now_c = self.strategy.budget_c, self.temperature_c()
        return limit_c is not None and (now_c is None or now_c >= limit_c)


@record(eq=False)
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
        self._sources: list[Source] = []
        """Of every sample: that which wrote it."""
        self._notes = asking.notes

    def begin(self) -> None:
        """Draw the first batch. Raises what `write` raises."""
        asking = self._asking
        now_c = asking.temperature_c()
        decision = strategy.decide(asking.strategy, self._progress, now_c, asking.expected)
        self._due = decision.next_samples
        if decision.reason == "temperature":
            raise Overloaded(
                f"qeil: budget_c {asking.strategy.budget_c:g} °C is reached: the accelerator is at {now_c:.1f} °C; ask "
                "again when it is cooler, or leave budget_c out", COOLING_S,
            )  # fmt: skip
        if self._due == 0:
            raise BadInput(f"qeil: {_too_small(asking)}")
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
        more = self._due or len(self._texts) < asking.strategy.max_samples
        request = replace(
            asking.request, samples=count, first_sample=first, logprobs=logprobs, deadline_s=left_s,
            kept_as=asking.request.request_id if more or first > asking.request.first_sample else "",
        )  # fmt: skip
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

    def _begin_check(self, request: TextRequest, on_event: OnEvent) -> TextHandle:
        """A check gets a share of the time that is left, so that the answer is still in time where it hangs."""
        return self._begin_write(replace(request, deadline_s=CHECK_SHARE * self._left_s()), on_event)

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
        precision = self._asking.precision or "as served"
        self._sources += [Source(self._asking.request.model, plan.answer, precision, done.placement)] * len(samples)
        reason = ""
        if self._due and self._asking.too_hot:
            self._due, reason = 0, "temperature"
        elif self._due == 0:
            decision = strategy.decide(self._asking.strategy, self._progress, self._asking.temperature_c())
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
        given = strategy.answer(asking.strategy, progress)
        undecided = claim.claim(asking.strategy, progress.tally, given, reason).certifies is None
        if not asking.plan.verify or not undecided or not progress.tally.counts:
            return False
        if progress.joules is None:
            self._notes = (*self._notes, "nothing was verified: joules are unknown, so checks have no price")
            return False
        weighed = self._book.weigh(self._votes)
        chances = {} if weighed is None else weighed.calibrated()
        candidates = [
            Candidate(str(answer), self._texts[self._chosen(str(answer))].text, chances.get(answer, 0.0))
            for answer in self._candidates(given)
        ]
        number = asking.request.first_sample + len(self._texts)
        request = replace(asking.request, first_sample=number)
        verification = Verification(
            request, asking.plan, candidates, self._means(progress.joules), self._begin_check,
            lambda checked: self._answer(reason, checked), self._book.check, _elsewhere(asking.places, progress),
        )  # fmt: skip
        verification.next()
        return True

    def _means(self, joules: float) -> Means:
        wanted, seconds, drawn = self._asking.strategy, self._progress.seconds, len(self._progress.samples)
        return Means(
            joules / drawn, seconds / drawn, None if wanted.budget_j is None else max(0.0, wanted.budget_j - joules),
            None if wanted.budget_s is None else max(0.0, wanted.budget_s - seconds), wanted.worth(joules / drawn),
            lambda: self._asking.too_hot,
        )  # fmt: skip

    def _candidates(self, given: Hashable) -> tuple[Hashable, ...]:
        """Those with the most votes, and the one that would be given without a check."""
        most = self._progress.tally.most(MAX_CANDIDATES)
        return most if given in most else (*most[:-1], given)

    def _answer(self, reason: str, checked: Checked | None = None) -> None:
        if self._over:
            return
        report = self._report(reason, checked)
        plan = self._asking.plan
        self._book.remember(
            self._asking.request.request_id,
            Given(
                self._asking.request.model, plan.answer, plan.choices, self._votes, report.answer, report.confidence,
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
            self._dones[0].usage.cached_tokens,  # later looks find their own question's prompt
            tokens,
            compute_s,
            report.energy_j,
            report.provenance,
            next((done.usage.energy_reason for done in self._dones if done.usage.energy_reason), None)
            if checked is None or checked.provenance != "unknown"
            else "the joules of a check are unknown",
        )
        replays = sum(done.replays for done in self._dones)
        self._end(replace(last, usage=usage, replays=replays, sampling=report))

    @property
    def _votes(self) -> tuple[Vote, ...]:
        written = zip(self._sources, self._progress.samples, strict=True)
        return tuple(Vote(source, str(sample.answer)) for source, sample in written if sample.answer is not None)

    def _report(self, reason: str, checked: Checked | None) -> SamplingReport:
        asking, progress, tally = self._asking, self._progress, self._progress.tally
        given, notes = strategy.answer(asking.strategy, progress), self._notes
        answer = None if given is None else str(given)
        if checked is not None:
            notes = (*notes, *checked.notes, f"verification ended: {checked.stop}")
            answer = checked.answer if checked.spoken else answer
        split = tally.samples > 1 and tally.counts[tally.leader()] == 1
        if split and answer is not None and asking.strategy.rule not in {"greedy", "best-of-n"}:
            if checked is not None and checked.spoken and checked.belief > BELIEVED:
                notes = (*notes, "every sample says something else; the checks speak for this one")
            else:
                answer, notes = None, (*notes, "every sample says something else, so none is the answer")
        if reason == "temperature":
            notes = (*notes, self._heat_told())
        notes = (*notes, *self._overspent())
        said = claim.claim(asking.strategy, tally, answer, reason)
        joules, provenance = self._joules(checked)
        return SamplingReport(
            asking.strategy.rule, len(progress.samples), tally.samples, None if answer is None else str(answer),
            said.agreement, self._confidence(answer, checked), reason, asking.strategy.alpha, said.certified,
            said.statement, joules, provenance,
            checked.steps if checked else (), notes, self._trace() if asking.plan.trace else (),
            self._book.outcomes, said.certifies, self._places(),
        )  # fmt: skip

    def _joules(self, checked: Checked | None) -> tuple[float | None, EnergyProvenance]:
        """Of samples and checks, as good as the worst known of them."""
        joules, found = self._progress.joules, weakest(done.usage.provenance for done in self._dones)
        if checked is not None and checked.steps:
            joules = None if joules is None else joules + checked.spent_j
            found = weakest((found, checked.provenance))
        return (None, "unknown") if joules is None or found == "unknown" else (joules, found)

    def _confidence(self, answer: str | None, checked: Checked | None) -> float | None:
        """In the answer given; None where none is."""
        if answer is None:
            return None
        if checked is not None and checked.spoken:
            return checked.belief
        weighed = self._book.weigh(self._votes)
        return None if weighed is None else weighed.calibrated().get(answer)

    def _heat_told(self) -> str:
        limit_c, now_c = self._asking.strategy.budget_c, self._asking.temperature_c()
        now = "nobody reads the accelerator's temperature" if now_c is None else f"the accelerator is at {now_c:.1f} °C"
        return f"budget_c {limit_c:g} °C ended the drawing after {len(self._progress.samples)} samples: {now}"

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
            f"{key} {limit:g} {unit} was passed by the first {_samples(drawn)}, which took {took:.3g} {unit}"
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

    def _places(self) -> SamplePlaces | None:
        """Where it was done; the front among the trace."""
        found = self._asking.places
        return found if found is None or self._asking.plan.trace else replace(found, front=())

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


def _elsewhere(places: SamplePlaces | None, progress: Progress) -> Elsewhere | None:
    """The verifier, where it is not what wrote the samples, and what a text is expected to take there."""
    if places is None or places.verifier is None or places.verifier.model == places.samples.model:
        return None
    token_j, token_s = places.verifier.token_j, places.verifier.token_s
    tokens = progress.tokens / len(progress.samples)
    text_j = None if token_j is None else token_j * tokens
    return Elsewhere(places.verifier.model, text_j, None if token_s is None else token_s * tokens)


def _samples(count: int) -> str:
    return "sample" if count == 1 else f"{count} samples"


def _too_small(asking: Asking) -> str:
    """The budget that not even one sample is expected to keep."""
    wanted, one = asking.strategy, asking.expected or Expected(None, 0.0)
    if wanted.budget_s is not None and one.seconds > wanted.budget_s:
        needs = f"{one.seconds:.3g} s by the last answers"
        return f"budget_s {wanted.budget_s:g} s is less than one sample takes here: {needs}"
    takes = "nobody knows the joules" if one.joules is None else f"{one.joules:.3g} J by the last answers"
    return f"budget_j {wanted.budget_j:g} J is less than one sample takes here: {takes}"
