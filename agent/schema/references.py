"""References: names in a file that must be unique, or must be those of something else in it."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def unique(where: str, names: Sequence[str]) -> frozenset[str]:
    """The names as a set. Raises ValueError for one that is there twice."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where}: the name {name!r} is used twice")
    return frozenset(names)


def known(where: str, name: str, names: Collection[str]) -> None:
    """Raises ValueError where the name is not one of those."""
    if name not in names:
        raise ValueError(f"{where}: there is no {name!r} (known: {', '.join(sorted(names)) or 'none'})")
