"""Checks: what can be asked about an answer, what was found, and what it cost – kept on disk beside the samples.

Every candidate answer of a question is checked once by each, so that the cascade and "every answer verified" can be
replayed on the same verdicts. Free: whether the text says its answer plainly, whether it was written with more than
usual confidence. Cheap: the model itself, asked whether the answer is right. Dear: the model deriving it once more,
or a program that the user brings.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import BadInput, StorageError
from agent.evaluation.questions import line as checked
from agent.evaluation.questions.endpoint import Drawn
from agent.evaluation.questions.extraction import MARK, NAMED, NUMBER, canonical_number, extract
from agent.evaluation.questions.journal import contents
from agent.evaluation.questions.question import Ask, Question
from agent.evaluation.questions.running import Sampler, batch_seed
from agent.sampling.cascade import Outcome

NAMES = ("plain", "logprob", "self_check", "verifier")
FILE = "checks.jsonl"
MAX_CANDIDATES = 4
"""Answers of a question that are checked, in the order of their appearance."""
ASKED = "Is the answer above right? Say only yes or no."
AGAIN = "Work it out once more."
VERIFIER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Verdict:
    """What a check found of an answer. Joules None: the server did not say."""

    outcome: Outcome
    joules: float | None
    provenance: str


@dataclass(frozen=True)
class Program:
    """A verifier of the user's: gets {"question", "answer", "text"} on stdin; exit status 0 passes, 1 fails.

    `joules` is what one call is said to cost. Anything else, and a call that takes too long, says nothing.
    """

    command: str
    joules: float
    timeout_s: float = VERIFIER_TIMEOUT_S

    def __call__(self, question: Question, answer: str, text: str) -> Verdict:
        """Run it once."""
        told = json.dumps({"question": question.text, "answer": answer, "text": text}, ensure_ascii=False)
        try:
            done = subprocess.run(
                shlex.split(self.command), input=told.encode(), capture_output=True, timeout=self.timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            return Verdict("unknown", self.joules, "stated")
        except (OSError, ValueError) as error:
            raise BadInput(f"--verifier {self.command}: {getattr(error, 'strerror', None) or error}") from error
        outcomes: dict[int, Outcome] = {0: "pass", 1: "fail"}
        return Verdict(outcomes.get(done.returncode, "unknown"), self.joules, "stated")


class CheckBook:
    """checks.jsonl of a run: a verdict a line. With a header it is opened for adding, without one only read."""

    def __init__(self, folder: Path, header: dict[str, Any] | None) -> None:
        self._path = path = folder / FILE
        self._known: dict[tuple[str, str, str], Verdict] = {}
        raw = contents(folder, FILE) or b""
        whole = raw[: raw.rfind(b"\n") + 1]
        lines = whole.split(b"\n")[:-1]
        self._read(lines, header)
        self._file = None
        if header is not None:
            if len(whole) < len(raw):
                os.truncate(path, len(whole))
            self._file = path.open("ab")
            if not lines:
                self._write({"header": header})

    def __len__(self) -> int:
        return len(self._known)

    def verdict(self, question: str, answer: str, check: str) -> Verdict | None:
        """What the check found of the answer; None where it was not asked."""
        return self._known.get((question, answer, check))

    def add(self, question: str, answer: str, check: str, verdict: Verdict) -> None:
        """Keep a verdict: on disk when this returns. Raises StorageError."""
        key = {"question": question, "answer": answer, "check": check}
        self._write(key | {"outcome": verdict.outcome, "joules": verdict.joules, "provenance": verdict.provenance})
        self._known[question, answer, check] = verdict

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _read(self, lines: Sequence[bytes], header: dict[str, Any] | None) -> None:
        for number, line in enumerate(lines, start=1):
            try:
                if number == 1:
                    there = checked.header(line)
                    if header is not None and there != header:
                        raise BadInput(f"{self._path} holds verdicts of {there}, not {header}: choose another --out")
                    continue
                row = checked.parsed(line, checked.Checked)
                self._known[row.question, row.answer, row.check] = Verdict(row.outcome, row.joules, row.provenance)
            except ValueError as error:
                raise BadInput(f"{self._path}:{number}: no verdict ({error}); choose another --out") from error

    def _write(self, row: dict[str, Any]) -> None:
        assert self._file is not None  # noqa: S101  (only a book that is being written is added to)
        try:
            self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror or error}; the run can be resumed") from error


def candidates(question: Question, pool: Sequence[Drawn]) -> dict[str, list[Drawn]]:
    """The first answers of the pool in the order of their appearance, each with the samples that gave it."""
    found: dict[str, list[Drawn]] = {}
    for drawn in pool:
        answer = extract(question, drawn.text)
        if answer is not None and (answer in found or len(found) < MAX_CANDIDATES):
            found.setdefault(answer, []).append(drawn)
    return found


def check_all(
    question: Question, pool: Sequence[Drawn], sampler: Sampler, book: CheckBook, seed: int, ask: Ask,
    program: Program | None,
) -> None:  # fmt: skip
    """Ask everything about every candidate of a question that the book does not hold yet.

    A server that refuses a check leaves it unknown; one that is gone ends the run, which can be resumed.
    """
    known = [drawn.mean_logprob for drawn in pool if drawn.mean_logprob is not None]
    usual = statistics.median(known) if known else None
    for answer, drawn in candidates(question, pool).items():
        text = drawn[0].text
        ways: dict[str, Callable[[], Verdict]] = {
            "plain": lambda answer=answer, text=text: _free(_plain(question, answer, text)),  # type: ignore[misc]
            "logprob": lambda drawn=drawn: _free(_sure(drawn, usual)),  # type: ignore[misc]
            "self_check": lambda text=text: _self_check(question, text, sampler, seed, ask),  # type: ignore[misc]
            "verifier": lambda answer=answer, text=text: (  # type: ignore[misc]
                program(question, answer, text) if program else _derived(question, answer, sampler, seed, ask)
            ),
        }
        for name, way in ways.items():
            if book.verdict(question.id, answer, name) is None:
                book.add(question.id, answer, name, way())


def _free(outcome: Outcome) -> Verdict:
    return Verdict(outcome, 0.0, "measured")


def _plain(question: Question, answer: str, text: str) -> Outcome:
    """Whether the text says this answer and no other: marked, named, or the only number that is not the question's."""
    if question.kind == "choice":
        return "pass" if {found.upper() for found in NAMED.findall(text)} == {answer.upper()} else "fail"
    if MARK.search(text):
        return "pass"
    asked = {canonical_number(found) for found in NUMBER.findall(question.text)}
    said = {canonical_number(found) for found in NUMBER.findall(text)} - asked
    return "pass" if said == {answer} else "fail"


