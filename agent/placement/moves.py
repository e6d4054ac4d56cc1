"""Neighbourhoods of assignments, each child scored in O(1) from running sums.

A segment move is "take stages i..j from a donor assignment". A donor that is one accelerator everywhere gives block
moves, one that differs on every second stage gives class-strided moves, another solution gives crossover. The sums of
all (i, j) are then U[i] + V[j]. Two segments that do not touch change the sums independently, so pairs of segments
have the same form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.placement.problem import Floats, Problem
from agent.records import record

Rows = NDArray[np.int8]
Index = NDArray[np.intp]


@record(frozen=True, eq=False)
class Costs:
    """Tables as the search reads them: [K, L, D] with K = energy, latency, N, Q, then memory domains that can bind."""

    stage: Floats
    link: tuple[Floats, Floats]
    """Energy and latency of transfers, [L-1, D, D] each."""
    capacity: Floats
    """Of the memory domains in `stage`."""

    @property
    def stages(self) -> int:
        """Number of stages L."""
        return int(self.stage.shape[1])


def costs(problem: Problem) -> Costs:
    """Stack the tables of a problem; memory domains that no assignment can overfill are left out."""
    memory = np.where(problem.allowed, problem.memory, 0.0)
    domains = range(len(problem.capacity))
    binding = [
        d for d in domains if memory[:, problem.domain == d].max(axis=1, initial=0.0).sum() > problem.capacity[d]
    ]
    stage = np.empty((4 + len(binding), *memory.shape))
    stage[:4] = problem.energy, problem.latency, problem.busy_util_num, problem.busy_den
    for at, domain in enumerate(binding):
        np.multiply(memory, problem.domain == domain, out=stage[4 + at])
    return Costs(stage, (problem.transfer_energy, problem.transfer_latency), problem.capacity[binding])


@record(frozen=True, eq=False)
class Prefix:
    """Running sums of C assignments: `sums[K, i, C]` covers stages before i and the links among them."""

    sums: Floats
    into: Floats
    """Energy and latency of the link into each stage, [2, L, C]; 0 for the first."""


def prefix(tables: Costs, rows: Rows) -> Prefix:
    """Running sums of each assignment [C, L]."""
    stages = tables.stages
    sums = np.zeros((len(tables.stage), stages + 1, len(rows)))
    into = np.zeros((2, stages, len(rows)))
    place = np.ascontiguousarray(rows.T).astype(np.intp)
    if stages > 1:
        into[:, 1:] = _links(tables, place[:-1], place[1:])
    own = tables.stage[:, np.arange(stages)[:, None], place]
    own[:2] += into
    np.cumsum(own, axis=1, out=sums[:, 1:])
    return Prefix(sums, into)


def _links(tables: Costs, source: Index, target: Index) -> Floats:
    """Energy and latency of the links between stages placed so, [2, L-1, C]."""
    each = np.arange(len(source))[:, None]
    return np.stack([link[each, source, target] for link in tables.link])


def totals(tables: Costs, rows: Rows) -> Floats:
    """Sums [K, C] of whole assignments [C, L]."""
    return prefix(tables, rows).sums[:, -1]


@record(frozen=True, eq=False)
class Neighbourhood:
    """T children of each of C columns; the sums of child (t, c) are left[:, first[t], c] + right[:, last[t], c].

    Children are numbered t·C + c. Values are formed when they are asked for: most children need only some of them.
    """

    left: Floats
    right: Floats
    first: Index
    last: Index

    @property
    def columns(self) -> int:
        """C."""
        return int(self.left.shape[2])

    @property
    def size(self) -> int:
        """Number of children, T·C."""
        return len(self.first) * self.columns

    def sums(self, quantity: int) -> Floats:
        """One of the K sums of every child, [T·C]."""
        # Whole rows are copied: many times faster than gathering one value at a time.
        result = np.take(self.left[quantity], self.first, axis=0)
        result += np.take(self.right[quantity], self.last, axis=0)
        return result.reshape(-1)

    def sums_of(self, quantity: int, children: Index) -> Floats:
        """One of the K sums of some children."""
        move, column = np.divmod(children, self.columns)
        result: Floats = self.left[quantity].reshape(-1).take(self.first.take(move) * self.columns + column)
        result += self.right[quantity].reshape(-1).take(self.last.take(move) * self.columns + column)
        return result


def segments(tables: Costs, rows: Rows, donors: Rows, first: Index, last: Index) -> Neighbourhood:
    """Children of rows [B, L] in which stages first[t]..last[t] come from a donor [B, N, L]; column b·N + n."""
    return Neighbourhood(*_ends(tables, rows, donors), first, last)


def pairs(
    tables: Costs, rows: Rows, donors: Rows, donor: Index, first: Index, last: Index, one: Index, two: Index
) -> Neighbourhood:
    """Children of rows [B, L] in which segments one[t] and two[t] are both taken; column b.

    Segment m is stages first[m]..last[m] of donor donor[m] among donors [B, N, L]; a pair must be a stage apart.
    """
    left, right = (ends.reshape(*ends.shape[:2], *donors.shape[:2]) for ends in _ends(tables, rows, donors))
    taken = left[:, first, :, donor] + right[:, last, :, donor]
    # Advanced indices on both sides of a slice put their axis first.
    taken = np.ascontiguousarray(np.moveaxis(taken, 0, 1))
    return Neighbourhood(taken - totals(tables, rows)[:, None, :], taken, one, two)


def _ends(tables: Costs, rows: Rows, donors: Rows) -> tuple[Floats, Floats]:
    """What the start and the end of a segment contribute to the sums, [K, L, B·N] each."""
    stages, count = tables.stages, donors.shape[1]
    given = donors.reshape(-1, stages)
    base, donor = prefix(tables, rows), prefix(tables, given)
    own = np.repeat(base.sums, count, axis=2)
    left = own[:, :-1] - donor.sums[:, :-1]
    right = donor.sums[:, 1:] - own[:, 1:]
    right += own[:, -1:]
    left[:2] -= donor.into
    if stages > 1:
        place = np.ascontiguousarray(np.repeat(rows, count, axis=0).T).astype(np.intp)
        to = np.ascontiguousarray(given.T).astype(np.intp)
        left[:2, 1:] += _links(tables, place[:-1], to[1:])
        right[:2, :-1] += _links(tables, to[:-1], place[1:])
        right[:2, :-1] -= np.repeat(base.into[:, 1:], count, axis=2)
    return left, right


def apply_segments(rows: Rows, donors: Rows, first: Index, last: Index) -> Rows:
    """Children: row n of `rows` with stages first[n]..last[n] from row n of `donors`."""
    stage = np.arange(rows.shape[1])
    inside = (stage >= first[:, None]) & (stage <= last[:, None])
    return np.where(inside, donors, rows)


def uniform_donors(allowed: NDArray[np.bool_], rows: Rows, to: Index | None = None) -> Rows:
    """Donors [B, N, L]: every stage that may go to accelerator to[n] is there; the others stay as in the row.

    Without `to`, to all accelerators.
    """
    to = np.arange(allowed.shape[1]) if to is None else to
    return np.where(allowed.T[to][None], to.astype(np.int8)[None, :, None], rows[:, None, :])


def strided_donors(
    allowed: NDArray[np.bool_], rows: Rows, stride: Index, phase: Index, to: Index | None = None
) -> Rows:
    """As `uniform_donors`, but only stages ≡ phase (mod stride) move; one stride and phase for each row."""
    moved = np.arange(rows.shape[1]) % stride[:, None] == phase[:, None]
    return np.where(moved[:, None, :], uniform_donors(allowed, rows, to), rows[:, None, :])


def traded_donors(allowed: NDArray[np.bool_], rows: Rows, one: Index, two: Index) -> Rows:
    """Donors [B, 1, L]: stages of row b on accelerator one[b] are on two[b] and the other way round, where allowed."""
    stage = np.arange(rows.shape[1])
    first, second = (at[:, None].astype(np.int8) for at in (one, two))
    traded = np.where(rows == first, second, np.where(rows == second, first, rows))
    return np.where(allowed[stage, traded], traded, rows)[:, None, :]
