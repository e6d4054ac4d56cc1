"""Exact Pareto front by label setting over (stage, accelerator), with dominance that is safe for every completion.

A label is a partial assignment of the first stages: energy, latency, Σ busy_util_num (N), Σ busy_den (Q), memory. Label
a replaces b on the same accelerator when it is nowhere worse in
- energy and latency, which only add up;
- N − rQ at both ends of the interval of ratios r that completions of the group can reach. The ratio of a completion
  of a is at least that of b, r_b, exactly when N_a − r_b·Q_a >= N_b − r_b·Q_b, which is linear in r_b;
- what each memory domain could still lack: max(0, used + most that may still come − capacity).
Labels are dropped, too, when a known feasible point is at least as good as the best that any completion can reach.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from agent.placement.bounds import MOST_CELLS, Bounds, bounds
from agent.placement.pareto import Archive, nondominated
from agent.placement.problem import Floats, Problem
from agent.records import record

_BOUND_COMPARISONS = 100
"""What bounding one label costs, in comparisons."""
_BOUNDED = 10_000
"""Labels bounded together, some milliseconds."""


@record(frozen=True)
class ExactFront:
    """Outcome of a label setting run; `complete` false means a bound was hit and the front is unknown."""

    complete: bool
    points: Floats
    assignments: NDArray[np.int8]
    labels: int
    comparisons: int
    evaluations: int


@record(frozen=True, eq=False)
class _Room:
    """Memory domains that can bind, and what later stages may still put into them, [domains, L]."""

    domains: list[int]
    most: Floats
    least: Floats


@record(frozen=True, eq=False)
class _Labels:
    """Labels of one (stage, accelerator): columns energy, latency, N, Q, memory by domain; and where they come from."""

    sums: Floats
    parent: NDArray[np.int64]


def exact_front(
    problem: Problem,
    label_limit: int = 400_000,
    comparison_limit: int = 5_000_000_000,
    evaluation_limit: int = 100_000_000,
    known: tuple[Floats, NDArray[np.int8]] | None = None,
    stop: Callable[[], bool] | None = None,
    paced: bool = False,
) -> ExactFront:
    """The exact front, or `complete=False` once a limit is passed.

    Args:
        problem: the tables.
        label_limit: surviving labels over all stages and accelerators; memory grows with them.
        comparison_limit: pairwise dominance tests; time grows with them, about 4 ns each.
        evaluation_limit: partial assignments scored.
        known: objectives [n, 3] and assignments [n, L] of feasible solutions; the better, the fewer labels survive.
        stop: asked every few milliseconds; true gives up.
        paced: give up as soon as the comparisons run ahead of the stages done.
    """
    run = _Run(problem, label_limit, comparison_limit, evaluation_limit, stop, paced)
    found = run.front(known) if problem.latency.size <= MOST_CELLS else None
    if found is None:
        nothing = np.zeros((0, problem.stage_count), dtype=np.int8)
        return ExactFront(False, np.zeros((0, 3)), nothing, run.labels, run.compared, run.scored)
    return ExactFront(True, found.points, found.assignments, run.labels, run.compared, run.scored)


class _Stopped(Exception):
    """A limit is passed, or the caller wants no more."""


class _Run:
    """One label setting run, and what it has cost."""

    def __init__(
        self,
        problem: Problem,
        label_limit: int,
        comparison_limit: int,
        evaluation_limit: int,
        stop: Callable[[], bool] | None,
        paced: bool,
    ) -> None:
        self.labels, self.compared, self.scored = 0, 0, 0
        self._problem = problem
        self._label_limit = label_limit
        self._comparison_limit = comparison_limit
        self._evaluation_limit = evaluation_limit
        self._stop = stop
        self._paced = paced

    def front(self, known: tuple[Floats, NDArray[np.int8]] | None) -> Archive | None:
        """The exact front, or None once a limit is passed."""
        problem = self._problem
        limits = bounds(problem, self._stop)
        if limits is None:
            return None
        archive = Archive(problem.stage_count, limit=1 << 30)
        if known is not None:
            archive.merge(*known)
        try:
            layers = self._layers(limits, _room(problem), archive)
        except _Stopped:
            return None
        assignments = _trace(layers)
        archive.merge(problem.objectives(assignments), assignments)
        return archive

    def _layers(self, limits: Bounds, room: _Room, archive: Archive) -> list[list[_Labels]]:
        problem, layers = self._problem, list[list[_Labels]]()
        for stage in range(problem.stage_count):
            layer: list[_Labels] = []
            # Labels grow faster than the stages: who is ahead of the pace now will not come in under the limit.
            pace = max((stage + 1) / problem.stage_count, 0.1) if self._paced else 1.0
            for accelerator in range(problem.accelerator_count):
                group = _extend(problem, room.domains, layers[-1] if layers else None, stage, accelerator)
                self.scored += len(group.sums)
                self.compared += _BOUND_COMPARISONS * len(group.sums) if len(archive) else 0
                group = self._bounded(limits, room, archive, group, stage, accelerator)
                # Too many to compare, and too many to keep unless most fall.
                if len(group.sums) <= 4 * self._label_limit:
                    group, tests = _undominated(problem, limits, room, group, stage, self._check)
                    self.compared += tests
                self.labels += len(group.sums)
                over = self.labels > self._label_limit or self.compared > pace * self._comparison_limit
                if over or self.scored > self._evaluation_limit:
                    raise _Stopped
                self._check()
                layer.append(group)
            layers.append(layer)
        return layers

    def _bounded(
        self, limits: Bounds, room: _Room, archive: Archive, group: _Labels, stage: int, accelerator: int
    ) -> _Labels:
        parts = []
        for begin in range(0, max(len(group.sums), 1), _BOUNDED):
            at = slice(begin, begin + _BOUNDED)
            part = _Labels(group.sums[at], group.parent[at])
            parts.append(_within_bounds(self._problem, limits, room, archive, part, stage, accelerator))
            self._check()
        return _Labels(np.concatenate([p.sums for p in parts]), np.concatenate([p.parent for p in parts]))

    def _check(self) -> None:
        if self._stop is not None and self._stop():
            raise _Stopped


def _binding_domains(problem: Problem) -> list[int]:
    """Memory domains that some assignment could overfill."""
    return [
        domain
        for domain in range(len(problem.capacity))
        if np.where(problem.allowed & (problem.domain == domain), problem.memory, 0.0).max(axis=1).sum()
        > problem.capacity[domain]
    ]


def _room(problem: Problem) -> _Room:
    domains = _binding_domains(problem)
    most, least = [], []
    for domain in domains:
        mine = problem.domain == domain
        only_here = ~(problem.allowed & ~mine).any(axis=1)
        cheapest = np.where(problem.allowed, problem.memory, np.inf).min(axis=1)
        most.append(_after(np.where(problem.allowed & mine, problem.memory, 0.0).max(axis=1)))
        least.append(_after(np.where(only_here, cheapest, 0.0)))
    return _Room(domains, np.array(most), np.array(least))


def _after(values: Floats) -> Floats:
    """Sum over the later entries of each entry."""
    return np.concatenate([np.cumsum(values[:0:-1])[::-1], [0.0]])


def _extend(
    problem: Problem, domains: list[int], before: list[_Labels] | None, stage: int, accelerator: int
) -> _Labels:
    own = np.array(
        [
            problem.energy[stage, accelerator],
            problem.latency[stage, accelerator],
            problem.busy_util_num[stage, accelerator],
            problem.busy_den[stage, accelerator],
            *(problem.memory[stage, accelerator] * (problem.domain[accelerator] == domain) for domain in domains),
        ]
    )
    if not problem.allowed[stage, accelerator]:
        return _Labels(np.zeros((0, len(own))), np.zeros(0, dtype=np.int64))
    if before is None:
        return _Labels(own[None, :], np.zeros(1, dtype=np.int64))
    parts, parents = [], []
    for source, group in enumerate(before):
        step = own.copy()
        step[0] += problem.transfer_energy[stage - 1, source, accelerator]
        step[1] += problem.transfer_latency[stage - 1, source, accelerator]
        parts.append(group.sums + step)
        parents.append(np.arange(len(group.sums)) * problem.accelerator_count + source)
    return _Labels(np.concatenate(parts), np.concatenate(parents))


def _within_bounds(
    problem: Problem, limits: Bounds, room: _Room, archive: Archive, group: _Labels, stage: int, accelerator: int
) -> _Labels:
    sums = group.sums
    alive = np.ones(len(sums), dtype=np.bool_)
    for column, domain in enumerate(room.domains):
        alive &= sums[:, 4 + column] + room.least[column, stage] <= problem.capacity[domain]
    kept = np.flatnonzero(alive)
    if len(archive):
        kept = kept[limits.hopeful(sums[kept], stage, accelerator, archive)]
    return _Labels(sums[kept], group.parent[kept])


def _undominated(
    problem: Problem, limits: Bounds, room: _Room, group: _Labels, stage: int, check: Callable[[], None]
) -> tuple[_Labels, int]:
    sums = group.sums
    if len(sums) < 2:
        return group, 0
    high = float(limits.best_ratio(sums, stage).max())
    low = float(limits.ratios[0])
    lacks = [
        np.maximum(0.0, sums[:, 4 + column] + room.most[column, stage] - problem.capacity[domain])
        for column, domain in enumerate(room.domains)
    ]
    keys = np.stack(
        [sums[:, 0], sums[:, 1], low * sums[:, 3] - sums[:, 2], high * sums[:, 3] - sums[:, 2], *lacks], axis=1
    )
    if stage == problem.stage_count - 1:
        keys = np.stack([sums[:, 0], sums[:, 1], 1.0 - sums[:, 2] / sums[:, 3]], axis=1)
    chosen = np.sort(nondominated(keys, check))
    return _Labels(sums[chosen], group.parent[chosen]), len(sums) * len(chosen)


def _trace(layers: list[list[_Labels]]) -> NDArray[np.int8]:
    """Assignments of the labels of the last stage, by following parents."""
    count = len(layers[0])
    accelerator = np.concatenate([np.full(len(group.sums), d) for d, group in enumerate(layers[-1])])
    label = np.concatenate([np.arange(len(group.sums)) for group in layers[-1]])
    assignments = np.zeros((len(label), len(layers)), dtype=np.int8)
    for stage in range(len(layers) - 1, -1, -1):
        assignments[:, stage] = accelerator
        parents = np.zeros(len(label), dtype=np.int64)
        for d, group in enumerate(layers[stage]):
            mine = accelerator == d
            parents[mine] = group.parent[label[mine]]
        label, accelerator = parents // count, parents % count
    return assignments
