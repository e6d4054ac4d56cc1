"""EAC: energy-aware cascade – which check of which candidate answer buys the most information per joule next.

A check passes or fails a candidate; it passes right answers more often than wrong ones, at rates learnt as it is used.
The belief is a probability for each candidate and for "none of them". Before every step each open (candidate, check)
pair is priced: expected drop of the belief's entropy, in bits, over the check's joules (Lindley 1956,
doi:10.1214/aoms/1177728069). Dear checks are therefore asked only while the cheap ones leave the answer undecided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from agent.records import record

Outcome = Literal["pass", "fail", "unknown"]
"""unknown: the check crashed, timed out or had no opinion; it costs and says nothing."""

StopReason = Literal["decided", "joules", "not_worth_it", "nothing_to_gain", "no_candidate"]

FREE_J = 1e-9
"""Joules that a check without a cost is priced at, so that free checks come first, the most telling of them first."""
MIN_GAIN_BITS = 1e-3
"""A check that is expected to say less than this is not worth asking."""


@record(frozen=True)
class Check:
    """A check and what is known of it. Rates are pseudo-counts of (passed, failed), for right and for wrong answers."""

    name: str
    cost_j: float
    right: tuple[float, float]
    wrong: tuple[float, float]

    def __post_init__(self) -> None:
        if self.cost_j < 0 or min(*self.right, *self.wrong) <= 0:
            raise ValueError(f"check {self.name}: the cost must not be negative, the counts must be positive")

    @property
    def passes_right(self) -> float:
        """P(pass | the candidate is right)."""
        return self.right[0] / sum(self.right)

    @property
    def passes_wrong(self) -> float:
        """P(pass | the candidate is wrong)."""
        return self.wrong[0] / sum(self.wrong)

    def learnt(self, passed: bool, chance_right: float) -> Check:
        """With one more use on a candidate that turned out right with this probability."""
        hit = (1.0, 0.0) if passed else (0.0, 1.0)
        right = (self.right[0] + chance_right * hit[0], self.right[1] + chance_right * hit[1])
        rest = 1.0 - chance_right
        return replace(self, right=right, wrong=(self.wrong[0] + rest * hit[0], self.wrong[1] + rest * hit[1]))


@record(frozen=True)
class Step:
    """One check asked: for the trace."""

    candidate: int
    check: str
    outcome: Outcome
    cost_j: float
    belief: float
    """In the candidate, afterwards."""


@record(frozen=True)
class Cascade:
    """Belief in each candidate (the rest is "none of them"), what has been asked, what it cost."""

    belief: tuple[float, ...]
    trace: tuple[Step, ...] = ()

    @property
    def spent_j(self) -> float:
        """Joules of all checks so far."""
        return sum(step.cost_j for step in self.trace)

    @property
    def leader(self) -> int | None:
        """The candidate believed in most, the first of equals; None without candidates."""
        return max(range(len(self.belief)), key=lambda i: (self.belief[i], -i), default=None)

    @property
    def spoken(self) -> bool:
        """Whether any check said anything."""
        return any(step.outcome != "unknown" for step in self.trace)

    def refuted(self, decided: float) -> bool:
        """Whether checks, and not the samples alone, leave "none of them" with at least this belief."""
        return self.spoken and 1.0 - sum(self.belief) >= decided

    def after(self, candidate: int, check: Check, outcome: Outcome, cost_j: float) -> Cascade:
        """With one more outcome and what it really cost."""
        belief = self.belief if outcome == "unknown" else _posterior(self.belief, candidate, check, outcome == "pass")
        return Cascade(belief, (*self.trace, Step(candidate, check.name, outcome, cost_j, belief[candidate])))


@record(frozen=True)
class Next:
    """What to ask next, or why to stop (`candidate` and `check` are None then)."""

    candidate: int | None
    check: str | None
    gain_bits: float
    stop: StopReason | None


def start(chances: Sequence[float]) -> Cascade:
    """A cascade over candidates with these prior probabilities (for instance of an ensemble), sum ≤ 1."""
    if any(not 0 <= c <= 1 for c in chances) or sum(chances) > 1 + 1e-9:
        raise ValueError("chances must lie between 0 and 1 and sum to at most 1")
    return Cascade(tuple(chances))


def choose(
    cascade: Cascade,
    checks: Sequence[Check],
    decided: float = 0.95,
    budget_j: float | None = None,
    worth_j: float | None = None,
) -> Next:
    """The open pair with the most expected bits per joule, or the reason to stop.

    Args:
        cascade: the state.
        checks: all checks there are; a pair is asked once.
        decided: belief in one candidate, or in none of them, at which nothing more is asked.
        budget_j: joules for all checks of this question; what would pass it is not asked.
        worth_j: joules that one more right answer is worth; a check that is expected to raise the chance of being
            right by less than it costs is not asked. None: bits alone decide.
    """
    if not cascade.belief:
        return Next(None, None, 0.0, "no_candidate")
    if max(*cascade.belief, 1.0 - sum(cascade.belief)) >= decided:
        return Next(None, None, 0.0, "decided")
    asked = {(step.candidate, step.check) for step in cascade.trace}
    pairs = [(i, c) for i in range(len(cascade.belief)) for c in checks if (i, c.name) not in asked]
    worth = [(i, c, gain_bits(cascade.belief, i, c)) for i, c in pairs]
    worth = [(i, c, gain) for i, c, gain in worth if gain >= MIN_GAIN_BITS]
    paying = [p for p in worth if worth_j is None or worth_j * rise(cascade.belief, p[0], p[1]) > p[1].cost_j]
    if worth and not paying:
        return Next(None, None, 0.0, "not_worth_it")
    affordable = [p for p in paying if budget_j is None or cascade.spent_j + p[1].cost_j <= budget_j]
    if not affordable:
        return Next(None, None, 0.0, "joules" if paying else "nothing_to_gain")
    candidate, check, gain = max(affordable, key=lambda p: (p[2] / max(p[1].cost_j, FREE_J), -p[0]))
    return Next(candidate, check.name, gain, None)


def gain_bits(belief: Sequence[float], candidate: int, check: Check) -> float:
    """Expected drop of the belief's entropy by asking the check about the candidate, in bits, ≥ 0."""
    passes = belief[candidate] * check.passes_right + (1.0 - belief[candidate]) * check.passes_wrong
    after = passes * _entropy(_posterior(belief, candidate, check, True))
    after += (1.0 - passes) * _entropy(_posterior(belief, candidate, check, False))
    return max(0.0, _entropy(belief) - after)


