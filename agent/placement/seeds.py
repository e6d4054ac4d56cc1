"""Starting points: shortest paths through the stages for random weights of the objectives.

The utilisation ratio N/Q is linearised to N − λQ at the last solution's λ (Dinkelbach 1967, Management Science 13(7)),
memory is priced by multipliers that are bisected for each domain until the path fits. Where memory binds, a beam at the
last prices then finds for the extremes what lies between the paths that fit and those that do not.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from agent.placement.beam import Scalarised, fitting_paths
from agent.placement.moves import Costs, Rows
from agent.placement.problem import Bools, Floats, Problem

_RATIO_ROUNDS = 3
_PRICE_ROUNDS = 9
_BATCH_LINKS = 60_000
_BATCH_STAGES = 1_000_000
"""Numbers formed together for the links of one stage, and for the costs of all stages."""
_ASK_CELLS = 500_000
"""Numbers formed between two looks at the budget, about 2 ms."""
_BEAM = 16
"""Partial assignments that a beam keeps for each accelerator."""
_FIRST = 12
"""Weight vectors, extremes and edges, that are solved before all others where time is short."""
_STEPS, _STEP, _SHRINK = 24, 1.0, 0.87
"""Steps of the prices before a beam: how many, how far the first one goes for each part over capacity, what follows."""


def rounds(tables: Costs) -> int:
    """How many shortest-path rounds `seeds` runs: more where memory can bind."""
    return _RATIO_ROUNDS + (_PRICE_ROUNDS if len(tables.capacity) else 0)


def beamed(tables: Costs) -> int:
    """Partial assignments that the beam of one weight vector forms; 0 where memory cannot bind."""
    return tables.stages * _BEAM * int(tables.stage.shape[2]) ** 2 if len(tables.capacity) else 0


def weight_vectors(rng: np.random.Generator, count: int) -> Floats:
    """`count` weight vectors [n, 3]: corners, edges and centre first, the rest random on the simplex."""
    fixed = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 4, 4], [4, 1, 4], [4, 4, 1]],
        dtype=np.float64,
    )
    weights = np.concatenate([fixed, rng.gamma(0.7, size=(max(count - len(fixed), 0), 3)) + 1e-9])[:count]
    # A whisper of the others breaks ties towards points that are not dominated.
    weights = weights / weights.sum(axis=1, keepdims=True) + 1e-6
    result: Floats = weights
    return result


def shortest_paths(stage: Floats, link: Floats | Callable[[int], Floats]) -> Rows:
    """For each of W cost tables [W, L, D] with links [W, L-1, D, D] the cheapest assignment, [W, L].

    Links may be a function of the stage instead, link(l) of shape [W, D, D]: all together can be gigabytes.
    """
    width, stages, count = stage.shape
    after = link if callable(link) else lambda at: link[:, at]
    best = stage[:, 0].copy()
    came = np.zeros((stages, width, count), dtype=np.int8)
    for at in range(1, stages):
        through = best[:, :, None] + after(at - 1)
        came[at] = through.argmin(axis=1)
        best = through.min(axis=1) + stage[:, at]
    rows = np.zeros((width, stages), dtype=np.int8)
    rows[:, -1] = best.argmin(axis=1)
    each = np.arange(width)
    for at in range(stages - 1, 0, -1):
        rows[:, at - 1] = came[at, each, rows[:, at]]
    return rows


def seeds(
    tables: Costs,
    allowed: Bools,
    rng: np.random.Generator,
    weights: Floats,
    stop: Callable[[], bool] | None = None,
    beams: int = 0,
) -> tuple[Rows, Rows]:
    """Assignments [n, L] for weight vectors [W, 3]: all that were met on the way, and the last of each vector.

    Not all fit in memory; the last of each vector does unless its multipliers found no way. `stop` is asked every few
    milliseconds; what was met until then counts. beams: how many weight vectors get a beam.
    """
    scale = _scales(tables, allowed)
    ratio = rng.uniform(scale[4], scale[5], len(weights))
    nothing: Rows = np.zeros((0, tables.stages), dtype=np.int8)
    met, ends = [nothing], [nothing]
    width = _batch_width(tables, len(weights))
    cuts = [*range(0, len(weights), width), len(weights)]
    if stop is not None and cuts[1] > _FIRST:
        cuts.insert(1, _FIRST)  # so that there is something when it says so
    # Huge costs overflow: such paths are no use, and those that use a forbidden pair for it are left out later.
    with contextlib.suppress(_Stopped), np.errstate(over="ignore", invalid="ignore"):
        for begin, end in itertools.pairwise(cuts):
            batch = slice(begin, end)
            few = min(max(beams - begin, 0), end - begin)
            _batch(tables, allowed, weights[batch], ratio[batch], scale, met, stop, few)
            ends.append(met[-1])
    everything = np.concatenate(met)
    return everything[_firsts(everything)], np.concatenate(ends)


def _firsts(rows: Rows) -> list[int]:
    """Indices of rows that no earlier one equals; sorting rows would take many times longer."""
    seen: dict[bytes, int] = {}
    for at, row in enumerate(rows):
        seen.setdefault(row.tobytes(), at)
    return list(seen.values())


class _Stopped(Exception):
    """The caller wants no more."""


def _batch_width(tables: Costs, count: int) -> int:
    """Weight vectors that are solved together: as many as keep a step of the recursion small."""
    accelerators = int(tables.stage.shape[2])
    return max(1, min(count, _BATCH_LINKS // accelerators**2, _BATCH_STAGES // (tables.stages * accelerators)))


def _batch(
    tables: Costs,
    allowed: Bools,
    weights: Floats,
    ratio: Floats,
    scale: Floats,
    met: list[Rows],
    stop: Callable[[], bool] | None,
    beams: int,
) -> None:
    """Add the assignments of each round for some weight vectors to `met`; _Stopped when `stop` says so."""
    forbidden = np.where(allowed, 0.0, np.inf)
    price = np.zeros((len(weights), len(tables.capacity)))
    low, high = np.zeros_like(price), np.full_like(price, np.inf)
    start = float((tables.stage[0] + tables.stage[1] * scale[0] / scale[1]).max())
    occupied = [_median(memory[memory > 0.0]) for memory in tables.stage[4:]]
    unit = start / scale[0] / np.array(occupied) if occupied else 1.0
    scaled = weights / scale[:3]
    asked = max(1, _ASK_CELLS // (len(weights) * tables.stage.shape[2] ** 2))

    def link(at: int) -> Floats:
        if stop is not None and at % asked == 0 and stop():
            raise _Stopped
        after: Floats = scaled[:, 0, None, None] * tables.link[0][at]
        after += scaled[:, 1, None, None] * tables.link[1][at]
        return after

    for turn in range(rounds(tables)):
        rows = shortest_paths(_scalarised(tables, scaled, ratio, price) + forbidden, link)
        met.append(rows)
        sums = tables.stage[2:, np.arange(tables.stages), rows.astype(np.intp)].sum(axis=-1)
        ratio = sums[0] / sums[1]
        if turn < _RATIO_ROUNDS - 1 or not len(tables.capacity):
            continue
        over = tables.capacity < sums[2:].T
        low, high = np.where(over, price, low), np.where(over, high, price)
        grown = np.maximum(4.0 * price, 0.02 * unit)
        price = np.where(np.isinf(high), np.where(over, grown, price), 0.5 * (low + high))
    if len(tables.capacity) and beams:
        stage = _scalarised(tables, scaled, ratio, np.zeros((len(weights), 0))) + forbidden
        few = slice(0, beams)
        costs = Scalarised(stage[few], lambda at: link(at)[few], tables.stage[4:], tables.capacity, price[few])
        costs = _sharpened(costs, unit)
        # The paths again: the last of `met` is what a weight vector ended with.
        met += [fitting_paths(costs, _BEAM), rows]


def _sharpened(costs: Scalarised, unit: Floats | float) -> Scalarised:
    """With prices at which the Lagrangian bound is higher: steps against what is over or under capacity."""
    width, stages, count = costs.stage.shape
    each, at = np.arange(width)[:, None], np.arange(stages)
    links = np.zeros((width, stages - 1, count, count))
    for after in range(stages - 1):
        links[:, after] = costs.link(after)
    # A domain without capacity still has a measure: a trifle of what may come to it.
    measure = np.maximum(costs.capacity, 1e-9 * costs.memory.max(axis=2).sum(axis=1))
    price = best = costs.price
    highest = np.full(width, -np.inf)
    for turn in range(_STEPS):
        priced = costs.stage + np.einsum("wm,mld->wld", price, costs.memory)
        rows = shortest_paths(priced, links).astype(np.intp)
        used = costs.memory[:, at, rows].sum(axis=-1).T
        value = priced[each, at, rows].sum(axis=1) - price @ costs.capacity
        value += links[each, at[:-1], rows[:, :-1], rows[:, 1:]].sum(axis=1)
        higher = value > highest
        highest, best = np.where(higher, value, highest), np.where(higher[:, None], price, best)
        excess = np.clip(used / measure - 1.0, -1.0, 1.0)
        price = np.where((price == 0.0) & (excess > 0.0), 0.02 * unit, price * np.exp(_STEP * _SHRINK**turn * excess))
    return replace(costs, price=best)


def _median(values: Floats) -> float:
    """As numpy's, which imports masked arrays first: tens of milliseconds in the middle of a re-plan."""
    ordered = np.sort(values)
    return 0.5 * float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2])


