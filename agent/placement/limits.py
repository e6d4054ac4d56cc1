"""Limits: what a point of a front must keep, what it is short of, and the smallest relaxation that admits one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from agent.errors import PlacementError
from agent.placement.problem import Bools, Floats


@dataclass(frozen=True)
class Constraints:
    """Limits that a point must keep; None is no limit."""

    deadline_s: float | None = None
    power_cap_w: float | None = None
    energy_cap_j: float | None = None
    temperature_cap_c: float | None = None
    quality_floor: float | None = None


@dataclass(frozen=True, eq=False)
class Limit:
    """One limit on all points: `values` [n] must stay at or below `limit` (both negated where higher is better)."""

    name: str
    unit: str
    values: Floats
    limit: float

    def kept(self) -> Bools:
        """Which points keep it, [n]."""
        return self.values <= self.limit


def limits_on(
    rows: Floats,
    wanted: Constraints,
    temperature_c: ArrayLike | None = None,
    quality: ArrayLike | None = None,
    request_s: ArrayLike | None = None,
) -> list[Limit]:
    """The limits that are set, with each point's value.

    rows: energy J, latency s, under-utilisation of each point [n, 3]. request_s: seconds of one request [n], where the
    latency column is a pipelined period; a deadline is about requests. Raises ValueError for a limit without values.
    """
    limits: list[Limit] = []
    if wanted.deadline_s is not None:
        seconds = rows[:, 1] if request_s is None else _given("deadline_s", "request_s", request_s, len(rows))
        limits.append(Limit("deadline_s", "s", seconds, wanted.deadline_s))
    if wanted.power_cap_w is not None:
        power_w = rows[:, 0] / np.maximum(rows[:, 1], 1e-300)
        limits.append(Limit("power_cap_w", "W", power_w, wanted.power_cap_w))
    if wanted.energy_cap_j is not None:
        limits.append(Limit("energy_cap_j", "J", rows[:, 0], wanted.energy_cap_j))
    if wanted.temperature_cap_c is not None:
        values = _given("temperature_cap_c", "temperature_c", temperature_c, len(rows))
        limits.append(Limit("temperature_cap_c", "°C", values, wanted.temperature_cap_c))
    if wanted.quality_floor is not None:
        values = _given("quality_floor", "quality", quality, len(rows))
        limits.append(Limit("quality_floor", "", -values, -wanted.quality_floor))
    return limits


def _given(constraint: str, name: str, values: ArrayLike | None, count: int) -> Floats:
    if values is None or np.shape(values) != (count,):
        raise ValueError(f"{constraint} needs {name}: one number for each of the {count} points")
    return np.asarray(values, dtype=np.float64)


def kept_by_all(limits: Sequence[Limit], count: int) -> Bools:
    """Which of `count` points keep every limit."""
    kept = np.ones(count, dtype=np.bool_)
    for limit in limits:
        kept &= limit.kept()
    return kept


def infeasible(limits: list[Limit]) -> PlacementError:
    """Names the constraint that can be relaxed least, relative to its limit, to admit a point."""
    options: list[tuple[float, Limit, float]] = []
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
