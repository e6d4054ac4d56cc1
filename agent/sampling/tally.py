"""Tally: answers of one question as they come, in the order of their first appearance."""

from __future__ import annotations

from collections.abc import Hashable

from agent.records import record


@record(frozen=True)
class Tally:
    """Immutable counts. `order`: which answer every sample gave, by its index."""

    answers: tuple[Hashable, ...] = ()
    counts: tuple[int, ...] = ()
    order: tuple[int, ...] = ()

    @property
    def samples(self) -> int:
        """Samples that gave an answer."""
        return sum(self.counts)

    def add(self, answer: Hashable) -> Tally:
        """The tally with one more sample."""
        if answer in self.answers:
            index = self.answers.index(answer)
            counts = tuple(c + (i == index) for i, c in enumerate(self.counts))
            return Tally(self.answers, counts, (*self.order, index))
        return Tally((*self.answers, answer), (*self.counts, 1), (*self.order, len(self.answers)))

    def since(self, index: int) -> tuple[int, ...]:
        """Counts of all answers since this one first appeared, that first sample left out.

        Counting a contender only after its first sample makes its identity known beforehand, which is what keeps a test
        of it honest although the answers were not known in advance.
        """
        counts = [0] * len(self.answers)
        for later in self.order[self.order.index(index) + 1 :]:
            counts[later] += 1
        return tuple(counts)

    def leader(self) -> int:
        """Index of the most frequent answer, the earliest where several are. Raises ValueError without samples."""
        if not self.counts:
            raise ValueError("no sample has given an answer yet")
        return max(range(len(self.counts)), key=lambda i: (self.counts[i], -i))

    def most(self, count: int) -> tuple[Hashable, ...]:
        """The answers with the most votes, at most so many, the leader first; the earlier one where votes are level."""
        order = sorted(range(len(self.counts)), key=lambda i: (-self.counts[i], i))
        return tuple(self.answers[i] for i in order[:count])

    def runner_up(self) -> int | None:
        """Index of the second most frequent answer; None while all agree."""
        leader = self.leader()
        others = [i for i in range(len(self.counts)) if i != leader]
        return max(others, key=lambda i: (self.counts[i], -i), default=None)

    @property
    def agreement(self) -> float:
        """Share of the samples that gave the leading answer, 0 without samples."""
        return self.counts[self.leader()] / self.samples if self.counts else 0.0
