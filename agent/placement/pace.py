"""Pace: how often requests can follow each other when those before are still on their way through the board.

The pipelined period of a placement is the busy time of its busiest unit. A unit is a piece of silicon, which works on
one stage at a time and takes in what crosses to it, or a memory domain, whose bandwidth stages that are bound by it
have one after another: taking them as exclusive makes the period an upper bound where one alone would not fill it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.placement.pareto import nondominated
from agent.placement.problem import Bools, Floats, Problem
from agent.records import record

LIMITS = 16
"""Periods for which the cheapest pipeline is sought."""
MAX_UNITS = 7
"""Units over which pipelines are sought; their number grows with 2^units."""


@record(frozen=True, eq=False)
class Pace:
    """Busy seconds of units: `busy` [L, D, U] by stage, `crossing` [L-1, D, D, U] by entry; `units` names them."""

    busy: Floats
    crossing: Floats
    units: tuple[str, ...]

    def period_s(self, assignments: ArrayLike) -> Floats:
        """Pipelined period of each assignment [n, L], in s."""
        rows = np.atleast_2d(np.asarray(assignments)).astype(np.intp)
        stage, link = np.arange(len(self.busy)), np.arange(len(self.crossing))
        total = self.busy[stage, rows].sum(axis=1) + self.crossing[link, rows[:, :-1], rows[:, 1:]].sum(axis=1)
        period: Floats = total.max(axis=1)
        return period


def pace_of(latency: Floats, transfer: Floats, silicon: tuple[str, ...], domain: tuple[str, ...], bound: Bools) -> Pace:
    """Pace of plain tables.

    latency: [L, D] in s; transfer: [L-1, D, D] in s, charged to where it goes; silicon, domain: unit and memory domain
    of each accelerator [D]; bound: whether the stage is bound by the domain's bandwidth there [L, D].
    """
    units = tuple(dict.fromkeys((*silicon, *(f"memory {name}" for name in domain))))
    busy = np.zeros((*latency.shape, len(units)))
    crossing = np.zeros((*transfer.shape, len(units)))
    for at, (unit, home) in enumerate(zip(silicon, domain, strict=True)):
        busy[:, at, units.index(unit)] = latency[:, at]
        busy[:, at, units.index(f"memory {home}")] = np.where(bound[:, at], latency[:, at], 0.0)
        crossing[:, :, at, units.index(unit)] = transfer[:, :, at]
    return Pace(busy, crossing, units)


def pipelines(problem: Problem, pace: Pace, silicon: tuple[str, ...]) -> NDArray[np.int8]:
    """Assignments [n, L] that use each piece of silicon for one run of stages: least energy for a range of periods.

    Exact among such runs for each of `LIMITS` periods but for memory, which is only checked, and for bandwidth that
    domains share, which is not looked at here; beyond `MAX_UNITS` pieces of silicon there are none.
    """
    units = tuple(dict.fromkeys(silicon))
    if len(units) > MAX_UNITS:
        return np.zeros((0, problem.stage_count), dtype=np.int8)
    unit = [units.index(name) for name in silicon]
    fastest = np.where(problem.allowed, problem.latency, np.inf).min(axis=1)
    low, high = max(float(fastest.max()), float(fastest.sum()) / len(units)), float(fastest.sum()) * 4.0
    if low <= 0.0:
        return np.zeros((0, problem.stage_count), dtype=np.int8)
    found = [_cheapest(problem, unit, len(units), limit) for limit in np.geomspace(low, high, LIMITS)]
    rows = np.array([row for row in found if row is not None], dtype=np.int8).reshape(-1, problem.stage_count)
    rows = np.unique(rows[problem.feasible(rows)], axis=0) if len(rows) else rows
    if not len(rows):
        return rows
    kept = nondominated(np.stack([problem.objectives(rows)[:, 0], pace.period_s(rows)], axis=1))
    best: NDArray[np.int8] = rows[kept]
    return best


def _cheapest(problem: Problem, unit: list[int], units: int, limit_s: float) -> list[int] | None:
    """Least energy of runs of at most `limit_s` each, every unit once; None where there are none.

    State: units used, last accelerator, stages done. Runs are tried all at once as a matrix of begin and end.
    """
    stages, count = problem.latency.shape
    seconds, joules = _runs(problem.latency, problem.allowed), _runs(problem.energy, problem.allowed)
    best = np.full((1 << units, count, stages + 1), np.inf)
    back: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    for at in range(count):
        run = np.where(seconds[at, 0] <= limit_s, joules[at, 0], np.inf)
        best[1 << unit[at], at] = np.minimum(best[1 << unit[at], at], run)
    for used in range(1, 1 << units):
        for last in range(count):
            if not np.isfinite(best[used, last]).any():
                continue
            for at in range(count):
                if not used >> unit[at] & 1:
                    _extend(
                        problem, best, back, (used, last, at), used | 1 << unit[at], seconds[at], joules[at], limit_s
                    )
    final = best[:, :, stages]
    if not np.isfinite(final).any():
        return None
    used, last = (int(i) for i in np.unravel_index(int(final.argmin()), final.shape))
    return _walk(back, used, last, stages)


def _extend(
    problem: Problem, best: Floats, back: dict[tuple[int, int, int], tuple[int, int, int]],
    move: tuple[int, int, int], then: int, seconds: Floats, joules: Floats, limit_s: float,
) -> None:  # fmt: skip
    """Append a run on accelerator `at` to everything that ends with accelerator `last` after `used`."""
    used, last, at = move
    stages = problem.stage_count
    enter_s, enter_j = np.zeros(stages + 1), np.zeros(stages + 1)
    enter_s[1:stages] = problem.transfer_latency[:, last, at]
    enter_j[1:stages] = problem.transfer_energy[:, last, at]
    total = best[used, last][:, None] + enter_j[:, None] + joules
    total = np.where(seconds + enter_s[:, None] <= limit_s, total, np.inf)
    total[0] = np.inf
    begin = total.argmin(axis=0)
    cost = total[begin, np.arange(stages + 1)]
    for end in np.flatnonzero(cost < best[then, at]):
        best[then, at, end] = cost[end]
        back[then, at, int(end)] = (used, last, int(begin[end]))


def _runs(table: Floats, allowed: Bools) -> Floats:
    """Sum of a table over stages begin..end-1 on each accelerator, [D, L+1, L+1]; infinite where empty or forbidden."""
    stages, count = table.shape
    total = np.concatenate([np.zeros((1, count)), np.cumsum(table, axis=0)])
    bad = np.concatenate([np.zeros((1, count)), np.cumsum(~allowed, axis=0)])
    sums = (total[None, :, :] - total[:, None, :]).transpose(2, 0, 1)
    barred = (bad[None, :, :] - bad[:, None, :]).transpose(2, 0, 1) > 0
    after = np.triu(np.ones((stages + 1, stages + 1), dtype=bool), 1)
    result: Floats = np.where(after & ~barred, sums, np.inf)
    return result


def _walk(back: dict[tuple[int, int, int], tuple[int, int, int]], used: int, last: int, end: int) -> list[int]:
    row: list[int] = []
    while (used, last, end) in back:
        before = back[used, last, end]
        row = [last] * (end - before[2]) + row
        used, last, end = before
    return [last] * end + row
