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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.placement.pareto import Archive, nondominated
from agent.placement.problem import Floats, Problem

_RATIO_BITS = 12
_RATIO_STEPS = 33


@dataclass(frozen=True)
class ExactFront:
    """Outcome of a label setting run; `complete` false means a bound was hit and the front is unknown."""

    complete: bool
    points: Floats
    assignments: NDArray[np.int8]
    labels: int
    evaluations: int


@dataclass(frozen=True, eq=False)
class _Suffix:
    """Bounds on what the stages after each (stage, accelerator) must still cost, memory left aside."""

    energy: Floats
    latency: Floats
    ratios: Floats
    surplus: Floats
    """[R, L, D]: the largest Σ (n − r·q) of a completion, for each ratio r."""
    memory_max: Floats
    memory_min: Floats


@dataclass(frozen=True, eq=False)
class _Labels:
    """Labels of one (stage, accelerator): columns energy, latency, N, Q, memory by domain; and where they come from."""

    sums: Floats
    parent: NDArray[np.int64]


def exact_front(
    problem: Problem,
    label_limit: int = 200_000,
    evaluation_limit: int = 2_000_000_000,
    known: Floats | None = None,
    known_assignments: NDArray[np.int8] | None = None,
) -> ExactFront:
    """The exact front, or `complete=False` once more than `label_limit` labels survive or comparisons exceed the limit.

    Args:
        problem: the tables.
        label_limit: surviving labels over all stages and accelerators; memory and time grow with them.
        evaluation_limit: label extensions and pairwise comparisons.
        known: objectives [n, 3] of feasible assignments; the better they are, the fewer labels survive.
        known_assignments: their assignments [n, L].
    """
    domains = _binding_domains(problem)
    suffix = _suffix(problem, domains)
    archive = Archive(problem.stage_count, limit=1 << 30)
    if known is not None and known_assignments is not None and len(known):
        archive.merge(known, known_assignments)
    layers: list[list[_Labels]] = []
    labels, work = 0, 0
    for stage in range(problem.stage_count):
        layer: list[_Labels] = []
        for accelerator in range(problem.accelerator_count):
            group = _extend(problem, domains, layers[-1] if layers else None, stage, accelerator)
            group = _within_bounds(problem, suffix, domains, archive, group, stage, accelerator)
            work += len(group.sums)
            if len(group.sums) > label_limit or work > evaluation_limit:
                return _incomplete(problem, labels, work)
            group, compared = _undominated(problem, suffix, domains, group, stage, accelerator)
            work += compared
            labels += len(group.sums)
            if labels > label_limit or work > evaluation_limit:
                return _incomplete(problem, labels, work)
            layer.append(group)
        layers.append(layer)
    assignments = _trace(layers)
    if len(assignments):
        archive.merge(problem.objectives(assignments), assignments)
    return ExactFront(True, archive.points, archive.assignments, labels, work)


def _incomplete(problem: Problem, labels: int, work: int) -> ExactFront:
    return ExactFront(False, np.zeros((0, 3)), np.zeros((0, problem.stage_count), dtype=np.int8), labels, work)


def _binding_domains(problem: Problem) -> list[int]:
    """Memory domains that some assignment could overfill."""
    return [
        domain
        for domain in range(len(problem.capacity))
        if np.where(problem.allowed & (problem.domain == domain), problem.memory, 0.0).max(axis=1).sum()
        > problem.capacity[domain]
    ]


