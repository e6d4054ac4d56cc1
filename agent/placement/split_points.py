"""Split points: placements of a model on several accelerators one after another, and whether one is worth it. Pure.

Candidates are the points of the front (and, for goal throughput, the pipelines) that change accelerator at least once;
a placement that the owner names ("cpu+npu") is searched over every position of its changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from agent.placement import preference
from agent.placement.pace import pipelines
from agent.placement.problem import Floats
from agent.placement.solve import solve
from agent.placement.tables import Tables
from agent.records import record
from agent.schema.policy import Objective

MAX_PARTS = 6
"""Most parts a model is served in: each change of accelerator costs a hand-over."""
EFFORT = 60_000
"""Assignments the search scores."""
MAX_POSITIONS = 200_000
"""Positions of changes that are tried for a placement given by name."""
MIN_GAIN = 0.2
"""Share by which a split must beat the best whole placement: less is within what predictions are off by, and a split
costs a cut, more memory and one more place to fail."""

STAYS = 0.04
"""Share by which a measured time must be better to change who serves: times differ by that from minute to minute."""

Rows = NDArray[np.int8]


@record(frozen=True)
class Part:
    """Stages `begin` to before `end` of the workload on one accelerator. handover_*: of what arrives before them."""

    accelerator: str
    begin: int
    end: int
    time_s: float
    energy_j: float
    handover_s: float
    handover_j: float
    crossing_bytes: float


@record(frozen=True)
class SplitPoint:
    """A placement in parts: energy [J], latency (for goal throughput the pipelined period) [s], under-utilisation."""

    parts: tuple[Part, ...]
    objectives: tuple[float, float, float]

    @property
    def label(self) -> str:
        """The accelerators in order, joined by +."""
        return "+".join(part.accelerator for part in self.parts)


def best(
    tables: Tables, objective: Objective, sizes: Sequence[float], most: int, deadline_s: float
) -> list[SplitPoint]:
    """Up to `most` split points of the front, best first; none that takes longer than deadline_s.

    None within one piece of silicon: its ways to compute differ by less than what predictions of them are off by, and
    every change of them costs a hand-over. sizes: bytes that cross behind each stage of the workload.
    """
    names = list(dict.fromkeys(tables.silicon))
    if len(names) < 2:
        return []  # whatever were found: a search takes a quarter of a second of every start
    found = [solve(tables.problem, evaluations=EFFORT).assignments()]
    if objective.goal == "throughput":
        found.append(pipelines(tables.problem, tables.pace, tables.silicon))
    rows = np.unique(np.concatenate(found), axis=0)
    unit = np.array([names.index(name) for name in tables.silicon])[rows]
    apart = rows[(unit != unit[:, :1]).any(axis=1)]
    return _ordered(tables, apart, objective, sizes, most, deadline_s) if len(apart) else []


def along(
    tables: Tables, names: Sequence[str], objective: Objective, sizes: Sequence[float], most: int
) -> list[SplitPoint]:
    """Up to `most` ways to cut for these accelerators in this order, best first; none where they do not fit.

    Raises ValueError for a name that is no choice of the tables, or an order that cannot be.
    """
    problem = tables.problem
    for name in names:
        if name not in problem.accelerators:
            raise ValueError(f"{name!r} cannot run it (that can: {', '.join(problem.accelerators)})")
    if not 2 <= len(names) <= MAX_PARTS or any(a == b for a, b in pairwise(names)):
        raise ValueError(f"{'+'.join(names)} is no split: name 2 to {MAX_PARTS} accelerators, each other than the last")
    if problem.stage_count < len(names):
        raise ValueError(f"the model has {problem.stage_count} stages, too few for {len(names)} parts")
    index = [problem.accelerators.index(name) for name in names]
    positions = range(1, problem.stage_count)
    rows = []
    for cuts in combinations(positions, len(names) - 1):
        bounds = (0, *cuts, problem.stage_count)
        rows.append(np.repeat(np.array(index, np.int8), np.diff(bounds)))
        if len(rows) >= MAX_POSITIONS:
            break
    return _ordered(tables, np.array(rows, np.int8), objective, sizes, most, float("inf"))


def beats(split: SplitPoint, tables: Tables, whole: str, objective: Objective, in_force: bool) -> bool:
    """Whether the split is worth more than the whole model on that accelerator, by MIN_GAIN unless it runs already."""
    problem = tables.problem
    if whole not in problem.accelerators:
        return False  # its energy is unknown: the two cannot be compared
    row = np.full((1, problem.stage_count), problem.accelerators.index(whole), np.int8)
    other = _objectives(tables, row, objective)
    slack = 1.0 if in_force else 1.0 + MIN_GAIN
    mine = np.array([split.objectives]) * np.array([slack, slack, 1.0])
    both = np.concatenate([other, mine])
    return int(preference.best_first(both, objective, preference.frame(both), 1)[0]) == 1


@record(frozen=True)
class Timed:
    """A split and the seconds of one call of it as measured, hand-overs included."""

    point: SplitPoint
    time_s: float


def fastest_as_measured(
    whole: str, whole_s: float, splits: Sequence[Timed], tables: Tables, static_w: Mapping[str, float],
    objective: Objective, serving: str | None,
) -> str:  # fmt: skip
    """Who is best by measured times: the whole model on that accelerator, or the label of one of the splits.

    Joules follow: what an accelerator draws for being on [W, by name] lasts as long as was measured, the rest stays as
    modelled. Who is not `serving` (None: the whole one is) must be better by STAYS.
    """
    problem = tables.problem
    if whole not in problem.accelerators:
        return whole  # its energy is unknown: the two cannot be compared
    at = problem.accelerators.index(whole)
    row = _objectives(tables, np.full((1, problem.stage_count), at, np.int8), objective)[0]
    longer_s = whole_s - float(problem.latency[:, at].sum())
    rows = [(float(row[0]) + static_w.get(whole, 0.0) * longer_s, whole_s, float(row[2]))]
    for split in splits:
        parts, (energy_j, _, under) = split.point.parts, split.point.objectives
        predicted_s = sum(part.time_s + part.handover_s for part in parts)
        on_j = sum(static_w.get(part.accelerator, 0.0) * part.time_s for part in parts)
        rows.append((energy_j + on_j * (split.time_s / predicted_s - 1.0), split.time_s, under))
    labels = [whole, *(split.point.label for split in splits)]
    slack = np.array([1.0 if label == (serving or whole) else 1.0 + STAYS for label in labels])
    made = np.array(rows) * np.stack([slack, slack, np.ones(len(rows))], axis=1)
    return labels[int(preference.best_first(made, objective, preference.frame(made), 1)[0])]


def _objectives(tables: Tables, rows: Rows, objective: Objective) -> Floats:
    made = np.array(tables.problem.objectives(rows))
    if objective.goal == "throughput":
        made[:, 1] = tables.pace.period_s(rows)
    return made


def _ordered(
    tables: Tables, rows: Rows, objective: Objective, sizes: Sequence[float], most: int, deadline_s: float
) -> list[SplitPoint]:
    problem = tables.problem
    changes = (np.diff(rows, axis=1) != 0).sum(axis=1)
    fitting = (changes > 0) & (changes < MAX_PARTS) & problem.feasible(rows)
    rows = rows[fitting]
    if len(rows):
        rows = rows[problem.objectives(rows)[:, 1] <= deadline_s]
    if not len(rows):
        return []
    points = _objectives(tables, rows, objective)
    order = preference.best_first(points, objective, preference.frame(points), most)
    return [SplitPoint(_parts(tables, rows[i], sizes), _triple(points[i])) for i in order]


def _triple(row: Floats) -> tuple[float, float, float]:
    return float(row[0]), float(row[1]), float(row[2])


def _parts(tables: Tables, row: Rows, sizes: Sequence[float]) -> tuple[Part, ...]:
    problem = tables.problem
    begins = [0, *(int(i) + 1 for i in np.flatnonzero(np.diff(row)))]
    ends = [*begins[1:], len(row)]
    parts = []
    for begin, end in zip(begins, ends, strict=True):
        unit = int(row[begin])
        before = int(row[begin - 1])
        parts.append(
            Part(
                accelerator=problem.accelerators[unit], begin=begin, end=end,
                time_s=float(problem.latency[begin:end, unit].sum()),
                energy_j=float(problem.energy[begin:end, unit].sum()),
                handover_s=float(problem.transfer_latency[begin - 1, before, unit]) if begin else 0.0,
                handover_j=float(problem.transfer_energy[begin - 1, before, unit]) if begin else 0.0,
                crossing_bytes=float(sizes[begin - 1]) if begin else 0.0,
            )
        )  # fmt: skip
    return tuple(parts)
