"""Neighbourhoods of assignments, each move scored in O(1) from prefix sums.

Every segment move is "take stages i..j from a donor assignment". A donor that is one accelerator everywhere gives
block moves, one that differs on every second stage gives class-strided moves, another solution gives crossover. The
sums of all (i, j) are then U[i] + V[j], an outer addition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.placement.problem import Floats, Problem

Rows = NDArray[np.int8]
Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Costs:
    """Tables as the search reads them: [K, L, D] with K = energy, latency, N, Q, then memory domains that can bind."""

    stage: Floats
    link: Floats
    """Energy and latency of transfers, [2, L-1, D, D]."""
    capacity: Floats
    """Of the memory domains in `stage`."""

    @property
    def stages(self) -> int:
        """Number of stages L."""
        return int(self.stage.shape[1])


def costs(problem: Problem) -> Costs:
    """Stack the tables of a problem; memory domains that no assignment can overfill are left out."""
    most = [
        np.where(problem.allowed & (problem.domain == domain), problem.memory, 0.0)
        for domain in range(len(problem.capacity))
    ]
    binding = [d for d, occupied in enumerate(most) if occupied.max(axis=1).sum() > problem.capacity[d]]
    stage = [problem.energy, problem.latency, problem.busy_util_num, problem.busy_den, *(most[d] for d in binding)]
    link = np.stack([problem.transfer_energy, problem.transfer_latency])
    return Costs(np.stack(stage), link, problem.capacity[binding])


@dataclass(frozen=True, eq=False)
class Prefix:
    """Running sums of assignments [..., L]: `sums[K, ..., i]` covers stages before i and the links among them."""

    sums: Floats
    into: Floats
    """Energy and latency of the link into each stage, [2, ..., L]; 0 for the first."""


def prefix(tables: Costs, rows: Rows) -> Prefix:
    """Running sums of each assignment."""
    stages = tables.stages
    sums = np.zeros((len(tables.stage), *rows.shape[:-1], stages + 1))
    into = np.zeros((2, *rows.shape[:-1], stages))
    place = rows.astype(np.intp)
    if stages > 1:
        into[..., 1:] = tables.link[:, np.arange(stages - 1), place[..., :-1], place[..., 1:]]
    own = tables.stage[:, np.arange(stages), place]
    own[:2] += into
    np.cumsum(own, axis=-1, out=sums[..., 1:])
    return Prefix(sums, into)


def segment_sums(tables: Costs, rows: Rows, donors: Rows, first: Index, last: Index) -> Floats:
    """Sums [K, B, N, T] after stages first[t]..last[t] of rows [B, L] are taken from donors [B, N, L]."""
    stages = tables.stages
    base, donor = prefix(tables, rows), prefix(tables, donors)
    place, given = rows.astype(np.intp), donors.astype(np.intp)
    left = base.sums[:, :, None, :-1] - donor.sums[..., :-1]
    right = donor.sums[..., 1:] - base.sums[:, :, None, 1:] + base.sums[:, :, None, -1:]
    left[:2] -= donor.into
    if stages > 1:
        link = np.arange(stages - 1)
        left[:2, ..., 1:] += tables.link[:, link, place[:, None, :-1], given[..., 1:]]
        right[:2, ..., :-1] += tables.link[:, link, given[..., :-1], place[:, None, 1:]]
        right[:2, ..., :-1] -= base.into[:, :, None, 1:]
    result: Floats = left[..., first]
    result += right[..., last]
    return result


def apply_segments(rows: Rows, donors: Rows, first: Index, last: Index) -> Rows:
    """Children: row n of `rows` with stages first[n]..last[n] from row n of `donors`."""
    stage = np.arange(rows.shape[1])
    inside = (stage >= first[:, None]) & (stage <= last[:, None])
    return np.where(inside, donors, rows)


def single_deltas(tables: Costs, rows: Rows) -> Floats:
    """Change of each sum when one stage of each row [B, L] moves to an accelerator: [K, B, L, D]."""
    stages, count = tables.stages, tables.stage.shape[2]
    place = rows.astype(np.intp)
    stage = np.arange(stages)
    own = tables.stage[:, stage, place]
    delta = np.broadcast_to(tables.stage[:, None], (len(own), len(rows), stages, count)) - own[..., None]
    if stages > 1:
        link = np.arange(stages - 1)
        now = tables.link[:, link, place[:, :-1], place[:, 1:]][..., None]
        delta[:2, :, 1:] += tables.link[:, link, place[:, :-1]] - now
        # The target's link out of the stage: index the next stage's place, keep the moved end free.
        delta[:2, :, :-1] += np.moveaxis(tables.link, 2, 3)[:, link, place[:, 1:]] - now
    return delta


def uniform_donors(allowed: NDArray[np.bool_], rows: Rows) -> Rows:
    """Donors [B, D, L]: every stage that may go to accelerator d is there; the others stay as in the row."""
    count = allowed.shape[1]
    to = np.arange(count, dtype=np.int8)[None, :, None]
    return np.where(allowed.T[None], to, rows[:, None, :])


def strided_donors(allowed: NDArray[np.bool_], rows: Rows, stride: Index, phase: Index) -> Rows:
    """As `uniform_donors`, but only stages ≡ phase (mod stride) move; one stride and phase for each row."""
    moved = np.arange(rows.shape[1]) % stride[:, None] == phase[:, None]
    return np.where(moved[:, None, :], uniform_donors(allowed, rows), rows[:, None, :])