def rise(belief: Sequence[float], candidate: int, check: Check) -> float:
    """Expected rise of the belief in whichever candidate is believed most afterwards, by asking the check, ≥ 0.

    0 for a check whose outcome would change no answer (expected value of sample information, Raiffa & Schlaifer 1961).
    """
    passes = belief[candidate] * check.passes_right + (1.0 - belief[candidate]) * check.passes_wrong
    after = passes * max(_posterior(belief, candidate, check, True))
    after += (1.0 - passes) * max(_posterior(belief, candidate, check, False))
    return max(0.0, after - max(belief))


def learnt(checks: Mapping[str, Check], cascade: Cascade, truth: int | None) -> dict[str, Check]:
    """The checks after a question whose right candidate is known (None: none of them was right)."""
    updated = dict(checks)
    for step in cascade.trace:
        if step.outcome != "unknown":
            updated[step.check] = updated[step.check].learnt(step.outcome == "pass", float(step.candidate == truth))
    return updated


def _posterior(belief: Sequence[float], candidate: int, check: Check, passed: bool) -> tuple[float, ...]:
    right = check.passes_right if passed else 1.0 - check.passes_right
    wrong = check.passes_wrong if passed else 1.0 - check.passes_wrong
    weights = [b * (right if i == candidate else wrong) for i, b in enumerate(belief)]
    total = sum(weights) + max(0.0, 1.0 - sum(belief)) * wrong
    return tuple(w / total for w in weights)


def _entropy(belief: Sequence[float]) -> float:
    chances = [*belief, max(0.0, 1.0 - sum(belief))]
    return -sum(p * math.log2(p) for p in chances if p > 0)
