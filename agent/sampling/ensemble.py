"""ARDE: adaptive reliability-weighted ensemble – votes weighted by how reliable their sources have been.

A source that is right with probability r and otherwise picks among m − 1 wrong answers evenly speaks for its answer
with the weight ln(r (m − 1)/(1 − r)) (Nitzan & Paroush 1982, doi:10.2307/2526438, for m answers). Samples of one source
on one question err together; n of them count as n/(1 + (n − 1) ρ) (design effect, Kish 1965). What the weights say is
then calibrated against what turned out right (`Calibration`), because no such model of errors is quite true.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

from agent.records import record
from agent.sampling.reliability import Reliabilities, Vote

CORRELATION = 0.2
"""ρ: share of a source's error that its samples of one question have in common."""
MAX_RELIABILITY = 0.995
"""No source is believed beyond this, so that no single vote settles everything."""
MIN_WEIGHT = 0.01
"""Nats of a vote whose source has been right less often than by guessing. More votes never make an answer less likely:
a source that errs picks no answer on purpose, so that one it avoids is none the better for it."""


@record(frozen=True)
class Calibration:
    """P(leader right) = σ(a·z + b) of the log-odds z that the votes give; Gaussian belief about (a, b).

    Updated by one Newton step per outcome (assumed-density filtering of a logistic regression, Bishop 2006, §4.5).
    """

    slope: float = 1.0
    offset: float = 0.0
    precision: tuple[float, float, float] = (4.0, 0.0, 4.0)
    """Inverse covariance: slope–slope, slope–offset, offset–offset. The prior: 1 ± 0.5 and 0 ± 0.5."""

    def probability(self, log_odds: float) -> float:
        """Calibrated probability that the leader is right."""
        return _sigmoid(self.slope * log_odds + self.offset)

    def after(self, log_odds: float, right: bool) -> Calibration:
        """With one more outcome."""
        p = self.probability(log_odds)
        spread = max(p * (1.0 - p), 1e-6)
        ss, so, oo = self.precision
        ss, so, oo = ss + spread * log_odds * log_odds, so + spread * log_odds, oo + spread
        determinant = ss * oo - so * so
        gradient = float(right) - p
        slope = self.slope + gradient * (oo * log_odds - so) / determinant
        offset = self.offset + gradient * (ss - so * log_odds) / determinant
        return Calibration(max(0.0, slope), offset, (ss, so, oo))


@record(frozen=True)
class Verdict:
    """The ensemble's answer. `confidence` is calibrated, `chances` (by answer, the rest is "none of these") is not."""

    answer: Hashable
    confidence: float
    log_odds: float
    chances: Mapping[Hashable, float]

    def calibrated(self) -> dict[Hashable, float]:
        """The chances with the leader at its confidence; the others and "none of these" share what is left."""
        rest = 1.0 - self.chances[self.answer]
        factor = (1.0 - self.confidence) / rest if rest > 0 else 0.0
        return {a: self.confidence if a == self.answer else c * factor for a, c in self.chances.items()}


def consensus(votes: Sequence[Vote], reliabilities: Reliabilities) -> dict[Hashable, float]:
    """Probability of each answer given, by the weighted votes; what is missing to 1 is "none of these".

    Empty for no votes.
    """
    answers = list(dict.fromkeys(vote.answer for vote in votes))
    if not answers:
        return {}
    alternatives = max(2, len(answers) + 1)
    scores = dict.fromkeys(answers, 0.0)
    for source in dict.fromkeys(vote.source for vote in votes):
        own = [vote.answer for vote in votes if vote.source == source]
        reliability = min(MAX_RELIABILITY, reliabilities.of(source).mean)
        weight = max(MIN_WEIGHT, math.log(reliability * (alternatives - 1) / (1.0 - reliability)))
        each = weight / (1.0 + (len(own) - 1) * CORRELATION)
        for answer in own:
            scores[answer] += each
    top = max(0.0, *scores.values())
    total = math.exp(-top) + sum(math.exp(score - top) for score in scores.values())
    return {answer: math.exp(score - top) / total for answer, score in scores.items()}


def decide(votes: Sequence[Vote], reliabilities: Reliabilities, calibration: Calibration) -> Verdict | None:
    """The most probable answer, the first given where several are; None without votes."""
    chances = consensus(votes, reliabilities)
    if not chances:
        return None
    answer = max(chances, key=lambda a: chances[a])
    chance = min(1.0 - 1e-12, chances[answer])
    log_odds = math.log(chance / (1.0 - chance))
    return Verdict(answer, calibration.probability(log_odds), log_odds, chances)


def learn(
    votes: Sequence[Vote], reliabilities: Reliabilities, calibration: Calibration, truth: Hashable | None = None
) -> tuple[Reliabilities, Calibration]:
    """What a question taught: from its truth where that is known, else each source from what the others say.

    A lone source teaches nothing without a truth: agreeing with itself is no evidence. None is no answer.
    """
    if truth is not None:
        verdict = decide(votes, reliabilities, calibration)
        if verdict is not None:
            calibration = calibration.after(verdict.log_odds, verdict.answer == truth)
        return reliabilities.learnt(votes, truth), calibration
    updated = reliabilities
    for source in dict.fromkeys(vote.source for vote in votes):
        others = [vote for vote in votes if vote.source != source]
        if others:
            own = [vote for vote in votes if vote.source == source]
            chances = consensus(others, reliabilities)
            believed = max(chances, key=lambda a: chances[a])
            # A guess of the truth teaches as much as it is believed in, squared: half-believed ones are mostly noise.
            updated = updated.learnt(own, believed, chances[believed] ** 2)
    return updated, calibration


def learn_wrong(
    votes: Sequence[Vote], reliabilities: Reliabilities, calibration: Calibration, wrong: Hashable
) -> tuple[Reliabilities, Calibration]:
    """What a question taught of which only one wrong answer is known.

    Votes for it count against their sources; of the other votes nothing is known, so they say nothing.
    """
    verdict = decide(votes, reliabilities, calibration)
    if verdict is not None and verdict.answer == wrong:
        calibration = calibration.after(verdict.log_odds, False)
    updated = reliabilities
    for source in dict.fromkeys(vote.source for vote in votes if vote.answer == wrong):
        own = [vote for vote in votes if vote.source == source]
        caught = [vote for vote in own if vote.answer == wrong]
        updated = updated.learnt(caught, None, len(caught) / len(own))
    return updated, calibration


def brier(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Mean squared error of the confidences, 0 best (Brier 1950). Raises ValueError for none or unequal lengths."""
    _paired(confidences, right)
    return sum((c - float(r)) ** 2 for c, r in zip(confidences, right, strict=True)) / len(right)


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error over equal-width bins (Naeini et al. 2015). Raises ValueError as `brier`."""
    _paired(confidences, right)
    total = 0.0
    for index in range(bins):
        inside = [i for i, c in enumerate(confidences) if min(bins - 1, int(c * bins)) == index]
        if inside:
            total += abs(sum(confidences[i] - float(right[i]) for i in inside))
    return total / len(right)


def _paired(confidences: Sequence[float], right: Sequence[bool]) -> None:
    if not right or len(confidences) != len(right):
        raise ValueError(f"{len(confidences)} confidences and {len(right)} outcomes: one of each is needed")


def _sigmoid(x: float) -> float:
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-min(x, 700.0)))
    small = math.exp(max(x, -700.0))
    return small / (1.0 + small)
