"""PGSAM: Pareto-guided simulated annealing with momentum, vectorised over chains.

Each turn scores whole neighbourhoods of a batch of assignments at once. Guided bases are the archive's least explored
members; annealed bases are chains that walk by heat bath on a random weighting of the objectives, with a soft penalty
for memory. Whatever no archive member dominates enters the archive, whoever met it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.placement.moves import (
    Costs,
    Index,
    Rows,
    apply_segments,
    costs,
    segment_sums,
    single_deltas,
    strided_donors,
    uniform_donors,
)
from agent.placement.pareto import Archive
from agent.placement.problem import Floats, Problem
from agent.placement.seeds import seeds, weight_vectors

KINDS = ("block", "strided", "crossover", "exchange")
_PENALTY = 4.0


@dataclass(frozen=True)
class Ablation:
    """Ingredients that can be switched off, to see what each is worth."""

    seeds: bool = True
    macro: bool = True
    exchange: bool = True
    annealing: bool = True
    guidance: bool = True
    momentum: bool = True
    soft_memory: bool = True


@dataclass(frozen=True)
class Tuning:
    """Sizes of the search."""

    chains: int = 12
    guided: int = 12
    cuts: int = 26
    candidates: int = 48
    seed_vectors: int = 48
    archive_limit: int = 8000
    hottest: float = 0.3
    coldest: float = 0.003
    survivors: int = 3000


@dataclass(frozen=True, eq=False)
class _Scored:
    """A neighbourhood: sums [K, B, M] of B bases, and how to build child m of base b."""

    sums: Floats
    build: Callable[[Index, Index], Rows]


class Search:
    """One run; `step` may be called as long as there is budget, and `archive` is the best so far at any time."""

    def __init__(
        self, problem: Problem, seed: int, ablation: Ablation = Ablation(), tuning: Tuning = Tuning(),
        warm: Rows | None = None,
    ) -> None:
        self.problem, self.ablation, self.tuning = problem, ablation, tuning
        self.rng = np.random.default_rng(seed)
        self.tables: Costs = costs(problem)
        self.archive = Archive(problem.stage_count, tuning.archive_limit)
        self.evaluations = 0
        self.turn = 0
        self.credit = np.ones(len(KINDS))
        start = self._start(warm)
        self.evaluations += len(start)
        self.offer(start)
        pick = np.arange(tuning.chains) % len(start)
        self.chains = start[pick]
        self.weights = weight_vectors(self.rng, tuning.chains)

    def _start(self, warm: Rows | None) -> Rows:
        allowed, rng = self.problem.allowed, self.rng
        parts: list[Rows] = [] if warm is None else [warm]
        parts.append(uniform_donors(allowed, random_rows(allowed, rng, 1))[0])
        if self.ablation.seeds:
            met, last = seeds(self.tables, allowed, rng, self.tuning.seed_vectors)
            parts = [last, met, *parts]
        else:
            parts.append(random_rows(allowed, rng, self.tuning.chains))
        return np.concatenate(parts)

    def offer(self, rows: Rows) -> None:
        """Put what is feasible of some assignments into the archive."""
        rows = rows[self.problem.feasible(rows)]
        if len(rows):
            self.archive.merge(self.problem.objectives(rows), rows)

    @property
    def effort(self) -> int:
        """Evaluations plus what the archive's comparisons cost in evaluations; time follows it closely."""
        return self.evaluations + self.archive.comparisons // 16 + 12_000 * self.turn

    def step(self, progress: float) -> None:
        """One turn; `progress` 0..1 sets the annealing temperature."""
        self.turn += 1
        kind = self._choose_kind()
        bases, guided = self._bases()
        scored = self._score(kind, bases)
        before = self.evaluations
        self.evaluations += scored.sums[0].size
        energy, latency, num, den = scored.sums[:4]
        under = 1.0 - num / den
        excess = self._excess(scored.sums)
        entered = self._harvest(scored, energy, latency, under, excess)
        gain = entered / max(self.evaluations - before, 1)
        self.credit[kind] = 0.8 * self.credit[kind] + 0.2 * gain
        if guided < len(bases):
            walk = slice(guided, len(bases))
            self._anneal(scored, walk, energy[walk], latency[walk], under[walk],
                         None if excess is None else excess[walk], progress)

    def _choose_kind(self) -> int:
        open_kinds = np.array([True, self.ablation.macro, self.ablation.macro and len(self.archive) > 1,
                               self.ablation.exchange])
        share = np.where(open_kinds, 1.0, 0.0)
        if self.ablation.momentum:
            credit = self.credit / max(float(self.credit.max()), 1e-300)
            share = share * (0.15 + credit)
        share = np.cumsum(share / share.sum())
        return int(min(np.searchsorted(share, self.rng.random(), side="right"), len(KINDS) - 1))

    def _bases(self) -> tuple[Rows, int]:
        guided = self.archive.assignments[:0]
        if self.ablation.guidance and len(self.archive):
            wanted = self.tuning.guided if self.ablation.annealing else self.tuning.guided + self.tuning.chains
            keys = self.archive.visits + self.rng.random(len(self.archive))
            count = min(wanted, len(keys))
            chosen = np.argpartition(keys, count - 1)[:count]
            chosen.sort()
            self.archive.visits[chosen] += 1
            guided = self.archive.assignments[chosen]
            if not self.ablation.annealing:
                return guided, len(guided)
        return np.concatenate([guided, self.chains]), len(guided)

    def _score(self, kind: int, bases: Rows) -> _Scored:
        if KINDS[kind] == "exchange":
            return self._exchanges(bases)
        allowed = self.problem.allowed
        if KINDS[kind] == "block":
            donors = uniform_donors(allowed, bases)
        elif KINDS[kind] == "strided":
            stride = self.rng.integers(2, 4, len(bases))
            donors = strided_donors(allowed, bases, stride, self.rng.integers(0, stride))
        else:
            size = len(self.archive)
            mates = self.rng.integers(0, size, (len(bases), self.problem.accelerator_count))
            donors = self.archive.assignments[mates]
        first, last = self._cuts()
        sums = segment_sums(self.tables, bases, donors, first, last)
        width = len(first)

        def build(base: Index, move: Index) -> Rows:
            at = move % width
            return apply_segments(bases[base], donors[base, move // width], first[at], last[at])

        return _Scored(sums.reshape(len(sums), len(bases), -1), build)

    def _cuts(self) -> tuple[Index, Index]:
        stages, count = self.problem.stage_count, min(self.tuning.cuts, self.problem.stage_count)
        cuts = np.sort(self.rng.choice(stages, count, replace=False)) if count < stages else np.arange(stages)
        first, last = np.triu_indices(count)
        return cuts[first], cuts[last]

    def _exchanges(self, bases: Rows) -> _Scored:
        count = self.problem.accelerator_count
        moves = np.flatnonzero(self.problem.allowed.ravel())
        if len(moves) > 60:
            moves = np.sort(self.rng.choice(moves, 60, replace=False))
        one, two = np.triu_indices(len(moves), 1)
        apart = moves[two] // count - moves[one] // count >= 2
        one, two = one[apart], two[apart]
        delta = single_deltas(self.tables, bases)
        delta = delta.reshape(len(delta), len(bases), -1)[..., moves]
        own = self.tables_sums(bases)
        sums = (delta + own[..., None])[..., one]
        sums += delta[..., two]

        def build(base: Index, move: Index) -> Rows:
            rows = bases[base].copy()
            each = np.arange(len(rows))
            for side in (moves[one[move]], moves[two[move]]):
                rows[each, side // count] = side % count
            return rows

        return _Scored(sums, build)

    def tables_sums(self, rows: Rows) -> Floats:
        """Sums [K, n] of assignments."""
        place = rows.astype(np.intp)
        stages = self.tables.stages
        result: Floats = self.tables.stage[:, np.arange(stages), place].sum(axis=-1)
        if stages > 1:
            result[:2] += self.tables.link[:, np.arange(stages - 1), place[:, :-1], place[:, 1:]].sum(axis=-1)
        return result

    def _excess(self, sums: Floats) -> Floats | None:
        if len(sums) == 4:
            return None
        total = np.zeros(sums.shape[1:])
        for used, capacity in zip(sums[4:], self.tables.capacity, strict=True):
            total += np.maximum(used - capacity, 0.0) / max(capacity, 1e-300)
        return total

    def _harvest(
        self, scored: _Scored, energy: Floats, latency: Floats, under: Floats, excess: Floats | None
    ) -> int:
        promising = self.archive.may_enter(energy, latency, under)
        if excess is not None:
            promising &= excess <= 0.0
        flat = np.flatnonzero(promising)
        if not len(flat):
            return 0
        if len(flat) > self.tuning.survivors:
            flat = np.sort(self.rng.choice(flat, self.tuning.survivors, replace=False))
        points = np.stack([energy.ravel()[flat], latency.ravel()[flat], under.ravel()[flat]], axis=1)
        width = energy.shape[1]
        new = self.archive.new_among(points)
        self.archive.insert(points[new], scored.build(flat[new] // width, flat[new] % width))
        return len(new)

    def _anneal(
        self, scored: _Scored, walk: slice, energy: Floats, latency: Floats, under: Floats, excess: Floats | None,
        progress: float,
    ) -> None:
        tuning = self.tuning
        count, width = energy.shape
        moves = self.rng.integers(0, width, (count, tuning.candidates))
        each = np.arange(count)[:, None]
        low, span = self._frame()
        cost = np.zeros(moves.shape)
        for axis, values in enumerate((energy, latency, under)):
            cost += self.weights[:, axis, None] * ((values[each, moves] - low[axis]) / span[axis])
        if excess is not None:
            over = excess[each, moves]
            cost += _PENALTY * over if self.ablation.soft_memory else np.where(over > 0.0, 1e9, 0.0)
        heat = tuning.hottest * (tuning.coldest / tuning.hottest) ** progress
        noise = -np.log(-np.log(self.rng.random(cost.shape)))
        best = (cost - heat * noise).argmin(axis=1)
        chosen = moves[np.arange(count), best]
        self.chains = scored.build(np.arange(count) + walk.start, chosen)
        if self.turn % 16 == 0:
            renew = self.rng.integers(0, count)
            self.weights[renew] = weight_vectors(self.rng, 11)[10]

    def _frame(self) -> tuple[Floats, Floats]:
        points = self.archive.points
        if len(points) < 2:
            sums = self.tables_sums(self.chains)
            points = np.stack([sums[0], sums[1], 1.0 - sums[2] / sums[3]], axis=1)
        low = points.min(axis=0)
        span = points.max(axis=0) - low
        return low, np.where(span > 0.0, span, np.maximum(np.abs(low), 1e-12))


def random_rows(allowed: NDArray[np.bool_], rng: np.random.Generator, count: int) -> Rows:
    """`count` assignments drawn uniformly from the allowed pairs."""
    draw = np.where(allowed, rng.random((count, *allowed.shape)), -1.0)
    rows: Rows = draw.argmax(axis=2).astype(np.int8)
    return rows


def search(
    problem: Problem, seed: int, effort: int, ablation: Ablation = Ablation(), tuning: Tuning = Tuning(),
) -> Search:
    """Run until the effort is spent."""
    run = Search(problem, seed, ablation, tuning)
    while run.effort < effort:
        run.step(min(run.effort / effort, 1.0))
    return run
