"""Preference: the one rule by which options are compared, whichever set they come from.

- weights: mean of ln energy, ln latency and under-utilisation, by weight; equal weights on energy and latency order by
  the energy–delay product (Gonzalez & Horowitz 1996, doi:10.1109/4.535411). One percent less energy is worth as much as
  one percent less latency, and the order of two options never depends on which others there are.
- knee: distance to the best of each objective, scaled by the spread of the options (compromise solution; Marler &
  Arora 2004, doi:10.1007/s00158-003-0368-6). This is a property of the set: a knee is one of something.
- lexicographic: in the given order, whoever is within the tolerance of the best stays, the last objective decides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.placement.problem import Floats
from agent.schema.policy import Objective, Weights

COLUMN = {"energy": 0, "latency": 1, "underutilisation": 2}
EQUAL = Weights(energy=1.0, latency=1.0, underutilisation=1.0)
_TINY = 1e-300
"""Keeps logarithms and quotients of zero finite; an option that costs nothing still beats every other."""


def frame(rows: Floats) -> tuple[Floats, Floats]:
    """Lowest value and spread of each objective of `rows` [n, 3], for `scores` of method knee."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    return low, np.where(high > low, high - low, np.maximum(np.abs(high), _TINY))


def terms(rows: Floats) -> Floats:
    """What the weights multiply: ln energy, ln latency, under-utilisation, for rows [n, 3]."""
    made = np.array(rows, dtype=np.float64)
    made[:, :2] = np.log(np.maximum(made[:, :2], _TINY))
    return made


def scores(rows: Floats, objective: Objective, within: tuple[Floats, Floats]) -> Floats:
    """Score of each of `rows` [n, 3] (J, s, 0..1) by method weights or knee; lower is better.

    within: `frame` of the options among which the knee is sought. With method weights a difference of 0.01 is 1 % of
    the weighted geometric mean.
    """
    if objective.method == "knee":
        low, span = within
        return np.asarray(np.sqrt((((rows - low) / span) ** 2).sum(axis=1)))
    share = weight_vector(objective)
    return np.asarray((terms(rows) * (share / share.sum())).sum(axis=1))


def weight_vector(objective: Objective) -> Floats:
    """Weights of energy, latency and under-utilisation as given; equal ones where the objective has none."""
    weights = objective.weights or EQUAL
    return np.array([weights.energy, weights.latency, weights.underutilisation])


def best_first(rows: Floats, objective: Objective, within: tuple[Floats, Floats], most: int) -> NDArray[np.intp]:
    """Indices of the `most` best of `rows` [n, 3], best first.

    Of equals the one of less energy is first, then of less latency, then of less under-utilisation: who is chosen must
    not depend on the order of the options, and never is one that another one beats. True equals keep the given order.
    """
    if objective.method != "lexicographic":
        columns = (rows[:, 2], rows[:, 1], rows[:, 0], scores(rows, objective, within))
        return np.lexsort(columns)[:most]
    left = np.arange(len(rows))
    found: list[int] = []
    while len(left) and len(found) < most:
        found.append(_first(rows, left, objective))
        left = left[left != found[-1]]
    return np.array(found, dtype=np.intp)


def _first(rows: Floats, left: NDArray[np.intp], objective: Objective) -> int:
    columns = [COLUMN[name] for name in objective.order]
    for column in columns[:-1]:
        values = rows[left, column]
        left = left[values <= values.min() * (1.0 + objective.tolerance)]
    kept = rows[left]
    return int(left[np.lexsort((kept[:, 2], kept[:, 1], kept[:, 0], kept[:, columns[-1]]))[0]])
