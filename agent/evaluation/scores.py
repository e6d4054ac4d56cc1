"""Scores: errors of predictions, summed up by quantity, board, tier and task."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from agent.evaluation.targets import QUANTITIES, Comparison, Quantity
from agent.records import record


@record(frozen=True, slots=True)
class Score:
    """Absolute percentage errors of n comparisons, as fractions; None for none."""

    n: int
    median_ape: float | None
    p90_ape: float | None
    within: float | None
    """Share of measurements inside ± the stated uncertainty."""


def score(comparisons: Iterable[Comparison]) -> Score:
    """Median and 90th percentile of |predicted − measured| / measured."""
    items = list(comparisons)
    if not items:
        return Score(0, None, None, None)
    errors = np.array([item.ape for item in items])
    inside = [item.ape <= item.rel_uncertainty for item in items]
    return Score(len(items), float(np.median(errors)), float(np.quantile(errors, 0.9)), float(np.mean(inside)))


def by_quantity(comparisons: Iterable[Comparison]) -> dict[Quantity, Score]:
    """A score for each of latency, throughput, power and energy."""
    items = list(comparisons)
    return {quantity: score(c for c in items if c.quantity == quantity) for quantity in QUANTITIES}


def grouped(
    comparisons: Iterable[Comparison], group_of: Callable[[Comparison], str]
) -> dict[str, dict[Quantity, Score]]:
    """`by_quantity` of each group, in alphabetical order."""
    groups: dict[str, list[Comparison]] = {}
    for item in comparisons:
        groups.setdefault(group_of(item), []).append(item)
    return {name: by_quantity(items) for name, items in sorted(groups.items())}
