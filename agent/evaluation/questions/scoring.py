"""Scoring: what a pool of samples says of the model, and what each strategy would have made of it at what cost."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from agent.evaluation.questions.endpoint import Drawn
from agent.evaluation.questions.extraction import extract
from agent.evaluation.questions.question import Question
from agent.physics import merit, scaling, student_t
from agent.records import record
from agent.sampling.ensemble import brier, calibration_error
from agent.sampling.strategy import Progress, Sample, Strategy, answer, replay

CONFIDENCE = 0.95
POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Sample counts that pass@k is given for, up to the pool's size."""
MOST_LEFT_OUT, FEWEST_LEFT_OUT = 40, 5
"""Groups of questions that are left out in turn: so many at most, and at least so many for an interval."""


@record(frozen=True)
class Answered:
    """A question with its pool: greedy first, then samples in the order they were drawn."""

    question: Question
    greedy: Sample
    pool: tuple[Sample, ...]
    batches: tuple[int, ...] = ()
    """Sizes of the batches that the pool was drawn in; empty where that is not known."""

    @property
    def correct(self) -> int:
        """Samples of the pool that are right."""
        return sum(sample.answer == self.question.truth for sample in self.pool)


def answered(question: Question, greedy: Drawn, pool: Sequence[Drawn], batches: Sequence[int] = ()) -> Answered:
    """Extract every sample's answer."""
    found = tuple(_sample(question, drawn) for drawn in pool)
    return Answered(question, _sample(question, greedy), found, tuple(batches))


def _sample(question: Question, drawn: Drawn) -> Sample:
    return Sample(extract(question, drawn.text), drawn.tokens, drawn.seconds, drawn.joules, drawn.mean_logprob)


def pass_at(results: Sequence[Answered], samples: int) -> dict[int, tuple[float, float, float]]:
    """k → (mean unbiased pass@k over the questions, low, high); the interval is over questions, see _mean_interval."""
    found = {}
    counts = np.array([result.correct for result in results])
    for k in (*[p for p in POWERS if p < samples], samples):
        each = merit.pass_at_k(np.full(counts.shape, samples), counts, np.full(counts.shape, k))
        found[k] = _mean_interval(each.tolist())
    return found


def coverage_fit(results: Sequence[Answered], samples: int) -> dict[str, Any]:
    """C(S) = 1 − exp(−α S^β) through the pass@k of the run, or why it cannot be fitted.

    All points come from the same questions, so their errors go together; the intervals are those of a jackknife that
    leaves out questions in turn (Quenouille 1956, doi:10.1093/biomet/43.3-4.353).
    """
    every = _passes(results, samples)
    report = scaling.fit_coverage({"samples": list(every)}, list(every.values()))
    if report.law is None or report.unsupported_because:
        return {"law": "C(S) = 1 - exp(-alpha S^beta)", "unsupported_because": report.unsupported_because}
    law = report.law
    (alpha_low, alpha_high), beta_interval = _jackknifed(results, samples, law)
    return {
        "law": "C(S) = 1 - exp(-alpha S^beta)", "alpha": law.scale, "alpha_interval": [alpha_low, alpha_high],
        "beta": float(law.exponents[0]), "beta_interval": list(beta_interval),
        "r_squared": law.r_squared, "confidence": law.confidence, "unsupported_because": None,
    }  # fmt: skip


