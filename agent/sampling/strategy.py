"""Strategy: how many samples to draw next, when to stop, and what to answer – the same for a live request and a replay.

Samples come in batches, because a batch of the decoder shares the weights it reads. A sample without an answer that
could be extracted is paid for but does not vote.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import Literal

from agent.records import record
from agent.sampling import baselines, csvet, majority
from agent.sampling.csvet import Budget, Spent
from agent.sampling.tally import Tally

Rule = Literal["greedy", "majority", "best-of-n", "beta", "doubling", "csvet"]
"""One sample; a majority of k; the most probable of n; adaptive consistency; 2 → 4 → 8 at 75 %; this project's."""

Certify = Literal["mode", "majority"]
"""What csvet certifies: the model's most likely answer, however many samples there were; or what a majority of all
`max_samples` would say, which takes fewer."""

FIRST_BATCH = 2
BATCH = 4
"""Samples per batch once there are that many: the weights are read once for all of them."""
MAX_SAMPLES = 1024


@record(frozen=True)
class Strategy:
    """What was asked for. `threshold` is Beta's confidence or doubling's share; alpha and the worth of a
    right answer, in joules or in samples, are of csvet."""

    rule: Rule = "csvet"
    max_samples: int = 16
    alpha: float = 0.05
    worth_j: float | None = None
    threshold: float | None = None
    budget_j: float | None = None
    budget_s: float | None = None
    certify: Certify = "mode"
    worth_samples: float | None = None
    budget_c: float | None = None
    """Temperature at which drawing ends."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_samples <= MAX_SAMPLES:
            raise ValueError(f"max_samples must be between 1 and {MAX_SAMPLES}, got {self.max_samples}")
        if self.rule == "greedy" and self.max_samples != 1:
            raise ValueError(f"greedy draws one sample, so max_samples must be 1, got {self.max_samples}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha:g}")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold:g}")
        if self.threshold is not None and self.rule not in {"beta", "doubling"}:
            raise ValueError(f"threshold belongs to beta and doubling, not to {self.rule}")
        self._check_certificate()
        self._check_worth()

    def _check_certificate(self) -> None:
        if self.certify == "majority" and self.rule != "csvet":
            raise ValueError(f"certify belongs to csvet, not to {self.rule}")
        if self.certify == "majority" and self.max_samples > majority.MAX_SAMPLES:
            raise ValueError(
                f"certify majority goes up to {majority.MAX_SAMPLES} samples, got max_samples {self.max_samples}"
            )

    def _check_worth(self) -> None:
        for name, worth in (("worth_j", self.worth_j), ("worth_samples", self.worth_samples)):
            if worth is not None and not worth > 0:
                raise ValueError(f"{name} must be positive, got {worth:g}")
            if worth is not None and self.rule != "csvet":
                raise ValueError(f"{name} belongs to csvet, not to {self.rule}")
        if self.worth_samples is not None and self.worth_j is not None:
            raise ValueError("worth_j and worth_samples say the same in two ways; give one")

    def worth(self, sample_j: float) -> float | None:
        """Joules that a right answer is worth where a sample takes so many; None where nothing is said of it."""
        return self.worth_j if self.worth_samples is None else self.worth_samples * sample_j

    @cached_property
    def line(self) -> majority.Line:
        """Wins that settle a majority of `max_samples` at alpha; see `majority.boundary`."""
        return majority.boundary(self.max_samples, self.alpha)


@record(frozen=True)
class Sample:
    """One sample: its answer (None: none could be extracted), tokens decoded, mean log-probability, what it cost."""

    answer: Hashable | None
    tokens: int
    seconds: float
    joules: float | None = None
    mean_logprob: float | None = None


@record(frozen=True)
class Expected:
    """What a sample is expected to cost before one was drawn; joules None: unknown."""

    joules: float | None
    seconds: float


@record(frozen=True)
class Progress:
    """Everything drawn for one question so far."""

    samples: tuple[Sample, ...] = ()
    tally: Tally = field(default_factory=Tally)

    def add(self, *samples: Sample) -> Progress:
        """With these samples as well."""
        tally = self.tally
        for sample in samples:
            tally = tally if sample.answer is None else tally.add(sample.answer)
        return Progress((*self.samples, *samples), tally)

    @property
    def tokens(self) -> int:
        """Tokens decoded."""
        return sum(sample.tokens for sample in self.samples)

    @property
    def seconds(self) -> float:
        """Seconds of all samples, one after another."""
        return sum(sample.seconds for sample in self.samples)

    @property
    def joules(self) -> float | None:
        """Joules of all samples; None where one's are unknown."""
        known = [sample.joules for sample in self.samples if sample.joules is not None]
        return sum(known) if len(known) == len(self.samples) else None


@record(frozen=True)
class Decision:
    """Draw `next_samples` more, or stop (0) for `reason`; `certified` is the alpha at which the answer is certified."""

    next_samples: int
    reason: str
    certified: float


def batch_size(drawn: int, max_samples: int) -> int:
    """Samples of the next batch: 2, 2, 4, 4, … up to the most that are allowed."""
    size = FIRST_BATCH if drawn < 2 * FIRST_BATCH else BATCH
    return max(0, min(size, max_samples - drawn))


