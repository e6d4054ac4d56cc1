"""Chooses the next token of a row from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.errors import BadInput
from agent.records import record

Floats = npt.NDArray[np.float32]
_FEW = (256, 4096)
"""Sorting the whole vocabulary at every token costs more than a small model's step; so many usually hold the share."""

_COLUMNS = 64
"""Values of which only the largest counts, where a bound for the best ones is sought."""

_COLD = 1e-6
"""Temperatures below this take the likeliest token; dividing by them would overflow."""


@record(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 takes the likeliest; `top_k` 0, `top_p` 1 and `min_p` 0 leave all in."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "temperature": (self.temperature, 0.0, 5.0), "top_k": (self.top_k, 0, 1 << 20),
            "top_p": (self.top_p, 1e-6, 1.0), "min_p": (self.min_p, 0.0, 1.0),
            "repetition": (self.repetition, 0.1, 10.0), "seed": (self.seed, 0, (1 << 63) - 1),
        }  # fmt: skip
        for name, (value, low, high) in bounds.items():
            if not low <= value <= high:
                raise BadInput(f"{name} is {value}, expected {low:g} to {high:g}")


def log_probabilities(logits: Floats) -> npt.NDArray[np.float64]:
    """Natural logarithms of the softmax."""
    wide = logits.astype(np.float64)
    wide -= wide.max()
    return np.asarray(wide - np.log(np.exp(wide).sum()), np.float64)


def likeliest(logs: npt.NDArray[np.floating[Any]], count: int) -> npt.NDArray[np.int64]:
    """The `count` most probable tokens, best first; of equals the lower number first."""
    if count >= len(logs):
        return np.argsort(-logs, kind="stable")
    if count == 0:
        return np.empty(0, np.int64)
    near = np.flatnonzero(logs >= _below(logs, count))
    return np.asarray(near[np.argsort(-logs[near], kind="stable")][:count], np.int64)


def _below(values: npt.NDArray[Any], count: int) -> Any:
    """A bound that at least `count` values reach and few more do: of so many columns the largest value does.

    One pass over the vocabulary; partitioning all of it takes several times as long.
    """
    width = len(values) // _COLUMNS
    if width < count:
        return np.partition(values, -count)[-count]
    columns = values[: width * _COLUMNS].reshape(_COLUMNS, width).max(axis=0)
    return np.partition(columns, -count)[-count]


def choose(
    logits: Floats,
    options: Sampling,
    seen: Sequence[int],
    rng: np.random.Generator,
    allowed: npt.NDArray[np.int64] | None = None,
) -> int:
    """The next token of one row, one of `allowed` where that is given (at least one).

    `repetition` makes the tokens `seen` so far less likely (arXiv:1909.05858).
    """
    values = logits
    if options.repetition != 1.0 and seen:
        values = logits.copy()
        known = np.unique(np.asarray(seen, np.int64))
        held = values[known]
        values[known] = np.where(held > 0, held / options.repetition, held * options.repetition)
    if allowed is not None:
        values = values[allowed]
    if options.temperature < _COLD:
        place = int(values.argmax())
        return place if allowed is None else int(allowed[place])
    order, chances = _kept(values, options)
    cumulative = np.cumsum(chances)
    drawn = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    place = int(order[min(int(drawn), len(order) - 1)])
    return place if allowed is None else int(allowed[place])


def _kept(values: Floats, options: Sampling) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tokens that may be drawn and their weights, best first where that matters."""
    if 0 < options.top_k < len(values):
        keep = likeliest(values, options.top_k)
        chances = values[keep].astype(np.float64)
    else:
        keep = np.arange(len(values))
        chances = values.astype(np.float64)
    chances /= options.temperature  # in place: passes over a whole vocabulary are what a token costs here
    chances -= chances.max()
    np.exp(chances, out=chances)
    if options.min_p > 0:
        likely = chances >= options.min_p
        keep, chances = keep[likely], chances[likely]
    if options.top_p >= 1.0 and options.top_k == 0:
        return keep, chances  # nothing is cut by rank, so the order is of no account and costs nothing
    order = _best_first(chances, options.top_p)
    total = chances.sum()
    keep, chances = keep[order], chances[order] / total
    before = np.cumsum(chances) - chances
    inside = before < options.top_p
    return keep[inside], chances[inside]


def _best_first(chances: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.int64]:
    """Places of the largest weights in order; only as many as hold the share `top_p`, where those are few."""
    for few in _FEW:
        if top_p < 1.0 and len(chances) > few:
            best = likeliest(chances, few)
            if chances[best].sum() >= top_p * chances.sum():
                return best
    return np.asarray(np.argsort(-chances, kind="stable"), np.int64)