def _jackknifed(
    results: Sequence[Answered], samples: int, law: scaling.ScalingLaw
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Intervals of alpha and beta over questions; the law's own where too few questions can be left out."""
    own = law.exponent_intervals[0]
    groups = min(MOST_LEFT_OUT, len(results))
    found = []
    for group in range(groups):
        left = _passes([r for i, r in enumerate(results) if i % groups != group], samples) if groups > 1 else {}
        without = scaling.fit_coverage({"samples": list(left)}, list(left.values())).law if left else None
        if without is not None:
            found.append((math.log(without.scale), float(without.exponents[0])))
    if len(found) < max(FEWEST_LEFT_OUT, groups):
        return law.scale_interval, (float(own[0]), float(own[1]))
    spread = np.sqrt((groups - 1) ** 2 / groups * np.var(np.array(found), axis=0, ddof=1))
    reach = student_t.two_sided(CONFIDENCE, groups - 1) * spread
    middle, beta = math.log(law.scale), float(law.exponents[0])
    low, high = math.exp(middle - reach[0]), math.exp(min(700.0, middle + reach[0]))
    return (low, high), (beta - float(reach[1]), beta + float(reach[1]))


def _passes(results: Sequence[Answered], samples: int) -> dict[float, float]:
    counts = np.array([result.correct for result in results])
    powers = (*[p for p in POWERS if p < samples], samples)
    each = [merit.pass_at_k(np.full(counts.shape, samples), counts, np.full(counts.shape, k)) for k in powers]
    return {float(k): float(np.mean(values)) for k, values in zip(powers, each, strict=True)}


def score(name: str, strategy: Strategy, results: Sequence[Answered]) -> dict[str, Any]:
    """A strategy's row: right answers with their Wilson interval, samples, tokens, seconds and joules per question.

    `coverage` is the share of questions that any sample drawn answers rightly; IPW and ECE are the papers', of it.
    """
    runs = [_one(strategy, result) for result in results]
    right = [outcome["right"] for outcome in runs]
    low, high = wilson(sum(right), len(right))
    agreements = [outcome["agreement"] for outcome in runs]
    joules = [outcome["joules"] for outcome in runs]
    known = all(j is not None for j in joules)
    reasons: dict[str, int] = {}
    for outcome in runs:
        reasons[outcome["reason"]] = reasons.get(outcome["reason"], 0) + 1
    certified = [outcome for outcome in runs if outcome["reason"] in {"certified", "majority"}]
    coverage, seconds = _mean([o["covered"] for o in runs]), _mean([o["seconds"] for o in runs])
    energy_j = _mean([float(j) for j in joules if j is not None]) if known else None
    power_w = energy_j / seconds if energy_j and seconds > 0 else None
    return {
        "strategy": name, "accuracy": sum(right) / len(right), "accuracy_interval": [low, high],
        "samples": _mean([o["samples"] for o in runs]), "tokens": _mean([o["tokens"] for o in runs]),
        "seconds": seconds, "energy_j": energy_j, "coverage": coverage, "mean_power_w": power_w,
        "ipw": float(merit.intelligence_per_watt(coverage, power_w)) if power_w else None,
        "ece": float(merit.energy_coverage_efficiency(coverage, energy_j * len(runs))) if energy_j else None,
        "no_answer": sum(outcome["answer"] is None for outcome in runs),
        "certified_share": len(certified) / len(runs),
        "not_the_pools_mode": sum(not o["mode"] for o in certified) / len(certified) if certified else None,
        "brier_of_agreement": brier(agreements, right), "calibration_error": calibration_error(agreements, right),
        "stopped": dict(sorted(reasons.items())),
    }  # fmt: skip


def _one(strategy: Strategy, result: Answered) -> dict[str, Any]:
    pool = [result.greedy] if strategy.rule == "greedy" else result.pool
    progress, decision = replay(strategy, pool)
    given = given_answer(strategy, progress)
    whole = Progress().add(*result.pool).tally
    mode = whole.answers[whole.leader()] if whole.counts else None
    return {
        "answer": given, "right": given == result.question.truth, "mode": given == mode,
        "covered": float(any(sample.answer == result.question.truth for sample in progress.samples)),
        "samples": float(len(progress.samples)), "tokens": float(progress.tokens), "seconds": progress.seconds,
        "joules": progress.joules, "agreement": progress.tally.agreement, "reason": decision.reason,
    }  # fmt: skip


def given_answer(strategy: Strategy, progress: Progress) -> Hashable | None:
    """What a reply says: as the agent does live, nothing where votes are counted and no two samples agree."""
    tally = progress.tally
    if strategy.rule not in {"greedy", "best-of-n"} and tally.samples > 1 and max(tally.counts) == 1:
        return None
    return answer(strategy, progress)


def beta_matched(results: Sequence[Answered], error: float, samples: int) -> Strategy:
    """Beta stopping at the lowest confidence at which it certifies another answer than the pool's mode no more often.

    Its nominal confidence does not hold when one looks after every sample; this is what it must be set to instead.
    """
    best = Strategy("beta", samples, threshold=0.9999)
    for threshold in (0.9999, 0.999, 0.995, 0.99, 0.985, 0.98, 0.97, 0.96, 0.95, 0.925, 0.9, 0.85, 0.8, 0.75, 0.7):
        strategy = Strategy("beta", samples, threshold=threshold)
        settled = [o for o in (_one(strategy, r) for r in results) if o["reason"] == "settled"]
        if settled and sum(not o["mode"] for o in settled) / len(settled) <= error:
            best = strategy
    return best


def wilson(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927, doi:10.2307/2276774). Raises ValueError for total < 1."""
    if total < 1:
        raise ValueError("an interval needs at least one outcome")
    z = student_t.two_sided(CONFIDENCE, 1e9)
    share, z2 = right / total, z * z / total
    middle = (share + z2 / 2) / (1 + z2)
    half = z * math.sqrt(share * (1 - share) / total + z2 / (4 * total)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of values in [0, 1] and its Student-t interval, with two values of 0 and two of 1 added to the spread.

    The four (Agresti & Coull 1998, doi:10.1080/00031305.1998.10480550) keep it honest where few questions agree by
    chance: without them, three questions that all went well would be a chance of 100 %, give or take nothing.
    """
    mean = _mean(values)
    padded = [*values, 0.0, 0.0, 1.0, 1.0]
    middle = _mean(padded)
    spread = math.sqrt(math.fsum((v - middle) ** 2 for v in padded) / (len(padded) - 1) / len(padded))
    half = student_t.two_sided(CONFIDENCE, len(padded) - 1) * spread
    return mean, max(0.0, min(mean, middle - half)), min(1.0, max(mean, middle + half))