def decide(
    strategy: Strategy, progress: Progress, temperature_c: float | None = None, expected: Expected | None = None
) -> Decision:
    """What to do after the samples drawn so far.

    Costs of the next batch are expected to be the mean of the samples so far, and it is cut to what the budgets leave.
    At `budget_c` none is drawn; before the first sample only where the temperature is known, afterwards looked at after
    at most BATCH samples. Before the first one costs are as `expected`: where not even one sample fits, none is drawn,
    for the reason "budget".
    Where nobody expects anything, a first batch with a budget has FIRST_BATCH samples at most, and may pass it. Every
    rule ends at `max_samples` and at its budgets; a budget of something that nobody measures or models is over at once.
    """
    drawn, limit = len(progress.samples), strategy.max_samples
    following = _affordable(strategy, progress, _batch(strategy, progress), expected)
    certified = csvet.certified_alpha(progress.tally)
    if strategy.budget_c is not None:
        following = min(following, BATCH)
        if drawn == 0 and temperature_c is not None and temperature_c >= strategy.budget_c:
            return Decision(0, "temperature", certified)
    if drawn == 0:
        return Decision(following, "go_on" if following else "budget", certified)
    if strategy.certify == "majority" and following == 0 and drawn < limit:
        return Decision(0, "certified" if certified <= strategy.alpha else "majority", certified)
    budget = Budget(limit, strategy.budget_j, strategy.budget_s, strategy.budget_c)
    verdict = csvet.step(
        progress.tally, replace(budget, max_samples=limit if drawn < limit else progress.tally.samples),
        _spent(progress, following, temperature_c), strategy.alpha if strategy.rule == "csvet" else 1e-300,
        strategy.worth_j, strategy.worth_samples,
    )  # fmt: skip
    if verdict.stop:
        return Decision(0, verdict.reason, certified)
    if strategy.rule != "csvet" and _settled(strategy, progress.tally):
        return Decision(0, "settled", certified)
    return Decision(following, "go_on", certified)


def answer(strategy: Strategy, progress: Progress) -> Hashable | None:
    """The answer of the samples drawn; None where none of them gave one."""
    voting = [s for s in progress.samples if s.answer is not None]
    if not voting:
        return None
    if strategy.rule == "best-of-n":
        scored = [s for s in voting if s.mean_logprob is not None]
        if len(scored) < len(voting):
            raise ValueError("best-of-n needs the log-probability of every sample")
        return baselines.best_of_n([s.answer for s in scored], [s.mean_logprob or 0.0 for s in scored])
    return progress.tally.answers[progress.tally.leader()]


def replay(strategy: Strategy, pool: Sequence[Sample]) -> tuple[Progress, Decision]:
    """The strategy on samples drawn before, in their order. Raises ValueError where the pool ends too early."""
    progress = Progress()
    while (decision := decide(strategy, progress)).next_samples:
        batch = pool[len(progress.samples) : len(progress.samples) + decision.next_samples]
        if len(batch) < decision.next_samples:
            raise ValueError(f"the strategy wants {decision.next_samples} more samples than the {len(pool)} there are")
        progress = progress.add(*batch)
    return progress, decision


def _batch(strategy: Strategy, progress: Progress) -> int:
    """csvet in batches, for a majority as many as it takes at least to settle it.

    The baselines as they are published: Beta looks after every sample, doubling at its looks, the others once.
    """
    drawn = len(progress.samples)
    if strategy.rule == "csvet":
        size = batch_size(drawn, strategy.max_samples)
        if strategy.certify == "mode":
            return size
        left = strategy.max_samples - drawn
        short = majority.missing(progress.tally, strategy.line, left)
        # One sample of an answer is no vote, even where those that are left could not outnumber it.
        short = max(short, min(left, 2 - max(progress.tally.counts, default=0)))
        return short if strategy.worth_j is None and strategy.worth_samples is None else min(size, short)
    if strategy.rule == "beta":
        return min(1, strategy.max_samples - drawn)
    if strategy.rule == "doubling":
        looks = [min(look, strategy.max_samples) for look in baselines.DOUBLING_LOOKS if look > drawn]
        return max(0, (looks[0] if looks else drawn) - drawn)
    return strategy.max_samples - drawn


def _affordable(strategy: Strategy, progress: Progress, following: int, expected: Expected | None) -> int:
    """So many of the following samples as the budgets allow, at least one: whether that fits is asked next."""
    if strategy.budget_j is None and strategy.budget_s is None:
        return following
    if not progress.samples:
        return min(following, FIRST_BATCH) if expected is None else _expected_to_fit(strategy, expected, following)
    one = _spent(progress, 1, None)
    for count in range(following, 1, -1):
        joules = None if one.next_joules is None else one.next_joules * count
        over_j = csvet.passes(strategy.budget_j, one.joules, joules)
        if not over_j and not csvet.passes(strategy.budget_s, one.seconds, one.next_seconds * count):
            return count
    return min(1, following)


def _expected_to_fit(strategy: Strategy, expected: Expected, following: int) -> int:
    for count in range(following, 0, -1):
        joules = None if expected.joules is None else expected.joules * count
        over_j = csvet.passes(strategy.budget_j, 0.0, joules)
        if not over_j and not csvet.passes(strategy.budget_s, 0.0, expected.seconds * count):
            return count
    return 0


def _spent(progress: Progress, following: int, temperature_c: float | None) -> Spent:
    per_sample = 1.0 / len(progress.samples)
    joules = progress.joules
    return Spent(
        joules, progress.seconds, temperature_c, None if joules is None else joules * per_sample * following,
        progress.seconds * per_sample * following, max(1, following),
    )  # fmt: skip


def _settled(strategy: Strategy, tally: Tally) -> bool:
    if strategy.rule == "doubling":
        return baselines.doubling(tally, strategy.threshold or baselines.DOUBLING_SHARE)
    confidence = strategy.threshold or baselines.BETA_CONFIDENCE
    return strategy.rule == "beta" and baselines.adaptive_consistency(tally, confidence)
