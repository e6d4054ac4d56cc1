"""Checks: what can be asked about an answer, what was found, and what it cost – kept on disk beside the samples.

Every candidate answer of a question is checked once by each, so that the cascade and "every answer verified" can be
replayed on the same verdicts. Free: whether the text says its answer plainly, whether it was written with more than
usual confidence. Cheap: the model itself, asked whether the answer is right. Dear: the model deriving it once more,
or a program that the user brings.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import zlib
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agent.errors import BadInput, StorageError
from agent.evaluation.questions import line as checked
from agent.evaluation.questions.endpoint import Drawn, OddAnswer
from agent.evaluation.questions.extraction import extract, marked, numbers
from agent.evaluation.questions.journal import contents
from agent.evaluation.questions.labels import named_in
from agent.evaluation.questions.question import Ask, Question
from agent.evaluation.questions.running import Sampler, batch_seed
from agent.records import record
from agent.sampling.cascade import Outcome
from agent.sampling.tally import Tally

NAMES = ("plain", "logprob", "self_check", "verifier")
FILE = "checks.jsonl"
MAX_CANDIDATES = 4
"""Answers of a question that are checked: those with the most votes."""
ASKED = "Is the answer above right? Say only yes or no."
AGAIN = "Work it out once more."
VERIFIER_TIMEOUT_S = 30.0


@record(frozen=True)
class Verdict:
    """What a check found of an answer. Joules None: the server did not say."""

    outcome: Outcome
    joules: float | None
    provenance: str


@record(frozen=True)
class Program:
    """A verifier of the user's: gets {"question", "answer", "text"} on stdin; exit status 0 passes, 1 fails.

    `joules` is what one call is said to cost. Anything else, and a call that takes too long, says nothing.
    """

    command: str
    joules: float
    timeout_s: float = VERIFIER_TIMEOUT_S

    def argv(self) -> list[str]:
        """Its words. Raises BadInput where there are none, or the first is no program that can be run."""
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise BadInput(f"--verifier {self.command}: {error}") from error
        if not words:
            raise BadInput("--verifier names no program")
        if shutil.which(words[0]) is None:
            raise BadInput(f"--verifier {self.command}: there is no program {words[0]} that can be run")
        return words

    def __call__(self, question: Question, answer: str, text: str) -> Verdict:
        """Run it once. What it prints is not kept; one that takes too long is ended with all that it began."""
        told = json.dumps({"question": question.text, "answer": answer, "text": text}, ensure_ascii=False)
        try:
            process = subprocess.Popen(
                self.argv(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise BadInput(f"--verifier {self.command}: {getattr(error, 'strerror', None) or error}") from error
        try:
            process.communicate(told.encode(), self.timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            return Verdict("unknown", self.joules, "stated")
        except BaseException:
            _end(process)
            raise
        outcomes: dict[int, Outcome] = {0: "pass", 1: "fail"}
        return Verdict(outcomes.get(process.returncode, "unknown"), self.joules, "stated")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program with its children: it leads a group of its own, and was not waited for, so the number is its."""
    os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    process.wait()


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
    """The answers of the pool with the most votes, and those that led it at some time, with the samples that gave them.

    A strategy may end at any of them. They are in the order of their appearance.
    """
    found: dict[str, list[Drawn]] = {}
    tally = Tally()
    leaders: set[Hashable] = set()
    for drawn in pool:
        answer = extract(question, drawn.text)
        if answer is not None:
            found.setdefault(answer, []).append(drawn)
            tally = tally.add(answer)
            leaders.update(tally.most(1))
    kept = {*leaders, *tally.most(MAX_CANDIDATES)}
    return {answer: samples for answer, samples in found.items() if answer in kept}


def check_all(
    question: Question, pool: Sequence[Drawn], sampler: Sampler, book: CheckBook, seed: int, ask: Ask,
    program: Program | None,
) -> None:  # fmt: skip
    """Ask everything about every candidate of a question that the book does not hold yet.

    An answer that is none of the protocol leaves a check unknown; a server that is gone ends the run, which can be
    resumed.
    """
    known = [drawn.mean_logprob for drawn in pool if drawn.mean_logprob is not None]
    usual = statistics.median(known) if known else None
    for answer, drawn in candidates(question, pool).items():
        text = drawn[0].text
        derived = partial(_derived, question, answer, sampler, seed, ask)
        ways: dict[str, Callable[[], Verdict]] = {
            "plain": partial(_free, _plain(question, answer, text)),
            "logprob": partial(_free, _sure(drawn, usual)),
            "self_check": partial(_self_check, question, text, sampler, seed, ask),
            "verifier": partial(program, question, answer, text) if program else derived,
        }
        for name, way in ways.items():
            if book.verdict(question.id, answer, name) is None:
                book.add(question.id, answer, name, _answered(way))


def _answered(way: Callable[[], Verdict]) -> Verdict:
    try:
        return way()
    except OddAnswer:
        return Verdict("unknown", None, "unknown")


def _free(outcome: Outcome) -> Verdict:
    return Verdict(outcome, 0.0, "measured")


def _plain(question: Question, answer: str, text: str) -> Outcome:
    """Whether the text says this answer and no other: marked, named, or the only number that is not the question's."""
    if question.kind == "choice":
        return "pass" if named_in(text, [label for label, _ in question.choices]) == {answer} else "fail"
    if marked(text) is not None:
        return "pass"
    said = set(numbers(text)) - set(numbers(question.text))
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
