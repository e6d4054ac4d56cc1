"""Beside: what strategies answered live and took for it, each beside the one that they are compared with.

Every strategy answered the same questions, so differences and shares are over pairs of answers. The interval of a
share is Student's by linearising it (Cochran 1977, Sampling Techniques, 6.4); that of right answers is that of Agresti
and Min (2005, doi:10.1002/sim.1781), which has a width also where no pair differs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from agent.evaluation.questions.endpoint import Answer
from agent.evaluation.questions.extraction import extract
from agent.evaluation.questions.live import LiveBook
from agent.evaluation.questions.question import Question, Questions
from agent.evaluation.questions.scoring import CONFIDENCE, wilson
from agent.physics import student_t


def build(questions: Questions, book: LiveBook, strategies: Sequence[str]) -> dict[str, Any]:
    """Every strategy's row; all but the first have `beside` it. Questions that one of them lacks are left out."""
    names = list(strategies)
    asked = [q for q in questions.questions if all(book.answer(name, q.id) is not None for name in names)]
    rows = [_row(name, _answers(book, name, asked), asked) for name in names] if asked else []
    first = _answers(book, names[0], asked) if asked else []
    for name, row in zip(names[1:], rows[1:], strict=False):
        row["beside"] = _beside(_answers(book, name, asked), first, asked)
    return {
        "dataset": questions.name, "model": str(book.header.get("model")), "n": len(asked),
        "parallel": book.header.get("parallel"), "left_out": len(questions.questions) - len(asked), "live": rows,
        "reference": names[0] if names else None,
        "skipped": [{"line": s.line, "reason": s.reason} for s in questions.skipped],
    }  # fmt: skip


def _answers(book: LiveBook, name: str, asked: Sequence[Question]) -> list[Answer]:
    return [found for q in asked if (found := book.answer(name, q.id)) is not None]


def _right(answers: Sequence[Answer], asked: Sequence[Question]) -> list[bool]:
    pairs = zip(answers, asked, strict=True)
    return [a.text is not None and extract(q, a.text) == q.truth for a, q in pairs]


def _row(name: str, answers: Sequence[Answer], asked: Sequence[Question]) -> dict[str, Any]:
    right = _right(answers, asked)
    joules = _joules(answers)
    count = len(answers)
    seen = {a.provenance for a in answers}
    return {
        "strategy": name, "accuracy": sum(right) / count, "accuracy_interval": list(wilson(sum(right), count)),
        "samples": sum(a.samples for a in answers) / count, "tokens": sum(a.tokens for a in answers) / count,
        "seconds": sum(a.seconds for a in answers) / count,
        "energy_j": None if joules is None else math.fsum(joules) / count,
        "provenance": next((p for p in ("unknown", "modelled", "measured") if p in seen), "unknown"),
        "certified_share": sum(a.certified for a in answers) / count,
        "no_answer": sum(a.text is None for a in answers),
        "stopped": dict(sorted(Counter(a.reason for a in answers).items())), "beside": None,
    }  # fmt: skip


def _beside(answers: Sequence[Answer], first: Sequence[Answer], asked: Sequence[Question]) -> dict[str, Any]:
    """Right answers more, as a share of the questions; tokens and joules as shares of the first strategy's.

    Joules are those of the `energy_pairs` questions where they are known of both.
    """
    more = [a - b for a, b in zip(_right(answers, asked), _right(first, asked), strict=True)]
    told = [(a.joules, b.joules) for a, b in zip(answers, first, strict=True)]
    pairs_j = [(a, b) for a, b in told if a is not None and b is not None]
    texts = [(q, a.text, b.text) for q, a, b in zip(asked, answers, first, strict=True)]
    said = [(a and extract(q, a), b and extract(q, b)) for q, a, b in texts]
    return {
        "right_more": _difference(more), "same_answer": sum(a == b for a, b in said) / len(said),
        "tokens": _share([float(a.tokens) for a in answers], [float(b.tokens) for b in first]),
        "energy_j": _share([a for a, _ in pairs_j], [b for _, b in pairs_j]) if pairs_j else None,
        "energy_pairs": len(pairs_j),
    }  # fmt: skip


def _joules(answers: Sequence[Answer]) -> list[float] | None:
    known = [a.joules for a in answers if a.joules is not None]
    return known if len(known) == len(answers) else None


def _difference(more: Sequence[int]) -> list[float | None]:
    """Mean of what is 1, 0 or -1 for each pair, and its interval: half a pair is added to each of the four kinds."""
    count = len(more) + 2.0
    middle, differing = sum(more) / count, sum(map(abs, more)) + 1.0
    z = student_t.two_sided(CONFIDENCE, 1e9)
    half = z * math.sqrt(differing - count * middle * middle) / count
    return [sum(more) / len(more), max(-1.0, middle - half), min(1.0, middle + half)]


def _mean(values: Sequence[float]) -> list[float | None]:
    """Mean and its interval; no interval of one value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return [mean, None, None]
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    half = student_t.two_sided(CONFIDENCE, len(values) - 1) * math.sqrt(variance / len(values))
    return [mean, mean - half, mean + half]


def _share(own: Sequence[float], whole: Sequence[float]) -> list[float | None] | None:
    """Σ own / Σ whole and its interval; None of nothing."""
    total = math.fsum(whole)
    if total <= 0:
        return None
    share = math.fsum(own) / total
    level = total / len(whole)
    _, low, high = _mean([(o - share * w) / level for o, w in zip(own, whole, strict=True)])
    return [share, None if low is None else share + low, None if high is None else share + high]
