"""Pareto dominance of minimised objective vectors: filter, bounded archive with a prefilter, exact hypervolume."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.placement.cover import CoverIndex

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

_PIVOTS = 48
_CELLS = 96
_DIGITS = 10
_SHARE = 2
"""Column of the under-utilisation, a share of 1."""
_EARLIER = np.triu(np.ones((_PIVOTS, _PIVOTS), dtype=np.bool_), 1)


def dominates(a: ArrayLike, b: ArrayLike) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return bool((left <= right).all() and (left < right).any())


def nondominated(points: Floats, check: Callable[[], None] | None = None) -> Ints:
    """Indices of the rows of [n, k] that no other row dominates, in lexicographic order of the rows.

    Of equal rows the first one stays. `check` is called every few milliseconds; it may raise.
    """
    order: Ints = np.lexsort(points.T[::-1])
    rows = points[order]
    if points.shape[1] == 3 and len(points) > _PIVOTS:
        first = np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])
        order, rows = order[first], rows[first]
        return order[~CoverIndex(rows).covers_others()]
    keep: list[Ints] = []
    # In lexicographic order only earlier rows can dominate, so the leading block is settled by itself and then
    # thins out all that follow it.
    while len(order):
        if check is not None:
            check()
        head = rows[:_PIVOTS]
        # A row never counts against itself, and among equal rows only the earlier one beats the later.
        won = ~(_covered(head, head) & _EARLIER[: len(head), : len(head)]).any(axis=0)
        head, survivors = head[won], order[:_PIVOTS][won]
        keep.append(survivors)
        rest = rows[_PIVOTS:]
        alive = ~_covered(head, rest).any(axis=0) if len(rest) else np.zeros(0, dtype=np.bool_)
        rows, order = rest[alive], order[_PIVOTS:][alive]
    return np.concatenate(keep) if keep else order


def beyond_rounding(points: Floats) -> Ints:
    """Of rows [n, 3] those that none beats where costs are told apart by ten digits and shares by ten decimals.

    What differs by less is the rounding of sums: a tie, not a trade. In lexicographic order of the rows.
    """
    order: Ints = np.lexsort(points.T[::-1])
    rows = points[order]
    magnitude = np.zeros_like(rows)
    np.log10(np.abs(rows), out=magnitude, where=rows != 0.0)
    magnitude[:, _SHARE] = 0.0
    unit = 10.0 ** (np.floor(magnitude) - _DIGITS)
    return order[np.sort(nondominated(np.round(rows / unit) * unit))]


def _covered(by: Floats, points: Floats) -> Bools:
    """[n, m]: whether row n of `by` is nowhere above row m of `points`."""
    result: Bools = by[:, None, 0] <= points[None, :, 0]
    for column in range(1, points.shape[1]):
        result &= by[:, None, column] <= points[None, :, column]
    return result


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Exact volume between the points [n, 3] and the reference point, both minimised.

    Sweeps the third objective while keeping the staircase of the first two; O(n²) at worst, near n·log n in
    practice. Points that do not lie strictly below the reference add nothing.
    """
    ref = np.asarray(reference, dtype=np.float64)
    rows = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    rows = rows[(rows < ref).all(axis=1)]
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0], rows[:, 2]))]
    xs: list[float] = []
    ys: list[float] = []
    area, volume, last = 0.0, 0.0, 0.0
    for x, y, z in rows.tolist():
        volume += area * (z - last)
        last = z
        area += _add_step(xs, ys, x, y, float(ref[0]), float(ref[1]))
    return volume + area * (float(ref[2]) - last)


def _add_step(xs: list[float], ys: list[float], x: float, y: float, x_ref: float, y_ref: float) -> float:
    """Insert (x, y) into the staircase (x ascending, y descending); returns the area gained."""
    at = bisect_right(xs, x)
    if at and ys[at - 1] <= y:
        return 0.0
    start = bisect_left(xs, x)
    ceiling = ys[start - 1] if start else y_ref
    gained, left, end = 0.0, x, start
    while end < len(xs) and ys[end] >= y:
        gained += (xs[end] - left) * (ceiling - y)
        left, ceiling = xs[end], ys[end]
        end += 1
    right = xs[end] if end < len(xs) else x_ref
    gained += (right - left) * (ceiling - y)
    xs[start:end] = [x]
    ys[start:end] = [y]
    return gained


def normalised_hypervolume(points: ArrayLike, front: ArrayLike, margin: float = 1.1) -> float:
    """Hypervolume after the ideal and nadir of `front` are mapped to 0 and 1, with the reference at `margin`.

    An objective that is constant on the front is left out of the scaling (its span counts as 1).
    """
    base = np.asarray(front, dtype=np.float64).reshape(-1, 3)
    low, high = base.min(axis=0), base.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return hypervolume((np.asarray(points, dtype=np.float64).reshape(-1, 3) - low) / span, np.full(3, margin))


