"""Fronts: the search over every way a board can be set up, merged into one Pareto front with the period of each point.

`goal: throughput` looks for the least energy at every period instead: placements of the front, pipelines over the
board's units, and everything on one choice, whichever are not dominated in energy, period and under-utilisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from agent.errors import PlacementError
from agent.placement.capped import nearest_to_cap
from agent.placement.pace import pipelines
from agent.placement.pareto import beyond_rounding
from agent.placement.problem import Floats
from agent.placement.solve import Result, solve
from agent.placement.tables import Tables
from agent.placement.warm import replan, without
from agent.placement.ways import Way
from agent.records import record
from agent.schema.policy import Goal

Rows = NDArray[np.int8]


@record(frozen=True)
class Placed:
    """One placement: energy [J], latency [s], under-utilisation; pipelined period [s]; the choice of each stage.

    `assignment` counts the choices of all ways, `row` those of the way's own tables.
    """

    objectives: tuple[float, float, float]
    period_s: float
    assignment: tuple[int, ...]
    way: int
    row: tuple[int, ...]


@record(frozen=True)
class Front:
    """A merged front in lexicographic order. `exact`: proven complete in energy, latency and under-utilisation.

    beside: placements off the front that keep the power cap, which nothing on it may do, or come nearest to it.
    """

    method: str
    seed: int
    evaluations: int
    exact: bool
    choices: tuple[str, ...]
    points: tuple[Placed, ...]
    tables: tuple[Tables, ...]
    beside: tuple[Placed, ...] = ()

    @property
    def pool(self) -> tuple[Placed, ...]:
        """What a placement is chosen among."""
        return self.points + self.beside

    def rows(self, goal: Goal = "latency") -> Floats:
        """Energy, latency (or the period, for goal throughput) and under-utilisation of the pool [n, 3]."""
        made = np.array([p.objectives for p in self.pool])
        if goal == "throughput":
            made[:, 1] = [p.period_s for p in self.pool]
        return made

    def places(self, point: Placed) -> tuple[tuple[str, ...], ...]:
        """Accelerators of each stage, one for each phase."""
        return tuple(self.tables[point.way].places[i] for i in point.row)


@record(frozen=True)
class Effort:
    """How to search: as for `solve`; a time budget is shared by all ways. cap_w: power cap to keep, if any."""

    method: str = "pgsam"
    seed: int = 1
    budget_s: float | None = None
    clock: Callable[[], float] | None = None
    cap_w: float | None = None


def search(ways: Sequence[Way], tables: Sequence[Tables], effort: Effort, goal: Goal = "latency") -> Front:
    """Front over all ways, with the tables of each.

    Raises:
        PlacementError: nothing fits under any of them; the reason under the first one.
        ValueError: a method that does not exist.
    """
    budget_s = None if effort.budget_s is None else effort.budget_s / len(tables)
    found = [
        _tried(partial(solve, t.problem, effort.method, effort.seed, None, budget_s, effort.clock)) for t in tables
    ]
    return _front(ways, tables, _in_board_terms(tables, found), effort, goal)


def again(before: Front, ways: Sequence[Way], lost: Sequence[str], effort: Effort, goal: Goal = "latency") -> Front:
    """Front without some accelerators, searched from the placements of the front before.

    Raises PlacementError where a stage is left without an accelerator, or nothing fits.
    """
    budget_s = None if effort.budget_s is None else effort.budget_s / len(before.tables)
    tables: list[Tables] = []
    found: list[Result | PlacementError] = []
    for way, each in enumerate(before.tables):
        gone = [n for n, p in zip(each.problem.accelerators, each.places, strict=True) if set(p) & set(lost)]
        warm = [p.row for p in before.points if p.way == way]
        reduced = _reduced(each, gone)
        if isinstance(reduced, PlacementError):
            tables.append(each)
            found.append(reduced)
        else:
            tables.append(reduced)
            found.append(_tried(partial(replan, reduced.problem, warm, effort.seed, None, budget_s, effort.clock)))
    return _front(ways, tables, _in_board_terms(tables, found, lost), effort, goal)


def _in_board_terms(
    tables: Sequence[Tables], found: Sequence[Result | PlacementError], lost: Sequence[str] = ()
) -> list[Result | PlacementError]:
    """Where memory refuses everything: by what the board and the policy would have to give. The first one tells."""
    told = list(found)
    if any(isinstance(result, Result) for result in found):
        return told
    for at, (each, error) in enumerate(zip(tables, found, strict=True)):
        if isinstance(error, PlacementError) and "relaxation_bytes" in error.context:
            told[at] = each.short(lost) or error
            break
    return told


def _reduced(tables: Tables, gone: Sequence[str]) -> Tables | PlacementError:
    try:
        return replace(tables, problem=without(tables.problem, gone))
    except PlacementError as error:
        return error


def _tried(attempt: Callable[[], Result]) -> Result | PlacementError:
    """The result, or why there is none; a search that was too large is an error, not a way without a placement."""
    try:
        return attempt()
    except PlacementError as error:
        if "labels" in error.context:
            raise
        return error


def _front(
    ways: Sequence[Way],
    tables: Sequence[Tables],
    found: Sequence[Result | PlacementError],
    effort: Effort,
    goal: Goal,
) -> Front:
    solved = [result for result in found if isinstance(result, Result)]
    errors = [error for error in found if isinstance(error, PlacementError)]
    if not solved:
        raise errors[0]
    choices: dict[str, int] = {}
    points: list[Placed] = []
    beside: list[Placed] = []
    for way, (each, result) in enumerate(zip(tables, found, strict=True)):
        labels = [_label(ways[way], places) for places in each.places]
        index = [choices.setdefault(label, len(choices)) for label in labels]
        if isinstance(result, Result):
            points += _placed(way, each, _pool(each, result, goal), index)
            if effort.cap_w is not None and effort.method == "pgsam":
                near = nearest_to_cap(each.problem, result.assignments(), effort.cap_w)
                beside += _placed(way, each, near, index)
    objectives = np.array([p.objectives for p in points])
    if goal == "throughput":
        objectives[:, 1] = [p.period_s for p in points]
    proven = all(r.exact for r in solved) and all(e.context.get("proven", True) for e in errors)
    return Front(
        effort.method, effort.seed, sum(r.evaluations for r in solved),
        goal == "latency" and proven, tuple(choices),
        tuple(points[i] for i in beyond_rounding(objectives)), tuple(tables), tuple(beside),
    )  # fmt: skip


def _label(way: Way, places: Sequence[str]) -> str:
    labels = dict.fromkeys(way.label(name) for name in places)
    return ">".join(labels)


def _pool(tables: Tables, result: Result, goal: Goal) -> Rows:
    """Placements from which the front is taken."""
    rows = result.assignments()
    if goal == "latency" or result.method != "pgsam":
        return rows
    problem = tables.problem
    same = np.repeat(np.arange(problem.accelerator_count, dtype=np.int8)[:, None], problem.stage_count, axis=1)
    parts = [rows, same[problem.feasible(same)]]
    if len(tables.places[0]) == 1:
        parts.append(pipelines(problem, tables.pace, tables.silicon))
    pool: Rows = np.concatenate(parts)
    return pool


def _placed(way: int, tables: Tables, rows: Rows, index: Sequence[int]) -> list[Placed]:
    objectives = tables.problem.objectives(rows).tolist()
    periods = tables.pace.period_s(rows).tolist()
    return [
        Placed((o[0], o[1], o[2]), period_s, tuple(index[i] for i in row), way, tuple(row))
        for o, period_s, row in zip(objectives, periods, rows.tolist(), strict=True)
    ]
