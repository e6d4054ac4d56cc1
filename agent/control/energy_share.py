"""Energy share: what a rail measured while inferences ran, divided among the models that ran on it meanwhile.

Requests that overlap on one rail cannot be told apart by a sensor. Each model gets the part that its own modelled
joules have in those of all (or, where the joules of one are unknown, its computing time in that of all), so that the
parts add up to what was measured and nothing is counted twice. Idle energy belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Used(NamedTuple):
    """What a model computed on some accelerators: seconds, and modelled joules, None where they are not known."""

    busy_s: float
    modelled_j: float | None


def shares(busy_j: float, used: Mapping[str, Used]) -> dict[str, float]:
    """Joules of each model that computed at all; their sum is `busy_j`. Nothing where none did."""
    ran = {model: u for model, u in used.items() if u.busy_s > 0}
    if not ran:
        return {}
    joules = [u.modelled_j for u in ran.values()]
    known = [j for j in joules if j is not None]
    by_energy = len(known) == len(joules) and sum(known) > 0
    weights = {model: (u.modelled_j or 0.0) if by_energy else u.busy_s for model, u in ran.items()}
    total = sum(weights.values())
    # Divided first: a product with the smallest numbers would be rounded away.
    return {model: busy_j * (weight / total) for model, weight in weights.items()}


def since(now: Used, then: Used | None) -> Used:
    """What a count rose by; one that was begun anew counts from its beginning."""
    if then is None or now.busy_s < then.busy_s:
        return now
    joules = None if now.modelled_j is None or then.modelled_j is None else max(0.0, now.modelled_j - then.modelled_j)
    return Used(now.busy_s - then.busy_s, joules)


def together(parts: Mapping[str, Used], names: frozenset[str]) -> Used:
    """What a model computed on these accelerators. A split placement counts with the part of it that is on them."""
    busy_s, joules = 0.0, 0.0
    unknown = False
    for label, used in parts.items():
        pieces = label.split("+")
        part = sum(piece in names for piece in pieces) / len(pieces)
        busy_s += used.busy_s * part
        if part > 0 and used.modelled_j is None:
            unknown = True
        joules += (used.modelled_j or 0.0) * part
    return Used(busy_s, None if unknown else joules)
