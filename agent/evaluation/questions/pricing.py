"""Pricing: what a pool of samples would have cost drawn in other requests than those it was drawn in.

A batch costs its prompt and one reading of the weights for every token, whatever its size, and each of its samples once
more: joules and seconds are taken as a line in the size of the batch, through the means of the batches that were drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agent.evaluation.questions.scoring import Answered
from agent.records import record
from agent.sampling.strategy import Sample

Cost = Callable[[Sample], float | None]


@record(frozen=True)
class OneBatch:
    """Shares of what the batches of a pool took that one batch takes. `sizes` are those it was judged from.

    None: the batches do not tell; then the price is that of the batches as they were drawn, which is more.
    """

    joules: float | None
    seconds: float | None
    sizes: tuple[int, ...]
    batches: int

    def document(self, as_drawn_j: float | None) -> dict[str, Any]:
        """As plain data, with the joules a question took as it was drawn, and takes in one batch."""
        told_j = None if as_drawn_j is None or self.joules is None else as_drawn_j * self.joules
        return {
            "at_once_j": told_j,
            "told": self.joules is not None, "sizes": list(self.sizes), "batches": self.batches,
            "as_drawn_j": as_drawn_j,
        }  # fmt: skip


def alone(results: Sequence[Answered]) -> list[Answered]:
    """The same samples at what they cost where each is a request of its own: the greedy answer's, which was, per token.

    Samples of one batch share the prompt and the reading of the weights; inference without that is what the papers
    call standard.
    """
    return [replace(r, pool=tuple(_as_costly(sample, r.greedy) for sample in r.pool)) for r in results]


def _as_costly(sample: Sample, single: Sample) -> Sample:
    share = sample.tokens / max(1, single.tokens)
    return replace(
        sample,
        seconds=single.seconds * share,
        joules=None if single.joules is None else single.joules * share,
    )


def one_batch(results: Sequence[Answered]) -> OneBatch:
    """What all samples of a question cost as one batch, as a share of what the batches that were drawn cost."""
    sizes = sorted({size for r in results for size in r.batches})
    batches = max((len(r.batches) for r in results), default=0)
    if any(sum(r.batches) != len(r.pool) for r in results):
        return OneBatch(None, None, (), batches)
    joules, seconds = _share(results, lambda s: s.joules), _share(results, lambda s: s.seconds)
    return OneBatch(joules, seconds, tuple(sizes if len(sizes) > 1 else sorted({1, *sizes})), batches)


def at_once(results: Sequence[Answered], found: OneBatch) -> list[Answered]:
    """The same samples at what they cost in one batch, each with its share; as drawn where that is not told."""

    def priced(sample: Sample) -> Sample:
        joules = sample.joules if sample.joules is None or found.joules is None else sample.joules * found.joules
        return replace(sample, joules=joules, seconds=sample.seconds * (found.seconds or 1.0))

    return [replace(r, pool=tuple(map(priced, r.pool))) for r in results]


def line(results: Sequence[Answered]) -> tuple[float, float]:
    """Joules of a batch beside its samples and of each of them. Raises ValueError where the batches do not tell."""
    pairs = _batches(results, lambda sample: sample.joules)
    if pairs is None or len({size for size, _ in pairs}) < 2:
        raise ValueError("joules of batches of at least two sizes are needed")
    return _line(pairs)


def _share(results: Sequence[Answered], cost: Cost) -> float | None:
    """At most 1: one batch costs no more than several. At least what the largest batch that was drawn costs."""
    pairs = _batches(results, cost)
    drawn = sum(value for _, value in pairs or ())
    if pairs is None or drawn <= 0.0:
        return None
    if all(len(r.batches) == 1 for r in results):
        return 1.0
    if len({size for size, _ in pairs}) == 1:
        pairs = [*pairs, *((1, single) for r in results if (single := cost(r.greedy)) is not None)]
    means = {size: _mean([value for of, value in pairs if of == size]) for size in {size for size, _ in pairs}}
    if len(means) < 2:
        return None
    base, slope = _line(pairs)
    largest = max(size for r in results for size in r.batches)
    whole = sum(max(base + slope * len(r.pool), means[largest]) for r in results)
    return min(1.0, whole / drawn)


def _batches(results: Sequence[Answered], cost: Cost) -> list[tuple[int, float]] | None:
    """Size and cost of every batch that was drawn; None where one's cost is unknown."""
    pairs: list[tuple[int, float]] = []
    for result in results:
        start = 0
        for size in result.batches:
            each = [cost(sample) for sample in result.pool[start : start + size]]
            start += size
            if any(value is None for value in each):
                return None
            pairs.append((size, sum(value or 0.0 for value in each)))
    return pairs


def _line(pairs: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Least squares: what a batch costs beside its samples, not below nothing, and what a sample more costs."""
    middle, level = _mean([size for size, _ in pairs]), _mean([value for _, value in pairs])
    spread = sum((size - middle) ** 2 for size, _ in pairs)
    slope = max(0.0, sum((size - middle) * (value - level) for size, value in pairs) / spread)
    if slope * middle > level:
        return 0.0, level / middle
    return level - slope * middle, slope


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
