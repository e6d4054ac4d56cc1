"""Running: draws the pool of samples that all strategies are compared on, in batches, resumable at any point."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

from agent.evaluation.questions.endpoint import Drawn
from agent.evaluation.questions.journal import Journal
from agent.evaluation.questions.question import Ask, Question, Questions
from agent.sampling.strategy import batch_size


class Sampler(Protocol):
    """What questions are put to."""

    def sample(self, prompt: str, count: int, seed: int, greedy: bool = False) -> list[Drawn]:
        """`count` samples of a prompt."""
        ...


Progressed = Callable[[int, int], None]
"""(samples drawn, samples in all)"""


def run(
    questions: Questions,
    sampler: Sampler,
    journal: Journal,
    samples: int,
    seed: int,
    progressed: Progressed,
    ask: Ask = "steps",
) -> None:
    """Draw a greedy answer and `samples` samples of every question that the journal does not hold yet.

    The seed of a batch follows from the run's seed, the question and the place in its pool alone, and batches begin at
    fixed places, so a run that was killed and resumed asks for exactly what an undisturbed one asks for.
    """
    total = len(questions.questions) * (samples + 1)
    done = sum(min(samples, len(journal.samples(q.id))) + (q.id in journal.greedy) for q in questions.questions)
    progressed(done, total)
    for question in questions.questions:
        if question.id not in journal.greedy:
            journal.add(question.id, sampler.sample(question.prompt(ask), 1, seed, greedy=True), greedy=True)
            done += 1
            progressed(done, total)
        while size := batch_size(len(journal.samples(question.id)), samples):
            place = len(journal.samples(question.id))
            drawn = sampler.sample(question.prompt(ask), size, batch_seed(seed, question, place))
            journal.add(question.id, drawn)
            done += size
            progressed(done, total)


def batch_seed(seed: int, question: Question, place: int) -> int:
    """31 bits from the run's seed, the question and the place of the batch in its pool."""
    digest = hashlib.sha256(f"{seed}/{question.id}/{place}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
