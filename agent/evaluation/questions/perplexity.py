"""Perplexity of a model on a text file as WikiText-103 comes: articles under headings like ` = Title = `."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from agent.errors import BadInput
from agent.evaluation.questions.reading import text_of
from agent.physics import student_t

TITLE = re.compile(r"^ = [^=].* = $", re.MULTILINE)
MAX_CHARACTERS = 2000
"""Of a passage: short enough for the context of small models."""


class Scorer(Protocol):
    """What gives log-probabilities."""

    def logprobs(self, text: str) -> list[float]:
        """Natural log-probabilities of the tokens of a text, the first left out."""
        ...


def passages(text: str) -> list[str]:
    """Articles cut into pieces of at most MAX_CHARACTERS at line ends; headings start a piece."""
    starts = [match.start() for match in TITLE.finditer(text)]
    bounds = [0, *[s for s in starts if s > 0], len(text)]
    found: list[str] = []
    for start, end in pairwise(bounds):
        piece = ""
        for line in text[start:end].splitlines(keepends=True):
            for part in (line[i : i + MAX_CHARACTERS] for i in range(0, len(line), MAX_CHARACTERS)):
                if len(piece) + len(part) > MAX_CHARACTERS:
                    found.append(piece)
                    piece = ""
                piece += part
        found.append(piece)
    return [piece for piece in found if piece.strip()]


def measure(path: Path, scorer: Scorer, limit: int | None, progressed: Callable[[int, int], None]) -> dict[str, Any]:
    """exp of the mean negative log-probability per token, with a 95 % interval over the passages.

    Every passage is scored on its own, without what came before, so the figure is higher than with a sliding window.
    """
    pieces = passages(text_of(path))[:limit]
    if not pieces:
        raise BadInput(f"{path}: there is no text in it")
    sums: list[tuple[float, int]] = []
    for number, piece in enumerate(pieces):
        progressed(number, len(pieces))
        values = scorer.logprobs(piece)
        sums.append((-math.fsum(values), len(values)))
    tokens = sum(count for _, count in sums)
    mean = math.fsum(total for total, _ in sums) / tokens
    half = _half_width(sums, mean, tokens)
    return {
        "dataset": path.stem, "documents": len(pieces), "tokens": tokens, "perplexity": math.exp(mean),
        "low": math.exp(mean - half), "high": math.exp(min(700.0, mean + half)),
    }  # fmt: skip


def _half_width(sums: list[tuple[float, int]], mean: float, tokens: int) -> float:
    """Of the ratio of sums, by its residuals (Cochran 1977, §6.4)."""
    if len(sums) < 2:
        return math.inf
    residual = math.fsum((total - mean * count) ** 2 for total, count in sums) * len(sums) / (len(sums) - 1)
    return student_t.two_sided(0.95, len(sums) - 1) * math.sqrt(residual) / tokens
