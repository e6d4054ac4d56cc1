"""Ranking: the order in which whole-model placements are preferred under a policy's objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.schema.policy import Objective, Weights


@dataclass(frozen=True)
class Option:
    """One placement's objectives; energy is None where it cannot be modelled."""

    name: str
    energy_j: float | None
    latency_s: float
    underutilisation: float


def rank(options: Sequence[Option], objective: Objective) -> tuple[Option, ...]:
    """Best first. Energy counts only if it is known for every option: unknown is neither good nor bad.

    weights: sum of weight × (value / best value); lexicographic: the first objective decides among those that are not
    within the tolerance of the best, and so on; knee: equal weights. Ties keep the given order.
    """
    if not options:
        return ()
    columns = _normalised(options)
    if objective.method == "lexicographic":
        order = [key for key in objective.order if key in columns]
        return _lexicographic(options, columns, order, objective.tolerance)
    weights = objective.weights or Weights(energy=1.0, latency=1.0, underutilisation=1.0)
    wanted = weights.model_dump()
    scores = [sum(wanted[key] * column[i] for key, column in columns.items()) for i in range(len(options))]
    return tuple(options[i] for i in sorted(range(len(options)), key=lambda i: (scores[i], i)))


def _normalised(options: Sequence[Option]) -> dict[str, list[float]]:
    energies = [o.energy_j for o in options if o.energy_j is not None]
    columns = {"latency": _relative([o.latency_s for o in options])}
    if len(energies) == len(options):
        columns["energy"] = _relative(energies)
    columns["underutilisation"] = [o.underutilisation for o in options]
    return columns


def _relative(values: Sequence[float]) -> list[float]:
    best = min(values)
    return [v / best if best > 0 else 1.0 + v for v in values]


def _lexicographic(
    options: Sequence[Option], columns: dict[str, list[float]], order: Sequence[str], tolerance: float
) -> tuple[Option, ...]:
    remaining = list(range(len(options)))
    ranked: list[Option] = []
    while remaining:
        best = remaining
        for key in order:
            limit = min(columns[key][i] for i in best) * (1.0 + tolerance)
            best = [i for i in best if columns[key][i] <= limit]
        ranked.append(options[best[0]])
        remaining = [i for i in remaining if i != best[0]]
    return tuple(ranked)
