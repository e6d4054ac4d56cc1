"""Live: every question answered anew by each strategy, by an agent that draws no more samples than the strategy wants.

A replay prices strategies on samples drawn once; this is what they take where they run, with as many questions in
flight for one as for the other. Strategies take turns, some questions at a time, so that none has the quieter hour, and
never mix in the decoder's batch. Sample number i of a question has the same random numbers in every strategy.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from agent.errors import BadInput, StorageError
from agent.evaluation.questions import abreast
from agent.evaluation.questions import line as checked
from agent.evaluation.questions.endpoint import Answer, OddAnswer
from agent.evaluation.questions.journal import contents, opened, whole_lines
from agent.evaluation.questions.question import Ask, Question, Questions
from agent.evaluation.questions.running import Failures, Progressed, batch_seed
from agent.sampling.strategy import Strategy

FILE = "live.jsonl"
TURN = 25
"""Questions of one strategy before the next one has its turn."""


class Answerer(Protocol):
    """What questions are put to."""

    def answer(self, prompt: str, seed: int, plan: dict[str, Any]) -> Answer:
        """The answer of a strategy."""
        ...


class LiveBook:
    """live.jsonl of a run: a header, then an answer a line. With a header it is opened for adding, else only read."""

    def __init__(self, folder: Path, header: dict[str, Any] | None) -> None:
        self._path = path = folder / FILE
        self._adding = threading.Lock()
        self._known: dict[tuple[str, str], Answer] = {}
        self._file = None if header is None else opened(path)
        try:
            raw = contents(folder, FILE) if header is None else None
            lines = whole_lines(path) if header is not None else (raw or b"").split(b"\n")[:-1]
            self.header = self._read(lines)
            if header is not None and not lines:
                self._write({"header": header})
                self.header = header
            elif header is not None and self.header != header:
                key = next(k for k in {**header, **self.header} if self.header.get(k) != header.get(k))
                raise BadInput(
                    f"{path}: a run with {key} {self.header.get(key)!r}, not {header.get(key)!r}: resume it with the "
                    "same options or choose another --out"
                )
        except BaseException:
            self.close()
            raise

    def _read(self, lines: Sequence[bytes]) -> dict[str, Any]:
        header: dict[str, Any] = {}
        for number, line in enumerate(lines, start=1):
            try:
                if number == 1:
                    header = checked.run_header(line)
                    continue
                told = checked.parsed(line, checked.Answered)
                if (told.strategy, told.question) in self._known:
                    raise ValueError(f"question: {told.question!r} was answered by {told.strategy!r} before")
                self._known[told.strategy, told.question] = Answer(**told.answer.model_dump())
            except ValueError as error:
                raise BadInput(f"{self._path}:{number}: no line of live answers ({error})") from error
        return header

    def answer(self, strategy: str, question: str) -> Answer | None:
        """What a strategy answered; None before it has."""
        return self._known.get((strategy, question))

    def strategies(self) -> list[str]:
        """Names, in the order of their first answers."""
        return list(dict.fromkeys(strategy for strategy, _ in self._known))

    def add(self, strategy: str, question: str, answer: Answer) -> None:
        """Keep an answer: on disk when this returns. Raises StorageError."""
        with self._adding:
            self._write({"strategy": strategy, "question": question, "answer": asdict(answer)})
            self._known[strategy, question] = answer

    def _write(self, document: dict[str, Any]) -> None:
        assert self._file is not None  # noqa: S101  (opened for adding)
        try:
            self._file.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror or error}; the run can be resumed") from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def plan_of(strategy: Strategy, question: Question) -> dict[str, Any]:
    """The block `qeil` that asks an agent for a strategy."""
    plan: dict[str, Any] = {"strategy": strategy.rule, "max_samples": strategy.max_samples, "answer": question.kind}
    if strategy.rule == "csvet":
        plan |= {"alpha": strategy.alpha, "certify": strategy.certify}
    optional = {"worth_j": strategy.worth_j, "worth_samples": strategy.worth_samples, "threshold": strategy.threshold}
    plan |= {key: value for key, value in optional.items() if value is not None}
    if question.kind == "choice":
        plan["choices"] = [label for label, _ in question.choices]
    return plan


def ask_all(
    questions: Questions, strategies: dict[str, Strategy], answerers: Sequence[Answerer], book: LiveBook, seed: int,
    progressed: Progressed, ask: Ask = "steps",
) -> dict[str, str]:  # fmt: skip
    """Ask what the book does not hold yet; the questions that failed, each with why. Raises as `running.run`."""
    total = len(questions.questions) * len(strategies)
    done = sum(book.answer(name, q.id) is not None for name in strategies for q in questions.questions)
    progressed(done, total)
    failed = Failures()
    counting = threading.Lock()
    for name, strategy, some in _turns(questions.questions, strategies):

        def draw(answerer: Answerer, question: Question, name: str = name, strategy: Strategy = strategy) -> None:
            nonlocal done
            refused = None
            try:
                found = answerer.answer(
                    question.prompt(ask), batch_seed(seed, question, 0), plan_of(strategy, question)
                )
                book.add(name, question.id, found)
            except OddAnswer as error:
                refused = error.message
            with counting:
                done += 1
                progressed(done, total)
                failed.note(question, refused)

        abreast.each([q for q in some if book.answer(name, q.id) is None], answerers, draw)
    return failed.why


def _turns(
    questions: Sequence[Question], strategies: dict[str, Strategy]
) -> Iterator[tuple[str, Strategy, Sequence[Question]]]:
    """Strategies by turns; who begins changes from turn to turn."""
    named = list(strategies.items())
    for turn, start in enumerate(range(0, len(questions), TURN)):
        for place in range(len(named)):
            name, strategy = named[(place + turn) % len(named)]
            yield name, strategy, questions[start : start + TURN]