def _suffix(problem: Problem, domains: list[int]) -> _Suffix:
    stages, count = problem.stage_count, problem.accelerator_count
    forbidden = np.where(problem.allowed, 0.0, np.inf)
    low, high = _ratio_range(problem)
    step = 2.0**-_RATIO_BITS
    ratios = np.unique(np.ceil(np.linspace(low, high, _RATIO_STEPS) / step) * step)
    energy, latency = np.zeros((stages, count)), np.zeros((stages, count))
    surplus = np.zeros((len(ratios), stages, count))
    gain = problem.busy_util_num - ratios[:, None, None] * problem.busy_den
    for stage in range(stages - 2, -1, -1):
        after = stage + 1
        ahead = energy[after] + problem.energy[after] + forbidden[after]
        energy[stage] = (problem.transfer_energy[stage] + ahead).min(axis=1)
        ahead = latency[after] + problem.latency[after] + forbidden[after]
        latency[stage] = (problem.transfer_latency[stage] + ahead).min(axis=1)
        # Utilisation does not see transfers, so the best completion is the same from every accelerator.
        surplus[:, stage, :] = (surplus[:, after] + gain[:, after] - forbidden[after]).max(axis=1)[:, None]
    most, least = [], []
    for domain in domains:
        mine = problem.domain == domain
        occupied = np.where(problem.allowed & mine, problem.memory, 0.0).max(axis=1)
        only_here = ~(problem.allowed & ~mine).any(axis=1)
        forced = np.where(only_here, np.where(problem.allowed, problem.memory, np.inf).min(axis=1), 0.0)
        most.append(_after(occupied))
        least.append(_after(forced))
    empty = np.zeros((0, stages))
    return _Suffix(
        energy, latency, ratios, surplus, np.array(most) if most else empty, np.array(least) if least else empty
    )


def _after(values: Floats) -> Floats:
    """Sum over the later entries of each entry."""
    return np.concatenate([np.cumsum(values[:0:-1])[::-1], [0.0]])


def _ratio_range(problem: Problem) -> tuple[float, float]:
    """Smallest and largest Σ busy_util_num / Σ busy_den of any single pair, rounded outwards to the ratio grid."""
    used = problem.allowed & (problem.busy_den > 0.0)
    ratio = problem.busy_util_num[used] / problem.busy_den[used]
    scale = 2.0**_RATIO_BITS
    return float(np.floor(ratio.min() * scale) / scale), float(np.ceil(ratio.max() * scale) / scale)


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
    problem: Problem,
    suffix: _Suffix,
    domains: list[int],
    archive: Archive,
    group: _Labels,
    stage: int,
    accelerator: int,
) -> _Labels:
    sums = group.sums
    alive = np.ones(len(sums), dtype=np.bool_)
    for column, domain in enumerate(domains):
        alive &= sums[:, 4 + column] + suffix.memory_min[column, stage] <= problem.capacity[domain]
    if len(archive) and alive.any():
        energy = sums[:, 0] + suffix.energy[stage, accelerator]
        latency = sums[:, 1] + suffix.latency[stage, accelerator]
        reach = _ratio_reach(suffix, sums, stage, accelerator)
        # Rounding of the best ratio must not prune what is equal to a member, so members are asked a hair below.
        alive &= archive.may_enter(energy, latency, (1.0 - reach) - 2.0**-50)
    return _Labels(sums[alive], group.parent[alive])


def _ratio_reach(suffix: _Suffix, sums: Floats, stage: int, accelerator: int) -> Floats:
    """A ratio that no completion of each label exceeds."""
    room = sums[:, 2, None] - suffix.ratios * sums[:, 3, None] + suffix.surplus[:, stage, accelerator]
    # The surplus falls as r rises: the first r that cannot be reached bounds all completions.
    blocked = room < 0.0
    first = np.where(blocked.any(axis=1), blocked.argmax(axis=1), len(suffix.ratios) - 1)
    bound: Floats = suffix.ratios[first]
    return bound


def _undominated(
    problem: Problem, suffix: _Suffix, domains: list[int], group: _Labels, stage: int, accelerator: int
) -> tuple[_Labels, int]:
    sums = group.sums
    if len(sums) < 2:
        return group, 0
    high = float(_ratio_reach(suffix, sums, stage, accelerator).max())
    low = float(suffix.ratios[0])
    lacks = [
        np.maximum(0.0, sums[:, 4 + column] + suffix.memory_max[column, stage] - problem.capacity[domain])
        for column, domain in enumerate(domains)
    ]
    keys = np.stack(
        [sums[:, 0], sums[:, 1], low * sums[:, 3] - sums[:, 2], high * sums[:, 3] - sums[:, 2], *lacks], axis=1
    )
    if stage == problem.stage_count - 1:
        keys = np.stack([sums[:, 0], sums[:, 1], 1.0 - sums[:, 2] / sums[:, 3]], axis=1)
    chosen = np.sort(nondominated(keys))
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
