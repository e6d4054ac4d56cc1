"""Selection: one point of a front by the owner's wishes, stable against near-equal alternatives.

Scores live on objectives mapped so that the front's ideal is 0 and its nadir 1:
- weights: weighted mean of the three;
- knee: distance to the ideal (compromise solution; Marler & Arora 2004, doi:10.1007/s00158-003-0368-6);
- lexicographic: in the given order, whoever is within the tolerance of the best stays, the last objective decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from agent.errors import PlacementError
from agent.placement.problem import Bools, Floats
from agent.schema.policy import Objective, Weights

_COLUMN = {"energy": 0, "latency": 1, "underutilisation": 2}


@dataclass(frozen=True)
class Constraints:
    """Limits that a point must keep; None is no limit."""

    deadline_s: float | None = None
    power_cap_w: float | None = None
    energy_cap_j: float | None = None
    temperature_cap_c: float | None = None
    quality_floor: float | None = None


@dataclass(frozen=True)
class Incumbent:
    """The placement in force: its objectives under the present tables, and what leaving it costs.

    `switch_energy_j` and `switch_latency_s` are the cost of a change (loading, warm-up) spread over the requests that
    are expected to profit from it. A change must then still improve the score by `hysteresis`.
    """

    objectives: tuple[float, float, float]
    hysteresis: float = 0.02
    switch_energy_j: float = 0.0
    switch_latency_s: float = 0.0
    temperature_c: float | None = None
    quality: float | None = None


@dataclass(frozen=True)
class Choice:
    """`index` into the front, or None: the incumbent stays. `score` of the choice: lower is better."""

    index: int | None
    score: float | None
    runner_up: int | None
    why: str


@dataclass(frozen=True, eq=False)
class _Limit:
    name: str
    unit: str
    values: Floats
    limit: float

    def kept(self) -> Bools:
        return self.values <= self.limit


def select(
    points: ArrayLike,
    objective: Objective,
    constraints: Constraints | None = None,
    incumbent: Incumbent | None = None,
    temperature_c: ArrayLike | None = None,
    quality: ArrayLike | None = None,
) -> Choice:
    """Choose one of `points` [n, 3] (energy J, latency s, under-utilisation).

    Args:
        points: the front.
        objective: method, weights, order and tolerance of the policy.
        constraints: limits; `temperature_cap_c` needs `temperature_c`, `quality_floor` needs `quality`.
        incumbent: the placement in force, which stays unless the gain is worth the change.
        temperature_c: predicted hottest junction of each point [n].
        quality: task quality of each point [n], higher is better.

    Raises:
        PlacementError: no point keeps all constraints; names the binding one and its smallest relaxation.
        ValueError: an empty front, or a constraint without its values.
    """
    rows = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    if not len(rows):
        raise ValueError("the front is empty")
    wanted = constraints or Constraints()
    limits = _limits(rows, wanted, temperature_c, quality)
    kept = np.ones(len(rows), dtype=np.bool_)
    for limit in limits:
        kept &= limit.kept()
    stays = incumbent is not None and _incumbent_keeps(incumbent, wanted)
    if not kept.any() and not stays:
        raise _infeasible(limits)
    candidates = np.flatnonzero(kept)
    low, span = _frame(rows)
    costs = rows[candidates]
    if incumbent is not None:
        costs = costs + np.array([incumbent.switch_energy_j, incumbent.switch_latency_s, 0.0])
    own = None if incumbent is None or not stays else np.asarray(incumbent.objectives, dtype=np.float64)
    if objective.method == "lexicographic":
        return _by_order(candidates, costs, objective, own, incumbent)
    scores = _scores((costs - low) / span, objective)
    order = np.argsort(scores, kind="stable")
    runner_up = int(candidates[order[1]]) if len(order) > 1 else None
    how = "closest to the ideal" if objective.method == "knee" else "best weighted sum"
    if own is not None and incumbent is not None:
        now = float(_scores(((own - low) / span)[None, :], objective)[0])
        if not len(order) or now - float(scores[order[0]]) <= incumbent.hysteresis:
            best = int(candidates[order[0]]) if len(order) else None
            return Choice(None, now, best, f"stays: no other is better by more than {incumbent.hysteresis:g}")
    best = int(candidates[order[0]])
    return Choice(best, float(scores[order[0]]), runner_up, f"{how} of {len(candidates)} admissible")


def _frame(rows: Floats) -> tuple[Floats, Floats]:
    low, high = rows.min(axis=0), rows.max(axis=0)
    return low, np.where(high > low, high - low, np.maximum(np.abs(high), 1e-300))


def _scores(scaled: Floats, objective: Objective) -> Floats:
    if objective.method == "knee":
        return np.asarray(np.sqrt((scaled**2).sum(axis=1)))
    weights = objective.weights or Weights(energy=1.0, latency=1.0, underutilisation=1.0)
    share = np.array([weights.energy, weights.latency, weights.underutilisation])
    return np.asarray((scaled * (share / share.sum())).sum(axis=1))


def _by_order(
    candidates: np.ndarray[tuple[int], np.dtype[np.intp]],
    costs: Floats,
    objective: Objective,
    own: Floats | None,
    incumbent: Incumbent | None,
) -> Choice:
    if not len(candidates):
        return Choice(None, None, None, "stays: no other keeps the constraints")
    columns = [_COLUMN[name] for name in objective.order]
    left = np.arange(len(candidates))
    for column in columns[:-1]:
        values = costs[left, column]
        left = left[values <= values.min() * (1.0 + objective.tolerance)]
    left = left[np.argsort(costs[left, columns[-1]], kind="stable")]
    best = int(left[0])
    runner_up = int(candidates[left[1]]) if len(left) > 1 else None
    if own is not None and incumbent is not None:
        slack = 1.0 + objective.tolerance + incumbent.hysteresis
        # The first objective that tells the two apart decides; if none does, there is no reason to move.
        for column in columns:
            if own[column] > costs[best, column] * slack:
                break
            if own[column] * slack < costs[best, column]:
                return Choice(None, None, int(candidates[best]), "stays: better in the objective that decides")
        else:
            return Choice(None, None, int(candidates[best]), "stays: no objective tells the others apart from it")
    names = ", then ".join(objective.order)
    return Choice(int(candidates[best]), None, runner_up, f"best by {names} of {len(candidates)} admissible")


def _limits(
    rows: Floats, wanted: Constraints, temperature_c: ArrayLike | None, quality: ArrayLike | None
) -> list[_Limit]:
    limits: list[_Limit] = []
    if wanted.deadline_s is not None:
        limits.append(_Limit("deadline_s", "s", rows[:, 1], wanted.deadline_s))
    if wanted.power_cap_w is not None:
        power_w = rows[:, 0] / np.maximum(rows[:, 1], 1e-300)
        limits.append(_Limit("power_cap_w", "W", power_w, wanted.power_cap_w))
    if wanted.energy_cap_j is not None:
        limits.append(_Limit("energy_cap_j", "J", rows[:, 0], wanted.energy_cap_j))
    if wanted.temperature_cap_c is not None:
        values = _given("temperature_cap_c", "temperature_c", temperature_c, len(rows))
        limits.append(_Limit("temperature_cap_c", "°C", values, wanted.temperature_cap_c))
    if wanted.quality_floor is not None:
        values = _given("quality_floor", "quality", quality, len(rows))
        limits.append(_Limit("quality_floor", "", -values, -wanted.quality_floor))
    return limits


def _given(constraint: str, name: str, values: ArrayLike | None, count: int) -> Floats:
    if values is None or np.shape(values) != (count,):
        raise ValueError(f"{constraint} needs {name}: one number for each of the {count} points")
    return np.asarray(values, dtype=np.float64)


def _incumbent_keeps(incumbent: Incumbent, wanted: Constraints) -> bool:
    row = np.asarray(incumbent.objectives, dtype=np.float64).reshape(1, 3)
    if wanted.temperature_cap_c is not None and incumbent.temperature_c is None:
        return False
    if wanted.quality_floor is not None and incumbent.quality is None:
        return False
    limits = _limits(row, wanted, [incumbent.temperature_c or 0.0], [incumbent.quality or 0.0])
    return all(bool(limit.kept()[0]) for limit in limits)


def _infeasible(limits: list[_Limit]) -> PlacementError:
    """Names the constraint that can be relaxed least, relative to its limit, to admit a point."""
    options: list[tuple[float, _Limit, float]] = []
    for limit in limits:
        others = np.ones(len(limit.values), dtype=np.bool_)
        for other in limits:
            if other is not limit:
                others &= other.kept()
        if others.any():
            need = float(limit.values[others].min())
            options.append(((need - limit.limit) / max(abs(limit.limit), 1e-300), limit, need))
    if options:
        _, limit, need = min(options, key=lambda option: option[0])
        text = (
            f"no placement keeps {limit.name} {abs(limit.limit):g} {limit.unit}".rstrip()
            + f"; {abs(need):.6g} {limit.unit}".rstrip()
            + " would admit one"
        )
        return PlacementError(text, constraint=limit.name, limit=abs(limit.limit), relaxed=abs(need))
    worst = max(limits, key=lambda limit: float(limit.values.min() - limit.limit) / max(abs(limit.limit), 1e-300))
    names = " and ".join(limit.name for limit in limits)
    text = (
        f"no placement keeps {names} together, nor all but one of them; {worst.name} is farthest off: "
        f"the best placement has {abs(float(worst.values.min())):.6g} {worst.unit}".rstrip()
    )
    return PlacementError(text, constraint=worst.name, limit=abs(worst.limit), relaxed=abs(float(worst.values.min())))
