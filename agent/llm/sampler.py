"""Chooses the next token of a row from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agent.errors import BadInput

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
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


def generators(seed: int, rows: int) -> list[np.random.Generator]:
    """A generator for each row; row i draws the same whatever the other rows do."""
    return [np.random.default_rng([seed, row]) for row in range(rows)]


def choose(logits: Floats, options: Sampling, seen: Sequence[int], rng: np.random.Generator) -> int:
    """The next token of one row; `repetition` makes the tokens `seen` so far less likely (arXiv:1909.05858)."""
    values = logits
    if options.repetition != 1.0 and seen:
        values = logits.copy()
        known = np.unique(np.asarray(seen, np.int64))
        held = values[known]
        values[known] = np.where(held > 0, held / options.repetition, held * options.repetition)
    if options.temperature == 0:
        return int(values.argmax())
    keep = np.arange(len(values))
    if 0 < options.top_k < len(values):
        keep = np.argpartition(values, -options.top_k)[-options.top_k :]
    order = keep[np.argsort(-values[keep], kind="stable")]
    scaled = values[order].astype(np.float64) / options.temperature
    chances = np.exp(scaled - scaled[0])
    chances[chances < options.min_p] = 0.0
    chances /= chances.sum()
    before = np.cumsum(chances) - chances
    chances[before >= options.top_p] = 0.0
    cumulative = np.cumsum(chances)
    drawn = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    return int(order[min(int(drawn), len(order) - 1)])
