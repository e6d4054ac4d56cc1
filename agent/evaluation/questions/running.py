"""Running: draws the pool of samples that all strategies are compared on, in batches, resumable at any point."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from agent.errors import QeilError
from agent.evaluation.questions import abreast
from agent.evaluation.questions.endpoint import Drawn, OddAnswer
from agent.evaluation.questions.journal import Journal
from agent.evaluation.questions.question import Ask, Question, Questions
from agent.sampling.strategy import batch_size


class Sampler(Protocol):
    """What questions are put to."""

    def sample(self, prompt: str, count: int, seed: int, greedy: bool = False) -> list[Drawn]:
        """`count` samples of a prompt."""
        ...


MAX_FAILED = 10
"""Questions in a row whose answers are none of the protocol: then the server is not one."""

Progressed = Callable[[int, int], None]
"""(samples drawn, samples in all)"""


def run(
    questions: Questions,
    samplers: Sequence[Sampler],
    journal: Journal,
    samples: int,
    seed: int,
    progressed: Progressed,
    ask: Ask = "steps",
) -> dict[str, str]:
    """Draw a greedy answer and `samples` samples of every question that the journal does not hold yet.

    As many questions are in flight as there are samplers; the batches of one come one after the other.

    Returns the questions that failed, each with why: the server's answer was none of the protocol. They are asked
    again when the run is resumed. Raises QeilError after MAX_FAILED of them in a row, and where the server is gone.

    The seed of a batch follows from the run's seed, the question and the place in its pool alone, and batches begin at
    fixed places, so a run that was killed and resumed asks for exactly what an undisturbed one asks for.
    """
    total = len(questions.questions) * (samples + 1)
    done = sum(min(samples, len(journal.samples(q.id))) + (q.id in journal.greedy) for q in questions.questions)
    progressed(done, total)
    failed = Failures()
    counting = threading.Lock()

    def draw(sampler: Sampler, question: Question) -> None:
        nonlocal done
        refused = None
        for size, why in _drawn(question, sampler, journal, samples, seed, ask):
            refused = why
            with counting:
                done += size
                progressed(done, total)
        with counting:
            failed.note(question, refused)

    abreast.each(questions.questions, samplers, draw)
    return failed.why


class Failures:
    """Questions whose answers were none of the protocol."""

    def __init__(self) -> None:
        self.why: dict[str, str] = {}
        self._row = 0

    def note(self, question: Question, why: str | None) -> None:
        """A question is done, None: well. Raises QeilError for the MAX_FAILED-th in a row that failed."""
        self._row = 0 if why is None else self._row + 1
        if why is not None:
            self.why[question.id] = why
        if self._row == MAX_FAILED:
            raise QeilError(f"{self._row} questions in a row failed, the last one because {why}")


def _drawn(
    question: Question, sampler: Sampler, journal: Journal, samples: int, seed: int, ask: Ask
) -> Iterator[tuple[int, str | None]]:
    """Draw what is missing of a question; the sizes of the batches as they come, at last why one is none."""
    try:
        if question.id not in journal.greedy:
            journal.add(question.id, sampler.sample(question.prompt(ask), 1, seed, greedy=True), greedy=True)
            yield 1, None
        while size := batch_size(len(journal.samples(question.id)), samples):
            place = len(journal.samples(question.id))
            journal.add(question.id, sampler.sample(question.prompt(ask), size, batch_seed(seed, question, place)))
            yield size, None
    except OddAnswer as error:
        yield 0, error.message


def batch_seed(seed: int, question: Question, place: int) -> int:
    """31 bits from the run's seed, the question and the place of the batch in its pool."""
    digest = hashlib.sha256(f"{seed}/{question.id}/{place}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
