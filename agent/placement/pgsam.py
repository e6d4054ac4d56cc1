"""PGSAM: Pareto-guided simulated annealing with momentum, vectorised over chains.

Each turn scores whole neighbourhoods of a batch of assignments at once. Guided bases are the archive's members that are
best for random weights of the objectives and were explored least; annealed bases are chains that walk by heat bath on a
weighting of their own, with a soft penalty for memory. Whatever no archive member dominates enters the archive, whoever
met it; of more than a turn can handle, a random part.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agent.placement.baselines import random_rows
from agent.placement.moves import (
    Costs,
    Index,
    Neighbourhood,
    Rows,
    apply_segments,
    costs,
    pairs,
    segments,
    strided_donors,
    totals,
    traded_donors,
    uniform_donors,
)
from agent.placement.pareto import Archive
from agent.placement.problem import Floats, Problem
from agent.placement.seeds import beamed, cheapest, rounds, seeds, weight_vectors
from agent.placement.tuning import Ablation, Tuning
from agent.records import record

KINDS = ("block", "strided", "crossover", "exchange", "trade")
_PENALTY = 4.0
_REFUSED = 1e9
_RENEW_TURNS = 16
_VISITED = 10.0
_OFFSET = 0.02
_NEAR = 0.25
_LEAST_SEEDS = 3
_BEAM_STEPS = 16
"""Sums that a partial assignment of a beam costs, with its ordering and the steps of its prices."""
_LEAST_MEMBERS = 500
_OFFERED_CELLS = 100_000
"""Stages of assignments that are checked together, a few milliseconds."""
_USUAL_CELLS = 75_000
"""Running sums that the cost of a turn includes."""


@record(frozen=True, eq=False)
class _Scored:
    """Children of a batch of bases, with what decides about all of them, [M] each; and how to build some of them."""

    children: Neighbourhood
    per_base: int
    """Columns of each base in `children`."""
    energy: Floats
    latency: Floats
    under: Floats
    build: Callable[[Index], Rows]


class Search:
    """One run. `step` may be called as long as there is budget; `archive` is the best so far at any time."""

    def __init__(
        self,
        problem: Problem,
        seed: int,
        ablation: Ablation | None = None,
        tuning: Tuning | None = None,
        warm: Rows | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.problem = problem
        self.ablation = ablation or Ablation()
        self.tuning = tuning or Tuning()
        self.tables: Costs = costs(problem)
        stages = problem.stage_count
        members = max(self.tuning.archive_cells // stages, _LEAST_MEMBERS)
        self.archive = Archive(stages, min(self.tuning.archive_limit, members))
        self.evaluations = 0
        self._rng = np.random.default_rng(seed)
        self._turn = 0
        self._seed_effort = 0
        self._wide_effort = 0
        self._columns = max(self.tuning.turn_cells // (len(self.tables.stage) * stages), 2)
        self._usable: Index = np.flatnonzero(problem.allowed.any(axis=0))
        self._donors = min(len(self._usable), self._columns)
        self._credit = np.ones(len(KINDS))
        self._queue: Rows = np.zeros((0, stages), dtype=np.int8)
        start = self._start(warm, stop)
        self.offer(start, stop)
        chains = min(self.tuning.chains, max(self._most_bases // 8, 1))
        self._chains = start[np.arange(chains) % len(start)]
        self._weights = weight_vectors(self._rng, chains)

    @property
    def _most_bases(self) -> int:
        return max(self._columns // self._donors, 1)

    def _start(self, warm: Rows | None, stop: Callable[[], bool] | None) -> Rows:
        allowed, rng = self.problem.allowed, self._rng
        parts: list[Rows] = [] if warm is None else [warm]
        parts.append(uniform_donors(allowed, random_rows(allowed, rng, 1))[0])
        if self.ablation.seeds:
            count, beams = self._seed_counts()
            met, last = seeds(self.tables, allowed, rng, weight_vectors(rng, count), stop, beams)
            if self.ablation.relaxed:
                self._queue = self._nearly_fitting(met)
            parts = [last, met, *parts] if len(met) else [cheapest(self.problem), *parts]
        else:
            parts.append(random_rows(allowed, rng, self.tuning.chains))
        rows = np.concatenate(parts)
        # Sums of huge costs overflow, and no path is then the shortest: what comes of that may use forbidden pairs.
        permitted = rows[allowed[np.arange(allowed.shape[0]), rows].all(axis=1)]
        return permitted if len(permitted) else cheapest(self.problem)

    def _seed_counts(self) -> tuple[int, int]:
        """Weight vectors that get starting points, and how many of them a beam; their effort is counted.

        With warm placements too: they know little of what the changed problem makes good.
        """
        tuning, formed = self.tuning, beamed(self.tables)
        each = 8 * rounds(self.tables) * self.problem.latency.size * self.problem.accelerator_count
        wanted = tuning.seed_weights // 2 if formed else tuning.seed_weights
        count = min(wanted, max(tuning.seed_effort // each, _LEAST_SEEDS))
        self._seed_effort = min(count * each, tuning.seed_effort)
        if not formed or not self.ablation.beam:
            return count, 0
        beams = min(count, max(tuning.seed_effort // (_BEAM_STEPS * formed), _LEAST_SEEDS))
        self._seed_effort += _BEAM_STEPS * formed * beams
        self.evaluations += formed // self.problem.stage_count * beams
        return count, beams

    def _nearly_fitting(self, rows: Rows) -> Rows:
        """Of shortest paths that overfill memory, those that do least: good placements are often a move away."""
        if not len(self.tables.capacity):
            return rows[:0]
        size = max(self._columns, 2)
        parts = [rows[at : at + size] for at in range(0, len(rows), size)]
        over = np.concatenate([np.zeros(0), *(_excess(self.tables, totals(self.tables, part)[4:]) for part in parts)])
        near = np.flatnonzero((over > 0.0) & (over < _NEAR))
        return rows[near[np.argsort(over[near], kind="stable")[: min(self.tuning.guided, self._most_bases)]]]

    def offer(self, rows: Rows, stop: Callable[[], bool] | None = None) -> None:
        """Put what is feasible of some assignments into the archive; `stop` is asked between batches."""
        size = max(_OFFERED_CELLS // rows.shape[1], 1)
        for begin in range(0, len(rows), size):
            batch = rows[begin : begin + size]
            self.evaluations += len(batch)
            batch = batch[self.problem.feasible(batch)]
            if len(batch):
                self.archive.merge(self.problem.objectives(batch), batch)
            if stop is not None and stop():
                return

    @property
    def effort(self) -> int:
        """Work done so far, in sums formed (about 7 ns each on a 2-core x86 board); time follows it within a third.

        The factors of turns, comparisons and index rebuilds were fitted on the benchmark's problems.
        """
        archive = self.archive
        return (
            self._seed_effort
            + self.evaluations * len(self.tables.stage)
            + self._wide_effort
            + 57_000 * self._turn
            + 10 * archive.comparisons
            + 13 * archive.rebuilt
        )

    def step(self, progress: float) -> None:
        """One turn; `progress` 0..1 sets the annealing temperature."""
        self._turn += 1
        kind = self._choose_kind()
        bases, guided = self._bases()
        scored = self._score(kind, bases)
        size = scored.children.size
        if not size:
            return
        self.evaluations += size
        entered = self._harvest(scored)
        self._credit[kind] = 0.8 * self._credit[kind] + 0.2 * entered / size
        if guided < len(bases):
            self._anneal(scored, guided, progress)

    def _choose_kind(self) -> int:
        open_kinds = np.array(
            [
                True,
                self.ablation.macro,
                self.ablation.macro and len(self.archive) > 1,
                self.ablation.exchange and self.problem.stage_count > 2,
                self._may_trade,
            ]
        )
        share = np.where(open_kinds, 1.0, 0.0)
        if self.ablation.momentum:
            credit = self._credit / max(float(self._credit.max()), 1e-300)
            share = share * (0.15 + credit)
        share = np.cumsum(share / share.sum())
        return min(int(np.searchsorted(share, self._rng.random(), side="right")), len(KINDS) - 1)

    @property
    def _may_trade(self) -> bool:
        """Whether what two accelerators exchange can matter: where memory binds, little else fits."""
        several = self.problem.stage_count > 2 and len(self._usable) > 1
        return self.ablation.trade and several and len(self.tables.capacity) > 0

    def _bases(self) -> tuple[Rows, int]:
        """Assignments to explore around, and how many of them are not chains."""
        guided = self._queue
        if len(guided):
            self._queue = guided[:0]
        elif self.ablation.guidance and len(self.archive):
            count = self.tuning.guided + (0 if self.ablation.annealing else self.tuning.chains)
            chosen = self._members(min(count, self._most_bases))
            self.archive.visits[chosen] += 1
            guided = self.archive.rows(chosen)
        if not self.ablation.annealing and len(guided):
            return guided, len(guided)
        return np.concatenate([guided, self._chains]), len(guided)

    def _members(self, count: int) -> Index:
        """Archive members to explore around, at most `count`.

        Each is the best for random weights by the achievement function max (f − ideal) / w (Wierzbicki 1980,
        doi:10.1007/978-3-642-48782-8_32), worsened by former visits: so every direction is followed to its end before
        the gaps between directions are filled.
        """
        archive = self.archive
        if not self.ablation.aim:
            keys = archive.visits + self._rng.random(len(archive))
            count = min(count, len(keys))
            return np.sort(np.argpartition(keys, count - 1)[:count])
        scaled = (archive.points - archive.low) / archive.span + _OFFSET
        scaled *= (1.0 + _VISITED * archive.visits)[:, None]
        each = np.ascontiguousarray(scaled.T, dtype=np.float32)
        factors = (1.0 / (self._rng.dirichlet((1.0, 1.0, 1.0), count) + 1e-3)).astype(np.float32)
        value = each[0] * factors[:, :1]
        for axis in (1, 2):
            np.maximum(value, each[axis] * factors[:, axis, None], out=value)
        best = value.argmin(axis=1)
        # The extremes every time: a gap there costs a whole slice of the front.
        best[:3] = archive.points.argmin(axis=0)[:count]
        return np.flatnonzero(np.bincount(best))

    def _score(self, kind: int, bases: Rows) -> _Scored:
        if KINDS[kind] in ("exchange", "trade"):
            return self._exchanges(bases, KINDS[kind] == "trade")
        allowed, to = self.problem.allowed, self._targets(len(bases))
        if KINDS[kind] == "block":
            donors = uniform_donors(allowed, bases, to)
        elif KINDS[kind] == "strided":
            stride = self._rng.integers(2, 4, len(bases))
            donors = strided_donors(allowed, bases, stride, self._rng.integers(0, stride), to)
        else:
            size = len(self.archive)
            mates = self._rng.integers(0, size, (len(bases), self._donors))
            donors = self.archive.rows(mates)
        first, last = self._cuts()
        children = segments(self.tables, bases, donors, first, last)
        each = donors.shape[1]
        given = donors.reshape(-1, donors.shape[2])

        def build(child: Index) -> Rows:
            move, column = np.divmod(child, children.columns)
            return apply_segments(bases[column // each], given[column], first[move], last[move])

        return _scored(children, each, build)

    def _targets(self, bases: int) -> Index:
        """Accelerators that stages move to in this turn: all that may run any, or as many as there is room for."""
        cells = bases * self._donors * self.problem.stage_count * len(self.tables.stage)
        self._wide_effort += 4 * max(cells - _USUAL_CELLS, 0)
        if self._donors == len(self._usable):
            return self._usable
        chosen: Index = np.sort(self._rng.choice(self._usable, self._donors, replace=False))
        return chosen

    def _cuts(self) -> tuple[Index, Index]:
        stages, count = self.problem.stage_count, min(self.tuning.cuts, self.problem.stage_count)
        cuts = np.sort(self._rng.choice(stages, count, replace=False)) if count < stages else np.arange(stages)
        first, last = np.triu_indices(count)
        return cuts[first], cuts[last]

    def _exchanges(self, bases: Rows, trade: bool) -> _Scored:
        """Two segments change at once; in a trade, what leaves one accelerator for another in return for the other."""
        stages, count = self.problem.stage_count, self.tuning.exchanged
        first = np.sort(self._rng.integers(0, stages, count))
        # Short segments are the common case; memory is traded in small change.
        length = (self._rng.random(count) ** 2 * self.tuning.reach * stages).astype(np.intp)
        last = np.minimum(first + length, stages - 1)
        if trade:
            among = len(self._usable)
            partner = self._rng.integers(0, among, len(bases))
            other = (partner + self._rng.integers(1, among, len(bases))) % among
            donors = traded_donors(self.problem.allowed, bases, self._usable[partner], self._usable[other])
            to = np.zeros(count, dtype=np.intp)
        else:
            to = self._rng.integers(0, self._donors, count)
            donors = uniform_donors(self.problem.allowed, bases, self._targets(len(bases)))
        one, two = np.triu_indices(count, 1)
        apart = first[two] - last[one] >= 2
        one, two = one[apart], two[apart]
        children = pairs(self.tables, bases, donors, to, first, last, one, two)

        def build(child: Index) -> Rows:
            move, base = np.divmod(child, len(bases))
            rows: Rows = bases[base]
            for side in (one[move], two[move]):
                rows = apply_segments(rows, donors[base, to[side]], first[side], last[side])
            return rows

        return _scored(children, 1, build)

    def _harvest(self, scored: _Scored) -> int:
        """Put what no member dominates into the archive; returns how many entered."""
        objectives = (scored.energy, scored.latency, scored.under)
        child = np.flatnonzero(self.archive.may_enter(*objectives))
        for domain, capacity in enumerate(self.tables.capacity):
            child = child[scored.children.sums_of(4 + domain, child) <= capacity]
        if not len(child):
            return 0
        if len(child) > self.tuning.survivors:
            child = np.sort(self._rng.choice(child, self.tuning.survivors, replace=False))
        points = np.stack([values[child] for values in objectives], axis=1)
        new = self.archive.new_among(points)
        self.archive.insert(points[new], scored.build(child[new]))
        return len(new)

    def _anneal(self, scored: _Scored, first: int, progress: float) -> None:
        """Move the chains, which are the bases from `first` on, by heat bath among random candidates of each."""
        tuning, children = self.tuning, scored.children
        count = len(self._chains)
        shape = (count, tuning.candidates)
        column = (first + np.arange(count)[:, None]) * scored.per_base + self._rng.integers(0, scored.per_base, shape)
        child = self._rng.integers(0, len(children.first), shape) * children.columns + column
        low, span = self._frame()
        cost = np.zeros(shape)
        for axis, values in enumerate((scored.energy, scored.latency, scored.under)):
            cost += self._weights[:, axis, None] * ((values[child] - low[axis]) / span[axis])
        if len(self.tables.capacity):
            used = [children.sums_of(4 + domain, child) for domain in range(len(self.tables.capacity))]
            over = _excess(self.tables, np.stack(used))
            cost += _PENALTY * over if self.ablation.soft_memory else np.where(over > 0.0, _REFUSED, 0.0)
        heat = tuning.hottest * (tuning.coldest / tuning.hottest) ** progress
        # The smallest of cost − heat·Gumbel is a draw with probability ∝ exp(−cost / heat).
        gumbel = -np.log(-np.log(self._rng.random(cost.shape) + 1e-300))
        chosen = (cost - heat * gumbel).argmin(axis=1)
        self._chains = scored.build(child[np.arange(count), chosen])
        if self._turn % _RENEW_TURNS == 0:
            self._weights[self._rng.integers(0, count)] = self._rng.dirichlet((0.7, 0.7, 0.7))

    def _frame(self) -> tuple[Floats, Floats]:
        if len(self.archive):
            return self.archive.low, self.archive.span
        sums = totals(self.tables, self._chains)
        points = np.stack([sums[0], sums[1], 1.0 - sums[2] / sums[3]], axis=1)
        low = points.min(axis=0)
        return low, np.maximum(points.max(axis=0) - low, np.maximum(np.abs(low), 1e-12))


def _scored(children: Neighbourhood, per_base: int, build: Callable[[Index], Rows]) -> _Scored:
    under = children.sums(2)
    under /= children.sums(3)
    np.subtract(1.0, under, out=under)
    return _Scored(children, per_base, children.sums(0), children.sums(1), under, build)


def _excess(tables: Costs, used: Floats) -> Floats:
    """Memory above capacity, relative to it and added over domains, of used [M, ...]."""
    # A domain without capacity still has a measure: a trifle of what may come to it.
    least = 1e-9 * tables.stage[4:].max(axis=2).sum(axis=1)
    capacity, scale = (
        values.reshape(-1, *([1] * (used.ndim - 1))) for values in (tables.capacity, np.maximum(tables.capacity, least))
    )
    over: Floats = (np.maximum(used - capacity, 0.0) / scale).sum(axis=0)
    return over