class Archive:
    """Bounded set of mutually non-dominated objective vectors [3], each with its assignment.

    Candidates pass a coarse table first: cell (i, j) holds the smallest third objective among members that are in
    lower cells of the first two. It only ever rejects what a member dominates or equals. Members are kept in
    lexicographic order, so equal contents are equal bytes. Over `limit`, members in crowded cells leave first.
    """

    def __init__(self, stages: int, limit: int) -> None:
        self.limit = limit
        self.points: Floats = np.zeros((0, 3))
        self.visits: Ints = np.zeros(0, dtype=np.intp)
        """How often the search has explored around each member; it writes here, merging carries it along."""
        self.low: Floats = np.zeros(3)
        self.span: Floats = np.ones(3)
        """Smallest of each objective, and largest minus smallest (where that is 0, the objective itself)."""
        self.comparisons = 0
        self.rebuilt = 0
        """Members handled by rebuilding the indices; with `comparisons`, what the archive's own work is made of."""
        self.dropped = 0
        self._pool: NDArray[np.int8] = np.zeros((0, stages), dtype=np.int8)
        self._slot: Ints = np.zeros(0, dtype=np.intp)
        self._pooled = 0
        self._cell: Floats = np.ones(2)
        self._table: Floats = np.full(_CELLS * _CELLS, np.inf)
        self._index = CoverIndex(self.points)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def assignments(self) -> NDArray[np.int8]:
        """Assignments [n, L] of the members."""
        return self._pool[self._slot]

    def rows(self, members: Ints) -> NDArray[np.int8]:
        """Assignments of some members."""
        return self._pool[self._slot[members]]

    def may_enter(self, first: Floats, second: Floats, third: Floats) -> Bools:
        """Cheap test, true wherever a candidate is not surely dominated; arrays of any one shape."""
        # Cell 0 is left for what lies below every member.
        row = self._cells(first, 0)
        row *= _CELLS
        row += self._cells(second, 1)
        lower: Bools = third < np.take(self._table, row)
        return lower

    def _cells(self, values: Floats, axis: int) -> NDArray[np.int32]:
        at = values - (self.low[axis] - 1.0 / self._cell[axis])
        at *= self._cell[axis]
        np.clip(at, 0.0, _CELLS - 1, out=at)
        cells: NDArray[np.int32] = at.astype(np.int32)
        return cells

    def covers(self, points: Floats) -> Bools:
        """Whether a member is nowhere above each of the points [n, 3]; exact."""
        before = self._index.compared
        result = self._index.covers(points)
        self.comparisons += self._index.compared - before + len(points)
        return result

    def new_among(self, points: Floats) -> Ints:
        """Indices of the candidates [n, 3] that neither a member nor another candidate dominates or equals."""
        open_to = np.flatnonzero(~self.covers(points))
        chosen: Ints = open_to[nondominated(points[open_to])]
        return chosen

    def merge(self, points: Floats, assignments: NDArray[np.int8]) -> int:
        """Add candidates and drop what they dominate; returns how many entered."""
        entering = self.new_among(points)
        self.insert(points[entering], assignments[entering])
        return len(entering)

    def insert(self, rows: Floats, assignments: NDArray[np.int8]) -> None:
        """Add what `new_among` let through, and drop the members that it dominates."""
        if not len(rows):
            return
        beaten = CoverIndex(rows)
        stays = np.flatnonzero(~beaten.covers(self.points))
        self.comparisons += beaten.compared + len(self.points)
        points = np.concatenate([self.points[stays], rows])
        added = self._store(assignments, stays)
        slots = np.concatenate([self._slot[stays], added])
        visits = np.concatenate([self.visits[stays], np.zeros(len(rows), dtype=np.intp)])
        order = _lexicographic(points)
        if len(order) > self.limit:
            self.dropped += len(order) - self.limit
            order = order[_spread(points[order], self.limit)]
        self.points, self._slot, self.visits = points[order], slots[order], visits[order]
        self.rebuilt += len(order)
        self._rebuild()

    def _store(self, assignments: NDArray[np.int8], stays: Ints) -> Ints:
        """Slots for new assignments in the pool, which is packed when it is full; members then move down."""
        count = len(assignments)
        if self._pooled + count > len(self._pool):
            kept = self._pool[self._slot[stays]]
            self._pool = np.empty((2 * (len(kept) + count) + 1024, kept.shape[1]), dtype=np.int8)
            self._pool[: len(kept)] = kept
            self._slot[stays] = np.arange(len(kept))
            self._pooled = len(kept)
        begin = self._pooled
        self._pooled += count
        self._pool[begin : self._pooled] = assignments
        return np.arange(begin, self._pooled)

    def _rebuild(self) -> None:
        points = self.points
        self.low = low = points.min(axis=0)
        high = points.max(axis=0)
        self.span = np.where(high > low, high - low, np.maximum(np.abs(low), 1e-12))
        self._cell = (_CELLS - 3) / self.span[:2]
        # A member speaks only for cells that lie wholly above it, never for its own.
        row, column = (self._cells(points[:, axis], axis) + 1 for axis in (0, 1))
        table = np.full((_CELLS, _CELLS), np.inf)
        np.minimum.at(table, (row, column), points[:, 2])
        np.minimum.accumulate(table, axis=0, out=table)
        self._table = np.minimum.accumulate(table, axis=1, out=table).ravel()
        self._index = CoverIndex(points)


def _lexicographic(points: Floats) -> Ints:
    """Order of the rows of [n, 3]; sorting by one column is several times cheaper, and mostly enough."""
    order: Ints = np.argsort(points[:, 0], kind="stable")
    first = points[order, 0]
    if (first[1:] == first[:-1]).any():
        order = np.lexsort(points.T[::-1])
    return order


def _spread(points: Floats, count: int) -> Ints:
    """Indices, ascending, of `count` rows: the extremes first, then those in the emptiest cells."""
    low, high = points.min(axis=0), points.max(axis=0)
    cells = np.floor((points - low) / np.where(high > low, high - low, 1.0) * 63.999).astype(np.int64)
    cell = cells @ np.array([4096, 64, 1])
    crowding = np.bincount(cell)[cell].astype(np.float64)
    crowding[points.argmin(axis=0)] = 0.0
    return np.sort(np.argsort(crowding, kind="stable")[:count])
