"""Limits: what a point of a front must keep, what it is short of, and the smallest relaxation that admits one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from agent.errors import PlacementError
from agent.placement.problem import Bools, Floats
from agent.records import record

_DIGITS = 6


@record(frozen=True)
class Constraints:
    """Limits that a point must keep; None is no limit."""

    deadline_s: float | None = None
    power_cap_w: float | None = None
    energy_cap_j: float | None = None
    temperature_cap_c: float | None = None
    quality_floor: float | None = None


@record(frozen=True, eq=False)
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
    """Names the constraint that can be relaxed least, relative to its limit, to admit a point, and to which value.

    Where no single one does, the values of all that must give way together; none of them may stay any tighter.
    """
    over = np.stack([(limit.values - limit.limit) / max(abs(limit.limit), 1e-9) for limit in limits])
    over = np.maximum(over, 0.0)
    # A point whose only broken limit is this one; else the one whose limits give way least.
    single = (over > 0.0).sum(axis=0) == 1
    worst, total = over.max(axis=0), over.sum(axis=0)
    at = int(np.lexsort((total, worst, ~single))[0])
    broken = [limit for limit, excess in zip(limits, over[:, at], strict=True) if excess > 0.0]
    needs = {limit.name: abs(outward(float(limit.values[at]))) for limit in broken}
    first = broken[int(np.argmax([(limit.values[at] - limit.limit) / max(abs(limit.limit), 1e-9) for limit in broken]))]
    kept = " and ".join(f"{limit.name} {abs(limit.limit):g} {limit.unit}".rstrip() for limit in broken)
    would = " and ".join(f"{needs[limit.name]:.{_DIGITS}g} {limit.unit}".rstrip() for limit in broken)
    together = " together" if len(broken) > 1 else ""
    return PlacementError(
        f"no placement keeps {kept}{together}; {would} would admit one",
        constraint=first.name, limit=abs(first.limit), relaxed=needs[first.name], relaxations=needs,
    )  # fmt: skip


def outward(need: float, digits: int = _DIGITS) -> float:
    """The value to so few digits, rounded up, so that the limit printed admits what it was read from."""
    if need == 0.0 or not math.isfinite(need):
        return need
    exponent = math.floor(math.log10(abs(need))) + 1 - digits
    tried = (float(f"{math.floor(need / 10.0**exponent) + more}e{exponent}") for more in (-1, 0, 1, 2))
    return next(rounded for rounded in tried if rounded >= need)
