"""Naming: the catalogue entry that a name means, or what the user could have meant."""

from __future__ import annotations

import difflib

from agent.errors import BadInput
from agent.schema.nearest import listed
from agent.workload.catalogue import CATALOGUE, CatalogueEntry, resolve_name
from agent.workload.catalogue_names import ALIASES

_CUTOFF = 0.55
"""Likeness from which a spelling counts as meant; below it a guess would mislead more than help."""


def entry_of(name: str) -> CatalogueEntry:
    """The entry a name or one of its published spellings means. Raises BadInput with the nearest names."""
    entry = resolve_name(name)
    if entry is None:
        raise BadInput(f"there is no model {name!r} in the catalogue{others(name)}")
    return entry


def meant(name: str) -> str | None:
    """The catalogue's name that is spelt most like `name`; None where nothing is near."""
    spelt = {known.lower(): known for known in CATALOGUE} | {alias.lower(): target for alias, target in ALIASES.items()}
    near = difflib.get_close_matches(name.lower(), list(spelt), 1, _CUTOFF)
    return spelt[near[0]] if near else None


def others(name: str) -> str:
    """The end of a sentence about an unknown name: the nearest one, and the nearest few."""
    near = meant(name)
    return (f" (did you mean {near}?)" if near else "") + f"; {listed(name, CATALOGUE)}"
