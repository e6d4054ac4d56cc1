"""PGSAM: Pareto-guided simulated annealing with momentum, vectorised over chains.

Each turn scores whole neighbourhoods of a batch of assignments at once. Guided bases are the archive's least explored
members, those in sparse regions first; annealed bases are chains that walk by heat bath on a random weighting of the
objectives, with a soft penalty for memory. Whatever no archive member dominates enters the archive, whoever met it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agent.placement.baselines import random_rows
from agent.placement.moves import (
    Costs,
    Index,
    Rows,
    apply_segments,
    costs,
    prefix,
    segment_sums,
    single_deltas,
    strided_donors,
    uniform_donors,
)
from agent.placement.pareto import Archive
from agent.placement.problem import Floats, Problem
from agent.placement.seeds import rounds, seeds, weight_vectors

KINDS = ("block", "strided", "crossover", "exchange")
_PENALTY = 4.0
_REFUSED = 1e9
_RENEW_TURNS = 16
_EXCHANGED = 60
_GRID = 12


@dataclass(frozen=True)
class Ablation:
    """Ingredients that can be switched off, to see what each is worth.

    seeds: shortest paths for random weights, instead of random assignments. macro: strided and crossover moves.
    exchange: two stages change at once. annealing: chains that walk by heat bath. guidance: explore around the least
    visited archive members. sparsity: among them, those in sparse regions first. momentum: kinds of move that lately
    brought members are tried more often. soft_memory: chains may overfill memory at a price.
    """

    seeds: bool = True
    macro: bool = True
    exchange: bool = True
    annealing: bool = True
    guidance: bool = True
    sparsity: bool = True
    momentum: bool = True
    soft_memory: bool = True


@dataclass(frozen=True)
class Tuning:
    """Sizes of the search."""

    chains: int = 4
    guided: int = 20
    cuts: int = 26
    candidates: int = 48
    seed_passes: int = 720
    archive_limit: int = 8000
    hottest: float = 0.3
    coldest: float = 0.003
    survivors: int = 3000


@dataclass(frozen=True, eq=False)
class _Scored:
    """A neighbourhood: sums [K, B, M] of B bases, and how to build child m of base b."""

    sums: Floats
    under: Floats
    """Under-utilisation [B, M]."""
    excess: Floats | None
    """Memory above capacity, relative to it and added over domains [B, M]; None where none can bind."""
    build: Callable[[Index, Index], Rows]


class Search:
    """One run. `step` may be called as long as there is budget; `archive` is the best so far at any time."""

    def __init__(
        self,
        problem: Problem,
        seed: int,
        ablation: Ablation | None = None,
        tuning: Tuning | None = None,
        warm: Rows | None = None,
    ) -> None:
        self.problem = problem
        self.ablation = ablation or Ablation()
        self.tuning = tuning or Tuning()
        self.tables: Costs = costs(problem)
        self.archive = Archive(problem.stage_count, self.tuning.archive_limit)
        self.evaluations = 0
        self._rng = np.random.default_rng(seed)
        self._turn = 0
        self._seed_effort = 0
        self._credit = np.ones(len(KINDS))
        start = self._start(warm)
        self.evaluations += len(start)
        self.offer(start)
        self._chains = start[np.arange(self.tuning.chains) % len(start)]
        self._weights = weight_vectors(self._rng, self.tuning.chains)

    def _start(self, warm: Rows | None) -> Rows:
        allowed, rng = self.problem.allowed, self._rng
        parts: list[Rows] = [] if warm is None else [warm]
        parts.append(uniform_donors(allowed, random_rows(allowed, rng, 1))[0])
        if self.ablation.seeds:
            turns = rounds(self.tables)
            # Warm placements do most of what seeds are for, and a re-plan has no time for both.
            passes = self.tuning.seed_passes if warm is None or not len(warm) else self.tuning.seed_passes // 3
            count = passes // turns
            self._seed_effort = 3 * count * turns * self.problem.latency.size * self.problem.accelerator_count
            met, last = seeds(self.tables, allowed, rng, count)
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
        """Work done so far, in sums formed (about 30 ns each on a 2-core x86 board); time follows it within a third.

        The factors of turns, comparisons and index rebuilds were fitted on the benchmark's problems.
        """
        archive = self.archive
        return (
            self._seed_effort
            + self.evaluations * len(self.tables.stage)
            + 18_000 * self._turn
            + 2 * archive.comparisons
            + 77 * archive.rebuilt
        )

    def step(self, progress: float) -> None:
        """One turn; `progress` 0..1 sets the annealing temperature."""
        self._turn += 1
        kind = self._choose_kind()
        bases, guided = self._bases()
        scored = self._score(kind, bases)
        if not scored.under.size:
            return
        self.evaluations += scored.sums[0].size
        entered = self._harvest(scored)
        self._credit[kind] = 0.8 * self._credit[kind] + 0.2 * entered / scored.sums[0].size
        if guided < len(bases):
            self._anneal(scored, guided, progress)

    def _choose_kind(self) -> int:
        open_kinds = np.array(
            [
                True,
                self.ablation.macro,
                self.ablation.macro and len(self.archive) > 1,
                self.ablation.exchange and self.problem.stage_count > 2,
            ]
        )
        share = np.where(open_kinds, 1.0, 0.0)
        if self.ablation.momentum:
            credit = self._credit / max(float(self._credit.max()), 1e-300)
            share = share * (0.15 + credit)
        share = np.cumsum(share / share.sum())
        return min(int(np.searchsorted(share, self._rng.random(), side="right")), len(KINDS) - 1)

    def _bases(self) -> tuple[Rows, int]:
        guided = self.archive.assignments[:0]
        if self.ablation.guidance and len(self.archive):
            wanted = self.tuning.guided if self.ablation.annealing else self.tuning.guided + self.tuning.chains
            keys = self.archive.visits + self._rng.random(len(self.archive))
            if self.ablation.sparsity:
                keys = keys * self._crowding()
            count = min(wanted, len(keys))
            chosen = np.argpartition(keys, count - 1)[:count]
            chosen.sort()
            self.archive.visits[chosen] += 1
            guided = self.archive.assignments[chosen]
            if not self.ablation.annealing:
                return guided, len(guided)
        return np.concatenate([guided, self._chains]), len(guided)

    def _crowding(self) -> Floats:
        """Members in the cell of each member, on a coarse grid over the objectives."""
        points, side = self.archive.points, _GRID
        if len(points) < 2:
            return np.ones(len(points))
        low, span = self._frame()
        cells = ((points - low) * ((side - 1e-6) / span)).astype(np.intp)
        cell = (cells[:, 0] * side + cells[:, 1]) * side + cells[:, 2]
        counts = np.bincount(cell, minlength=side**3)
        crowd: Floats = counts[cell].astype(np.float64)
        return crowd

    def _score(self, kind: int, bases: Rows) -> _Scored:
        if KINDS[kind] == "exchange":
            return self._exchanges(bases)
        allowed = self.problem.allowed
        if KINDS[kind] == "block":
            donors = uniform_donors(allowed, bases)
        elif KINDS[kind] == "strided":
            stride = self._rng.integers(2, 4, len(bases))
            donors = strided_donors(allowed, bases, stride, self._rng.integers(0, stride))
        else:
            size = len(self.archive)
            mates = self._rng.integers(0, size, (len(bases), self.problem.accelerator_count))
            donors = self.archive.assignments[mates]
        first, last = self._cuts()
        sums = segment_sums(self.tables, bases, donors, first, last)
        width = len(first)

        def build(base: Index, move: Index) -> Rows:
            at = move % width
            return apply_segments(bases[base], donors[base, move // width], first[at], last[at])

        return self._scored(sums.reshape(len(sums), len(bases), -1), build)

    def _cuts(self) -> tuple[Index, Index]:
        stages, count = self.problem.stage_count, min(self.tuning.cuts, self.problem.stage_count)
        cuts = np.sort(self._rng.choice(stages, count, replace=False)) if count < stages else np.arange(stages)
        first, last = np.triu_indices(count)
        return cuts[first], cuts[last]

    def _exchanges(self, bases: Rows) -> _Scored:
        count = self.problem.accelerator_count
        moves = np.flatnonzero(self.problem.allowed.ravel())
        if len(moves) > _EXCHANGED:
            moves = np.sort(self._rng.choice(moves, _EXCHANGED, replace=False))
        one, two = np.triu_indices(len(moves), 1)
        apart = moves[two] // count - moves[one] // count >= 2
        one, two = one[apart], two[apart]
        delta = single_deltas(self.tables, bases)
        delta = delta.reshape(len(delta), len(bases), -1)[..., moves]
        own = prefix(self.tables, bases).sums[..., -1]
        sums = (delta + own[..., None])[..., one]
        sums += delta[..., two]

        def build(base: Index, move: Index) -> Rows:
            rows: Rows = bases[base].copy()
            each = np.arange(len(rows))
            for side in (moves[one[move]], moves[two[move]]):
                rows[each, side // count] = side % count
            return rows

        return self._scored(sums, build)

    def _scored(self, sums: Floats, build: Callable[[Index, Index], Rows]) -> _Scored:
        excess: Floats | None = None
        for used, capacity in zip(sums[4:], self.tables.capacity, strict=True):
            over = np.maximum(used - capacity, 0.0)
            over /= max(float(capacity), 1e-300)
            excess = over if excess is None else excess + over
        return _Scored(sums, 1.0 - sums[2] / sums[3], excess, build)

    def _harvest(self, scored: _Scored) -> int:
        """Put what no member dominates into the archive; returns how many entered."""
        promising = self.archive.may_enter(scored.sums[0], scored.sums[1], scored.under)
        if scored.excess is not None:
            promising &= scored.excess <= 0.0
        flat = np.flatnonzero(promising)
        if not len(flat):
            return 0
        if len(flat) > self.tuning.survivors:
            flat = np.sort(self._rng.choice(flat, self.tuning.survivors, replace=False))
        points = np.stack([values.ravel()[flat] for values in (*scored.sums[:2], scored.under)], axis=1)
        new = self.archive.new_among(points)
        width = scored.under.shape[1]
        self.archive.insert(points[new], scored.build(flat[new] // width, flat[new] % width))
        return len(new)

    def _anneal(self, scored: _Scored, first: int, progress: float) -> None:
        """Move the chains, which are the bases from `first` on, by heat bath among random candidates of each."""
        tuning = self.tuning
        width = scored.under.shape[1]
        count = len(self._chains)
        moves = self._rng.integers(0, width, (count, tuning.candidates))
        base = np.arange(first, first + count)[:, None]
        low, span = self._frame()
        cost = np.zeros(moves.shape)
        for axis, values in enumerate((*scored.sums[:2], scored.under)):
            cost += self._weights[:, axis, None] * ((values[base, moves] - low[axis]) / span[axis])
        if scored.excess is not None:
            over = scored.excess[base, moves]
            cost += _PENALTY * over if self.ablation.soft_memory else np.where(over > 0.0, _REFUSED, 0.0)
        heat = tuning.hottest * (tuning.coldest / tuning.hottest) ** progress
        # The smallest of cost − heat·Gumbel is a draw with probability ∝ exp(−cost / heat).
        gumbel = -np.log(-np.log(self._rng.random(cost.shape) + 1e-300))
        chosen = (cost - heat * gumbel).argmin(axis=1)
        self._chains = scored.build(base[:, 0], moves[np.arange(count), chosen])
        if self._turn % _RENEW_TURNS == 0:
            self._weights[self._rng.integers(0, count)] = self._rng.dirichlet((0.7, 0.7, 0.7))

    def _frame(self) -> tuple[Floats, Floats]:
        points = self.archive.points
        if len(points) < 2:
            sums = prefix(self.tables, self._chains).sums[..., -1]
            points = np.stack([sums[0], sums[1], 1.0 - sums[2] / sums[3]], axis=1)
        low = points.min(axis=0)
        span = points.max(axis=0) - low
        return low, np.where(span > 0.0, span, np.maximum(np.abs(low), 1e-12))
