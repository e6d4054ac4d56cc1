"""Document: everything an evaluation found, as plain data for JSON, tables and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from agent.errors import BadInput
from agent.evaluation.questions import matching, pricing, scoring
from agent.evaluation.questions.journal import Samples
from agent.evaluation.questions.question import Questions
from agent.evaluation.questions.scoring import Answered
from agent.physics import merit
from agent.records import record
from agent.sampling import majority
from agent.sampling.strategy import Certify, Strategy

STANDARD, BATCH = "standard", "greedy-v1"
PAPERS = (STANDARD, BATCH, "qeil")
"""The papers' three ways: each sample by itself; all of them as a batch; a batch at a time for as long as it pays."""


@record(frozen=True)
class Worth:
    """What a right answer is worth, in joules or in the cost of samples."""

    amount: float
    unit: Literal["J", "samples"]

    def __str__(self) -> str:
        return f"worth {self.amount:g} {self.unit}"


def answered(questions: Questions, journal: Samples, samples: int) -> list[Answered]:
    """Every question with its whole pool. Raises BadInput where samples are missing."""
    found = []
    for question in questions.questions:
        pool, greedy = journal.samples(question.id)[:samples], journal.greedy.get(question.id)
        if greedy is None or len(pool) < samples:
            raise BadInput(f"question {question.id} has {len(pool)} of {samples} samples: resume the run first")
        batches = journal.batches(question.id, samples)
        found.append(scoring.answered(question, greedy, pool, batches))
    return found


def strategies(
    names: Sequence[str], samples: int, alpha: float, worth: Worth | None, results: Sequence[Answered]
) -> dict[str, Strategy]:
    """The strategies of these names on pools of `samples`. Raises BadInput for an unknown name."""
    scored = all(s.mean_logprob is not None for r in results for s in r.pool)
    makers: dict[str, Callable[[], dict[str, Strategy]]] = {
        "greedy": lambda: {"greedy": Strategy("greedy", 1)},
        "majority": lambda: {f"majority of {samples}": Strategy("majority", samples)},
        "best-of-n": lambda: {f"best of {samples}": Strategy("best-of-n", samples)} if scored else {},
        "beta": lambda: {"beta 0.95": Strategy("beta", samples)},
        "beta-matched": lambda: _named(scoring.beta_matched(results, alpha, samples)),
        "doubling": lambda: {"doubling": Strategy("doubling", min(8, samples))},
        "csvet": lambda: _certified(samples, alpha, worth),
        STANDARD: lambda: {STANDARD: Strategy("majority", samples)},
        BATCH: lambda: {BATCH: Strategy("majority", samples)},
        "csvet-majority": lambda: _majority(samples, alpha, worth),
        "qeil": lambda: {"qeil": _worth(Strategy("csvet", samples, alpha, certify=_certify(samples)), worth)},
    }
    unknown = [name for name in names if name not in makers]
    if unknown:
        raise BadInput(f"unknown strategy {unknown[0]!r}; known: {', '.join(makers)}")
    return {label: strategy for name in names for label, strategy in makers[name]().items()}


def _named(matched: Strategy) -> dict[str, Strategy]:
    return {f"beta {matched.threshold:g}, tuned": matched}


def _certified(samples: int, alpha: float, worth: Worth | None) -> dict[str, Strategy]:
    made = {f"csvet {alpha:g}": Strategy("csvet", samples, alpha)}
    if worth is not None:
        made[f"csvet {alpha:g}, {worth}"] = _worth(Strategy("csvet", samples, alpha), worth)
    return made


def _majority(samples: int, alpha: float, worth: Worth | None) -> dict[str, Strategy]:
    """csvet that certifies what the whole pool would vote for; none for pools too large for that."""
    if _certify(samples) == "mode":
        return {}
    name = f"csvet {alpha:g}, of {samples}"
    made = {name: Strategy("csvet", samples, alpha, certify="majority")}
    if worth is not None:
        made[f"{name}, {worth}"] = _worth(made[name], worth)
    return made


def _worth(strategy: Strategy, worth: Worth | None) -> Strategy:
    if worth is None:
        return strategy
    if worth.unit == "J":
        return replace(strategy, worth_j=worth.amount)
    return replace(strategy, worth_samples=worth.amount)


def _certify(samples: int) -> Certify:
    return "majority" if samples <= majority.MAX_SAMPLES else "mode"


def build(
    questions: Questions, model: str, results: Sequence[Answered], compared: dict[str, Strategy],
    provenance: str, price_usd: float | None, checks: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The whole result. Joules, and what follows from them, are None where the server did not say them."""
    samples = len(results[0].pool)
    passes = scoring.pass_at(results, samples)
    one_batch = pricing.one_batch(results)
    priced = {STANDARD: pricing.alone(results)} if STANDARD in compared else {}
    if BATCH in compared:
        priced[BATCH] = pricing.at_once(results, one_batch)
    rows = [scoring.score(name, strategy, priced.get(name, results)) for name, strategy in compared.items()]
    pool = [sample for result in results for sample in result.pool]
    known = all(sample.joules is not None for sample in pool)
    energy_j = sum(sample.joules or 0.0 for sample in pool) if known else None
    seconds, tokens = sum(sample.seconds for sample in pool), sum(sample.tokens for sample in pool)
    power_w = energy_j / seconds if energy_j and seconds > 0 else None
    return {
        "dataset": questions.name, "model": model, "n": len(results), "samples_per_question": samples,
        "pass_at": {str(k): list(v) for k, v in passes.items()},
        "energy_j": energy_j, "mean_power_w": power_w, "provenance": provenance if known else "unknown",
        "ipw": float(merit.intelligence_per_watt(passes[1][0], power_w)) if power_w else None,
        "ece": float(merit.energy_coverage_efficiency(passes[samples][0], energy_j)) if energy_j else None,
        "ppp": (
            float(merit.price_power_performance(tokens / seconds, price_usd, power_w))
            if power_w and price_usd else None
        ),
        "tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds if seconds > 0 else None,
        "samples_used": {row["strategy"]: row["samples"] for row in rows},
        "fits": {"coverage": scoring.coverage_fit(results, samples)},
        "strategies": rows, "matched": matching.matched(results), "eac": checks,
        "one_batch": one_batch.document(energy_j and energy_j / len(results)),
        "no_answer": sum(sample.answer is None for sample in pool),
        "skipped": [{"line": s.line, "reason": s.reason} for s in questions.skipped],
    }  # fmt: skip
