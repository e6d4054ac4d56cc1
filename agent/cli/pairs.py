"""Pairs: options such as `--temperature gpu=71.5`, given once for each name."""

from __future__ import annotations

from collections.abc import Sequence

from agent.errors import BadInput

PAIR = "NAME=NUMBER"


def pairs(option: str, texts: Sequence[str]) -> dict[str, float]:
    """`gpu=71.5` as a mapping. Raises BadInput for anything else."""
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise BadInput(f"{option} {text!r}: write {PAIR}, for example gpu=70")
    return found
