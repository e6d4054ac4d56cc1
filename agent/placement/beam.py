"""Cheapest assignments that fit in memory, by a beam over the stages: what prices on memory alone cannot reach.

With memory priced, the shortest path jumps from one that does not fit to one that leaves room; the best that fits lies
between. A beam keeps several partial assignments for each accelerator, ordered by their cost with memory at its price
plus the cheapest way to the end at that price (a Lagrangian bound, Handler & Zang 1980,
doi:10.1002/net.3230100403), and drops those that cannot fit any more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from agent.placement.problem import Floats
from agent.records import record

Rows = NDArray[np.int8]
Index = NDArray[np.intp]


@record(frozen=True, eq=False)
class Scalarised:
    """W weightings of a problem: cost of stages [W, L, D] (infinite where forbidden), and of links by stage [W, D, D].

    memory [m, L, D], capacity [m] and price [W, m] are those of the domains that can bind.
    """

    stage: Floats
    link: Callable[[int], Floats]
    memory: Floats
    capacity: Floats
    price: Floats


def fitting_paths(costs: Scalarised, keep: int) -> Rows:
    """Assignments [n, L] that fit, for each weighting up to `keep` for each accelerator of the last stage.

    `keep` is also the number of partial assignments that stay for each accelerator.
    """
    width, stages, count = costs.stage.shape
    domains = len(costs.capacity)
    ahead, least = _completions(costs)
    used = np.broadcast_to(costs.memory[:, None, 0, :, None], (domains, width, count, 1))
    cost = np.where(_overfull(costs, least, used, 0), np.inf, costs.stage[:, 0, :, None])
    came: list[Index] = []
    for at in range(1, stages):
        grown = cost[:, None] + costs.link(at - 1).transpose(0, 2, 1)[..., None]
        grown = grown.reshape(width, count, -1) + costs.stage[:, at, :, None]
        held = used.reshape(domains, width, 1, grown.shape[2]) + costs.memory[:, None, at, :, None]
        key = grown + ahead[:, at, :, None] + np.einsum("wm,mwdk->wdk", costs.price, held)
        key[_overfull(costs, least, held, at)] = np.inf
        chosen = _best(key, held, keep)
        cost = np.where(np.isinf(np.take_along_axis(key, chosen, axis=2)), np.inf, np.take_along_axis(grown, chosen, 2))
        used = np.take_along_axis(held, chosen[None], axis=3)
        came.append(chosen)
    return _trace(cost, came)


def _overfull(costs: Scalarised, least: Floats, held: Floats, at: int) -> NDArray[np.bool_]:
    """Of memory held [m, W, D, n] up to a stage: whether it cannot fit any more, whatever follows."""
    room = (costs.capacity[:, None] - least[:, at])[:, None, :, None]
    over: NDArray[np.bool_] = np.any(held > room, axis=0)
    return over


def _completions(costs: Scalarised) -> tuple[Floats, Floats]:
    """Priced cost of the cheapest way from each stage to the end, [W, L, D], and the least memory on it, [m, L, D]."""
    _, stages, count = costs.stage.shape
    ahead = np.zeros(costs.stage.shape)
    least = np.zeros((len(costs.capacity), stages, count))
    priced = costs.stage + np.einsum("wm,mld->wld", costs.price, costs.memory)
    possible = np.isfinite(costs.stage).any(axis=0)
    needed = np.where(possible, costs.memory, np.inf).min(axis=2)
    for at in range(stages - 2, -1, -1):
        ahead[:, at] = (costs.link(at) + (priced[:, at + 1] + ahead[:, at + 1])[:, None, :]).min(axis=2)
        least[:, at] = least[:, at + 1] + needed[:, at + 1, None]
    return ahead, least


def _best(key: Floats, held: Floats, keep: int) -> Index:
    """Indices [W, D, keep] of the lowest keys, ascending; of equals (layers alike, swapped) one stays finite."""
    many = min(2 * keep, key.shape[2])
    some = np.argpartition(key, many - 1, axis=2)[:, :, :many] if many < key.shape[2] else np.arange(many)
    some = np.broadcast_to(some, (*key.shape[:2], many))
    value = np.take_along_axis(key, some, axis=2)
    order = np.argsort(value, axis=2, kind="stable")
    some, value = np.take_along_axis(some, order, axis=2), np.take_along_axis(value, order, axis=2)
    near = value[..., 1:] <= value[..., :-1] + 1e-12 * np.abs(value[..., :-1])
    for each in held:
        mine = np.take_along_axis(each, some, axis=2)
        near &= np.abs(mine[..., 1:] - mine[..., :-1]) <= 1e-12 * mine[..., 1:]
    value[..., 1:][near] = np.inf
    np.put_along_axis(key, some, value, axis=2)
    return np.take_along_axis(some, np.argsort(value, axis=2, kind="stable")[..., :keep], axis=2)


def _trace(cost: Floats, came: list[Index]) -> Rows:
    """The assignments [n, L] of all labels that are left at the end."""
    weight, place, label = np.nonzero(np.isfinite(cost))
    rows = np.zeros((len(weight), len(came) + 1), dtype=np.int8)
    for at in range(len(came), 0, -1):
        rows[:, at] = place
        before = came[at - 2].shape[2] if at > 1 else 1
        place, label = np.divmod(came[at - 1][weight, place, label], before)
    rows[:, 0] = place
    return rows