def cheapest(problem: Problem) -> Rows:
    """Each stage by itself on its best accelerator, for each objective, [4, L]: what takes no time at all."""
    idle = problem.busy_den - problem.busy_util_num
    tables = (problem.energy, problem.latency, problem.energy * problem.latency, idle)
    return np.stack([np.where(problem.allowed, table, np.inf).argmin(axis=1).astype(np.int8) for table in tables])


def _scales(tables: Costs, allowed: Bools) -> Floats:
    """Typical energy, latency and busy time of a whole assignment, then 0, then the lowest and highest pair ratio."""
    mean = np.where(allowed, tables.stage[:4], 0.0).sum(axis=2).sum(axis=1) / max(float(allowed.mean()), 1e-9)
    mean = mean / allowed.shape[1]
    used = allowed & (tables.stage[3] > 0.0)
    ratios = tables.stage[2][used] / tables.stage[3][used]
    # Utilisation is scaled like the others: by the spread that a whole assignment can have.
    spread = max(float(ratios.max() - ratios.min()), 1e-9)
    return np.array(
        [
            max(mean[0], 1e-300),
            max(mean[1], 1e-300),
            spread * max(mean[3], 1e-300),
            0.0,
            float(ratios.min()),
            float(ratios.max()),
        ]
    )


def _scalarised(tables: Costs, weights: Floats, ratio: Floats, price: Floats) -> Floats:
    energy, latency, num, den = tables.stage[:4]
    column = weights[:, :, None, None]
    stage: Floats = column[:, 0] * energy + column[:, 1] * latency - column[:, 2] * (num - ratio[:, None, None] * den)
    for domain in range(price.shape[1]):
        stage += price[:, domain, None, None] * tables.stage[4 + domain]
    return stage
