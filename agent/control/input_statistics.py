"""Input statistics: what a model's inputs have looked like, and how far a new one lies from all of them.

Each input is summed up by seven numbers of at most 4,096 of its elements, in blocks so that neighbours stay together.
Their mean and covariance are kept (Welford's update); the distance is Mahalanobis', per dimension, so that about 1 is
ordinary whatever the model. Coarse on purpose: it finds noise, wrong units, wrong scaling and blank sensors, and says
nothing about small deliberate changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from agent.records import record
from agent.schema.bfloat16 import is_bf16, to_floats

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

FEATURES = 7
"""Mean, deviation, smallest, largest, share of zeros, mean step between neighbours, share at either end."""
BLOCKS, BLOCK = 16, 256
RIDGE = 1e-3
"""Of each feature's variance, added so that features that never varied do not make every input infinitely far."""
ENOUGH = 20
"""Inputs before a distance means anything."""
MARGIN = 0.25
"""Share of the learnt range by which a value may lie outside it."""


@record(frozen=True)
class Statistics:
    """What was learnt of one input."""

    count: int
    mean: tuple[float, ...]
    scatter: tuple[tuple[float, ...], ...]
    """Sum of the outer products of deviations (covariance × (count − 1))."""
    low: float
    high: float


def sample(tensor: Array) -> Floats:
    """At most BLOCKS × BLOCK elements: all, or blocks of neighbours spread evenly."""
    flat = tensor.reshape(-1)
    if flat.size <= BLOCKS * BLOCK:
        return np.asarray(flat, np.float64)
    starts = np.linspace(0, flat.size - BLOCK, BLOCKS).astype(np.int64)
    return np.concatenate([flat[s : s + BLOCK] for s in starts]).astype(np.float64)


def features(tensor: Array) -> Floats | None:
    """The numbers that sum an input up; None for texts, empty ones and values that are not finite."""
    if tensor.dtype.kind not in "fiub" or tensor.size == 0:
        return None
    if is_bf16(tensor):
        tensor = to_floats(tensor)
    values = sample(tensor)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    step = float(np.abs(np.diff(values)).mean()) if values.size > 1 else 0.0
    ends = float(((values == low) | (values == high)).mean())
    zeros = float((values == 0).mean())
    return np.array([values.mean(), values.std(), low, high, zeros, step, ends])


def empty() -> Statistics:
    """Nothing learnt yet."""
    zeros = (0.0,) * FEATURES
    return Statistics(0, zeros, (zeros,) * FEATURES, float("inf"), float("-inf"))


def learn(known: Statistics, tensor: Array) -> Statistics:
    """The statistics with one more input; unchanged by one that has no features."""
    found = features(tensor)
    if found is None:
        return known
    count = known.count + 1
    mean = np.array(known.mean)
    delta = found - mean
    mean = mean + delta / count
    scatter = np.array(known.scatter) + np.outer(delta, found - mean)
    low, high = min(known.low, float(found[2])), max(known.high, float(found[3]))
    return Statistics(count, tuple(mean.tolist()), tuple(tuple(row) for row in scatter.tolist()), low, high)


def distance(known: Statistics, tensor: Array) -> float | None:
    """Mahalanobis distance per dimension, ≥ 0; None where too little was learnt or the input has no features."""
    found = features(tensor)
    if found is None or known.count < ENOUGH:
        return None
    covariance = np.array(known.scatter) / (known.count - 1)
    variance = np.diag(covariance)
    floor = RIDGE * np.maximum(variance, (np.abs(np.array(known.mean)) * 1e-2 + 1e-9) ** 2)
    delta = found - np.array(known.mean)
    solved = np.linalg.solve(covariance + np.diag(floor + 1e-12), delta)
    return float(np.sqrt(max(0.0, float(delta @ solved)) / FEATURES))


def outside(known: Statistics, tensor: Array) -> float | None:
    """The value that lies farthest outside the learnt range (widened by MARGIN), None where none does."""
    if known.count < ENOUGH or tensor.dtype.kind not in "fiub" or tensor.size == 0:
        return None
    if is_bf16(tensor):
        tensor = to_floats(tensor)
    slack = MARGIN * (known.high - known.low)
    low, high = float(tensor.min()), float(tensor.max())
    below, above = known.low - slack - low, high - known.high - slack
    if max(below, above) <= 0:
        return None
    return low if below > above else high