def _sure(drawn: Sequence[Drawn], usual: float | None) -> Outcome:
    """Whether the answer's surest sample is surer than the middle one of the question."""
    known = [d.mean_logprob for d in drawn if d.mean_logprob is not None]
    if usual is None or not known:
        return "unknown"
    return "pass" if max(known) >= usual else "fail"


def _self_check(question: Question, text: str, sampler: Sampler, seed: int, ask: Ask) -> Verdict:
    """Whether the model says yes; whatever says more than yes or no, beside markup, is unknown."""
    drawn = sampler.sample(f"{question.prompt(ask)}\n\n{text}\n\n{ASKED}", 1, seed, greedy=True)[0]
    said = "".join(char if char.isalnum() else " " for char in drawn.text).strip().casefold()
    outcomes: dict[str, Outcome] = {"yes": "pass", "no": "fail"}
    return Verdict(outcomes.get(said, "unknown"), drawn.joules, drawn.provenance)


def _derived(question: Question, answer: str, sampler: Sampler, seed: int, ask: Ask) -> Verdict:
    """Whether the model comes to the answer again, asked in other words; a batch of its own for every answer."""
    place = batch_seed(seed, question, zlib.crc32(answer.encode()))
    drawn = sampler.sample(f"{AGAIN} {question.prompt(ask)}", 1, place)[0]
    found = extract(question, drawn.text)
    outcome: Outcome = "unknown" if found is None else "pass" if found == answer else "fail"
    return Verdict(outcome, drawn.joules, drawn.provenance)
