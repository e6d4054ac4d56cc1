"""Perplexity of a model on a text file as WikiText-103 comes: articles under headings like ` = Title = `."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from agent.errors import BadInput, StorageError
from agent.evaluation.questions import line as checked
from agent.evaluation.questions.journal import opened, whole_lines
from agent.evaluation.questions.reading import text_of
from agent.physics import student_t
from agent.records import record

TITLE = re.compile(r"^ = [^=].* = $", re.MULTILINE)
MAX_CHARACTERS = 2000
"""Of a passage: short enough for the context of small models."""
FILE = "passages.jsonl"
LARGEST = 709.0
"""Nats whose exponential is still a number."""


@record(frozen=True)
class Scored:
    """Negative log-probability of a passage, the tokens scored, and those of probability 0, which it leaves out."""

    nats: float
    tokens: int
    impossible: int


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


class Book:
    """passages.jsonl of a run: a header that says what it is of, then a line per passage, on disk as it is scored."""

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        """Raises BadInput where the folder holds passages of something else, or another run writes there."""
        self._path = folder / FILE
        self._file = opened(self._path)
        self.scored: dict[int, Scored] = {}
        try:
            lines = whole_lines(self._path)
            self._read(lines, header)
            if not lines:
                self._write({"header": header})
        except BaseException:
            self._file.close()
            raise

    def add(self, passage: int, scored: Scored) -> None:
        """Keep a passage. Raises StorageError."""
        self._write({"passage": passage, **asdict(scored)})
        self.scored[passage] = scored

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, lines: Sequence[bytes], header: dict[str, Any]) -> None:
        for number, line in enumerate(lines, start=1):
            try:
                if number == 1:
                    there = checked.header(line)
                    differing = [key for key in {**header, **there} if there.get(key) != header.get(key)]
                    if differing:
                        key = differing[0]
                        raise BadInput(
                            f"{self._path.parent} holds passages with {key} {there.get(key)!r}, not "
                            f"{header.get(key)!r}: resume the run as it was begun or choose another --out"
                        )
                    continue
                row = checked.parsed(line, checked.Passage)
            except ValueError as error:
                raise BadInput(f"{self._path}:{number}: no passage ({error}); choose another --out") from error
            self.scored[row.passage] = Scored(row.nats, row.tokens, row.impossible)

    def _write(self, row: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror or error}; the run can be resumed") from error


def measure(
    path: Path, scorer: Scorer, limit: int | None, progressed: Callable[[int, int], None],
    out: Path, header: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """exp of the mean negative log-probability per token, with a 95 % interval over the passages.

    Every passage is scored on its own, without what came before, so the figure is higher than with a sliding window.
    `perplexity` is None where it is infinite (`impossible` tokens, of probability 0) or beyond the largest number, the
    interval also where there is one passage only. Passages are kept in `out`, under `header` and the text's digest.
    """
    text = text_of(path)
    pieces = passages(text)[:limit]
    if not pieces:
        raise BadInput(f"{path}: there is no text in it")
    digest = hashlib.sha256(text.encode()).hexdigest()
    book = Book(out, {**header, "dataset": path.stem, "text_sha256": digest})
    try:
        for number, piece in enumerate(pieces):
            progressed(number, len(pieces))
            if number not in book.scored:
                book.add(number, _scored(scorer.logprobs(piece)))
        return _document(path.stem, [book.scored[number] for number in range(len(pieces))])
    finally:
        book.close()


def _scored(values: Sequence[float]) -> Scored:
    finite = [value for value in values if value > -math.inf]
    return Scored(-math.fsum(finite), len(values), len(values) - len(finite))


def _document(name: str, sums: Sequence[Scored]) -> dict[str, Any]:
    tokens, impossible = sum(s.tokens for s in sums), sum(s.impossible for s in sums)
    if not tokens:
        raise BadInput(f"{name}: no passage has a second token, so there is nothing to score")
    mean = None if impossible else math.fsum(s.nats for s in sums) / tokens
    half = None if mean is None else _half_width(sums, mean, tokens)
    low, high = (None, None) if mean is None or half is None else (_exp(mean - half), _exp(mean + half))
    return {
        "dataset": name, "documents": len(sums), "tokens": tokens, "impossible": impossible, "nats_per_token": mean,
        "perplexity": None if mean is None else _exp(mean), "low": low, "high": high,
    }  # fmt: skip


def _exp(value: float) -> float | None:
    """None where it is no number any more."""
    return math.exp(value) if value < LARGEST else None


def _half_width(sums: Sequence[Scored], mean: float, tokens: int) -> float | None:
    """Of the ratio of sums, by its residuals (Cochran 1977, §6.4); None for one passage."""
    if len(sums) < 2:
        return None
    residual = math.fsum((s.nats - mean * s.tokens) ** 2 for s in sums) * len(sums) / (len(sums) - 1)
    return student_t.two_sided(0.95, len(sums) - 1) * math.sqrt(residual) / tokens
