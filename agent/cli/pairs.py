"""Pairs: options such as `--temperature gpu=71.5`, given once for each name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agent.errors import BadInput

PAIR = "NAME=NUMBER"


def pairs(option: str, texts: Sequence[str]) -> dict[str, float]:
    """`gpu=71.5` as a mapping. Raises BadInput for anything else, and for a name that is given twice."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            name, value = "", 0.0
        if not name or not math.isfinite(value):
            raise BadInput(f"{option} {text!r}: write {PAIR} with a finite number, for example gpu=70")
        if name in found:
            raise BadInput(f"{option} {name}: given twice, as {found[name]:g} and as {value:g}; give one of them")
        found[name] = value
    return found
