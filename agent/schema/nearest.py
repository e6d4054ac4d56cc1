"""Nearest names: what a sentence about an unknown name says of those that there are."""

from __future__ import annotations

from collections.abc import Collection
from difflib import SequenceMatcher
from typing import Final

MOST: Final = 12
"""Names that a sentence lists whole."""
NEAREST: Final = 6
"""Names that it gives of a longer list: those spelled most alike."""


def listed(word: str, names: Collection[str]) -> str:
    """`known: a, b`, all of a short list in its order; of a long one `the nearest of 103: a, b, …`, nearest first."""
    if len(names) <= MOST:
        return f"known: {', '.join(names) or 'none found'}"
    lower = word.strip().lower()
    alike = sorted(names, key=lambda name: -SequenceMatcher(None, lower, name.lower()).ratio())
    return f"the nearest of {len(names)}: {', '.join(alike[:NEAREST])}"
