"""Ranking: the order in which whole-model placements are preferred under a policy's objective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.placement import preference
from agent.placement.problem import Floats
from agent.records import record
from agent.schema.policy import Objective


@record(frozen=True)
class Option:
    """One placement's objectives; energy is None where it cannot be modelled."""

    name: str
    energy_j: float | None
    latency_s: float
    underutilisation: float


def rank(options: Sequence[Option], objective: Objective, deadline_s: float | None = None) -> tuple[Option, ...]:
    """Best first, by the same rule as a point of a front is chosen (`agent.placement.preference`).

    Energy counts only if it is known for every option: unknown is neither good nor bad. Ties keep the given order.
    Those that take longer than deadline_s stand behind all that do not.
    """
    if deadline_s is not None:
        late = [o for o in options if o.latency_s > deadline_s]
        if late:
            return rank([o for o in options if o.latency_s <= deadline_s], objective) + rank(late, objective)
    if not options:
        return ()
    rows = objectives(options)
    order = preference.best_first(rows, objective, preference.frame(rows), len(options))
    return tuple(options[int(i)] for i in order)


def objectives(options: Sequence[Option]) -> Floats:
    """Energy [J], latency [s], under-utilisation of each option [n, 3]; energy 1 for all where one is unknown."""
    known = [o.energy_j for o in options if o.energy_j is not None]
    energies = known if len(known) == len(options) else [1.0] * len(options)
    return np.array([[e, o.latency_s, o.underutilisation] for e, o in zip(energies, options, strict=True)])
