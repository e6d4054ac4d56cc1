"""Index of objective vectors [n, 3] that tells exactly, in a few operations each, which queries some member covers.

Members are cut into steps along the first two objectives. A table holds the smallest third objective among members in
strictly lower steps of both; only members that share a step with the query are compared one by one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

_MOST_STEPS = 256


class CoverIndex:
    """Built once from `points`, asked many times. A member covers a query when it is nowhere above it."""

    def __init__(self, points: Floats) -> None:
        self.points = points
        steps = min(max(int(4.0 * math.sqrt(len(points))), 16), _MOST_STEPS)
        self._edges: list[Floats] = []
        self._order: list[Ints] = []
        self._starts: list[Ints] = []
        self._columns: list[Floats] = []
        at: list[Ints] = []
        for axis in (0, 1):
            values = np.sort(points[:, axis])
            edges = values[:: len(values) // steps + 1]
            step: Ints = np.searchsorted(edges, points[:, axis])
            order: Ints = np.argsort(step, kind="stable")
            self._edges.append(edges)
            self._order.append(order)
            self._starts.append(np.searchsorted(step[order], np.arange(len(edges) + 2)))
            self._columns.append(np.ascontiguousarray(points[order].T))
            at.append(step)
        table = np.full((len(self._edges[0]) + 2, len(self._edges[1]) + 2), np.inf)
        np.minimum.at(table, (at[0] + 1, at[1] + 1), points[:, 2])
        np.minimum.accumulate(table, axis=0, out=table)
        self._table: Floats = np.minimum.accumulate(table, axis=1, out=table)
        self.compared = 0

    def covers(self, queries: Floats) -> Bools:
        """Whether some member is nowhere above each query [m, 3]."""
        return self._covers(queries, None)

    def covers_others(self) -> Bools:
        """Whether each member is covered by another one; of equal members each covers the other."""
        return self._covers(self.points, np.arange(len(self.points)))

    def _covers(self, queries: Floats, themselves: Ints | None) -> Bools:
        at = [np.searchsorted(self._edges[axis], queries[:, axis]) for axis in (0, 1)]
        result: Bools = self._table[at[0], at[1]] <= queries[:, 2]
        asked = np.ascontiguousarray(queries.T)
        for axis in (0, 1):
            undecided = np.flatnonzero(~result)
            step = at[axis][undecided]
            first = self._starts[axis][step]
            count = self._starts[axis][step + 1] - first
            query = np.repeat(undecided, count)
            # Members lie in the order of their steps: neighbours in memory are compared one after the other.
            member = np.arange(len(query)) + np.repeat(first - np.cumsum(count) + count, count)
            self.compared += len(member)
            # Column by column, so that most pairs are gone before the next one is read.
            for column in (2, 1 - axis, axis):
                near = np.flatnonzero(self._columns[axis][column].take(member) <= asked[column].take(query))
                query, member = query.take(near), member.take(near)
            if themselves is not None:
                query = query[self._order[axis][member] != themselves[query]]
            result[query] = True
        return result
