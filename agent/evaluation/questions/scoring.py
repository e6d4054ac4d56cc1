"""Scoring: what a pool of samples says of the model, and what each strategy would have made of it at what cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.evaluation.questions.endpoint import Drawn
from agent.evaluation.questions.extraction import extract
from agent.evaluation.questions.question import Question
from agent.physics import merit, scaling, student_t
from agent.sampling.ensemble import brier, calibration_error
from agent.sampling.strategy import Progress, Sample, Strategy, answer, replay

CONFIDENCE = 0.95
POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Sample counts that pass@k is given for, up to the pool's size."""


@dataclass(frozen=True)
class Answered:
    """A question with its pool: greedy first, then samples in the order they were drawn."""

    question: Question
    greedy: Sample
    pool: tuple[Sample, ...]

    @property
    def correct(self) -> int:
        """Samples of the pool that are right."""
        return sum(sample.answer == self.question.truth for sample in self.pool)


def answered(question: Question, greedy: Drawn, pool: Sequence[Drawn]) -> Answered:
    """Extract every sample's answer."""
    return Answered(question, _sample(question, greedy), tuple(_sample(question, drawn) for drawn in pool))


def _sample(question: Question, drawn: Drawn) -> Sample:
    return Sample(extract(question, drawn.text), drawn.tokens, drawn.seconds, drawn.joules, drawn.mean_logprob)


def pass_at(results: Sequence[Answered], samples: int) -> dict[int, tuple[float, float, float]]:
    """k → (mean unbiased pass@k over the questions, low, high); Student-t interval over questions, cut to [0, 1]."""
    found = {}
    counts = np.array([result.correct for result in results])
    for k in (*[p for p in POWERS if p < samples], samples):
        each = merit.pass_at_k(np.full(counts.shape, samples), counts, np.full(counts.shape, k))
        found[k] = _mean_interval(each.tolist())
    return found


def coverage_fit(passes: Mapping[int, tuple[float, float, float]]) -> dict[str, Any]:
    """C(S) = 1 − exp(−α S^β) through the pass@k of the run, or why it cannot be fitted."""
    samples = [float(k) for k in passes]
    report = scaling.fit_coverage({"samples": samples}, [passes[k][0] for k in passes])
    if report.law is None or report.unsupported_because:
        return {"law": "C(S) = 1 - exp(-alpha S^beta)", "unsupported_because": report.unsupported_because}
    law = report.law
    return {
        "law": "C(S) = 1 - exp(-alpha S^beta)", "alpha": law.scale, "alpha_interval": list(law.scale_interval),
        "beta": float(law.exponents[0]), "beta_interval": [float(v) for v in law.exponent_intervals[0]],
        "r_squared": law.r_squared, "confidence": law.confidence, "unsupported_because": None,
    }  # fmt: skip


def score(name: str, strategy: Strategy, results: Sequence[Answered]) -> dict[str, Any]:
    """A strategy's row: right answers with their Wilson interval, samples, tokens, seconds and joules per question."""
    runs = [_one(strategy, result) for result in results]
    right = [outcome["right"] for outcome in runs]
    low, high = wilson(sum(right), len(right))
    agreements = [outcome["agreement"] for outcome in runs]
    joules = [outcome["joules"] for outcome in runs]
    known = all(j is not None for j in joules)
    reasons: dict[str, int] = {}
    for outcome in runs:
        reasons[outcome["reason"]] = reasons.get(outcome["reason"], 0) + 1
    certified = [outcome for outcome in runs if outcome["reason"] == "certified"]
    return {
        "strategy": name, "accuracy": sum(right) / len(right), "accuracy_interval": [low, high],
        "samples": _mean([o["samples"] for o in runs]), "tokens": _mean([o["tokens"] for o in runs]),
        "seconds": _mean([o["seconds"] for o in runs]),
        "energy_j": _mean([float(j) for j in joules if j is not None]) if known else None,
        "no_answer": sum(outcome["answer"] is None for outcome in runs),
        "certified_share": len(certified) / len(runs),
        "not_the_pools_mode": sum(not o["mode"] for o in certified) / len(certified) if certified else None,
        "brier_of_agreement": brier(agreements, right), "calibration_error": calibration_error(agreements, right),
        "stopped": dict(sorted(reasons.items())),
    }  # fmt: skip


def _one(strategy: Strategy, result: Answered) -> dict[str, Any]:
    pool = [result.greedy] if strategy.rule == "greedy" else result.pool
    progress, decision = replay(strategy, pool)
    given = answer(strategy, progress)
    whole = Progress().add(*result.pool).tally
    mode = whole.answers[whole.leader()] if whole.counts else None
    return {
        "answer": given, "right": given == result.question.truth, "mode": given == mode,
        "samples": float(len(progress.samples)), "tokens": float(progress.tokens), "seconds": progress.seconds,
        "joules": progress.joules, "agreement": progress.tally.agreement, "reason": decision.reason,
    }  # fmt: skip


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
    mean = _mean(values)
    if len(values) < 2:
        return mean, 0.0, 1.0
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    half = student_t.two_sided(CONFIDENCE, len(values) - 1) * spread
    return mean, max(0.0, mean - half), min(1.0, mean + half)
