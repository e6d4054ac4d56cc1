"""Load estimate: how long loading a model on an accelerator may take, from loads that were timed before.

A runtime that compiles tells nothing while it does; what it took before, on this board, is all there is to go by.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Literal

from agent.records import record


@record(frozen=True)
class Subject:
    """What is loaded. unit: accelerator and provider; file: names the content; kept: compiled before and kept."""

    unit: str
    file: str
    kept: bool
    size_bytes: int


@record(frozen=True)
class Estimate:
    """Seconds and where they are from: measured (this file before), modelled (from others' bytes), unknown (None)."""

    expected_s: float | None
    provenance: Literal["measured", "modelled", "unknown"]


def estimate(subject: Subject, seen: Mapping[Subject, float]) -> Estimate:
    """The expectation for a subject. seen: seconds of the last load of each subject."""
    own = [(s.kept == subject.kept, t) for s, t in seen.items() if (s.unit, s.file) == (subject.unit, subject.file)]
    if own:
        return Estimate(max(own)[1], "measured")
    rates = [t / s.size_bytes for s, t in seen.items() if s.unit == subject.unit and s.size_bytes and not s.kept]
    if rates:
        return Estimate(median(rates) * subject.size_bytes, "modelled")
    return Estimate(None, "unknown")


def sentence(unit: str, model: str, elapsed_s: float, told: Estimate) -> str:
    """One line on a load under way."""
    begin = f"{unit} has been loading {model} for {elapsed_s:.0f} s"
    if told.expected_s is None:
        return f"{begin}; how long it takes is not known before it was done once"
    left_s = told.expected_s - elapsed_s
    basis = "as measured last time" if told.provenance == "measured" else "modelled from other models' loads"
    if left_s <= 0:
        return f"{begin}, longer than the {told.expected_s:.0f} s expected ({basis})"
    return f"{begin}, {elapsed_s / told.expected_s:.0%}; about {left_s:.0f} s to go ({basis})"
