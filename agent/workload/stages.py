"""Stages: where a graph can be cut so that one tensor crosses, or a few, and which cuts to keep. Pure.

A boundary lies between two kernels where exactly one activation is alive: produced before, read after. Graph inputs
that are read again later do not count (they are at hand everywhere), nor do side tensors: values worth less than a
thousandth of the graph's work and weights (masks, positions), which each stage computes again for itself.

Parallel branches between two such boundaries are one stage as long as that is light (series-parallel reduction). A
heavy one – detectors with several heads, networks with long skips, a decoder that reads its encoder – is cut further
where a few activations are alive. Its stages are a chain in the graph's order, and all that is alive is taken to cross
together at each of their boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import or_

from agent.records import record
from agent.schema.workload import Stage
from agent.workload.graph import Graph, merge_work
from agent.workload.kernels import Kernel, group, live_bytes_peak
from agent.workload.routines import merge

MAX_STAGES = 24
MAX_TENSORS = 4
"""Most tensors that cross a boundary."""
HEAVY_SHARE = 0.2
"""Share of the graph's cost from which a stretch without a single-tensor boundary is cut at several tensors."""
SIDE_SHARE = 1e-3
"""Share of the graph's operations and of its weights below which a value is computed again rather than passed on."""


@record(frozen=True)
class Cut:
    """A boundary before kernel `position`, crossed by `tensor` and the `others`."""

    position: int
    tensor: str
    others: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """All that cross."""
        return (self.tensor, *self.others)


def find_cuts(kernels: Sequence[Kernel], side: frozenset[str] = frozenset(), most: int = 1) -> tuple[Cut, ...]:
    """Every boundary where 1 to `most` tensors outside `side` are alive, in order.

    Of several tensors that stay the same over some kernels the first boundary counts.
    """
    last: dict[str, int] = {}
    for index, kernel in enumerate(kernels):
        last.update(dict.fromkeys(kernel.reads, index))
    cuts: list[Cut] = []
    alive: dict[str, None] = {}
    for index, kernel in enumerate(kernels[:-1]):
        alive.update(dict.fromkeys(n for n in kernel.writes if n not in side))
        alive = {n: None for n in alive if last.get(n, -1) > index}
        if 1 <= len(alive) <= most:
            first, *others = alive
            cut = Cut(index + 1, first, tuple(others))
            if most == 1 or not cuts or cuts[-1].tensors != cut.tensors:
                cuts.append(cut)
    return tuple(cuts)


def places(kernels: Sequence[Kernel], side: frozenset[str], loads: Sequence[float]) -> tuple[Cut, ...]:
    """Where stages may end: at single tensors, and inside what is heavy between two of them at a few, in order."""
    single = find_cuts(kernels, side)
    bounds = [0, *(c.position for c in single), len(kernels)]
    heavy = [(a, b) for a, b in pairwise(bounds) if sum(loads[a:b]) > HEAVY_SHARE * sum(loads)]
    if not heavy:
        return single
    several = find_cuts(kernels, side, MAX_TENSORS)
    inside = [c for c in several for a, b in heavy if a < c.position < b and not _shares(kernels[a:b], c.position - a)]
    return tuple(sorted((*single, *inside), key=lambda c: c.position))


def _shares(kernels: Sequence[Kernel], position: int) -> bool:
    """Whether kernels on both sides read the same weights, which two stages would hold twice."""
    before = {name for k in kernels[:position] for name in k.weights}
    return any(name in before for k in kernels[position:] for name in k.weights)


def side_tensors(kernels: Sequence[Kernel]) -> frozenset[str]:
    """Values whose whole history costs less than SIDE_SHARE of the graph's operations and of its weights."""
    flops = sum(k.flops for k in kernels)
    weights = _unique_bytes(kernels)
    made_by = {name: index for index, kernel in enumerate(kernels) for name in kernel.writes}
    history: list[int | None] = []
    found: set[str] = set()
    for index, kernel in enumerate(kernels):
        before = [history[made_by[name]] for name in kernel.reads if name in made_by]
        history.append(None)
        if None in before or kernel.kv_bytes > 0:
            continue
        past = reduce(or_, (b for b in before if b is not None), 1 << index)
        parts = [kernels[i] for i in _bits(past)]
        if sum(k.flops for k in parts) <= SIDE_SHARE * flops and _unique_bytes(parts) <= SIDE_SHARE * weights:
            history[index] = past
            found.update(kernel.writes)
    return frozenset(found)


def split(graph: Graph, max_stages: int = MAX_STAGES) -> tuple[Stage, ...]:
    """The graph as a chain of at most `max_stages` stages, balanced by operations and bytes.

    max_stages: >= 1, else ValueError. A graph without nodes gives one empty stage.
    """
    if max_stages < 1:
        raise ValueError(f"max_stages is {max_stages}, must be at least 1")
    kernels = group(graph)
    if not kernels:
        return (Stage(name="empty", work=(), weight_bytes=0, activation_bytes=0, input_bytes=0, output_bytes=0),)
    chosen = cuts_of(kernels, max_stages)
    bounds = [0, *(c.position for c in chosen), len(kernels)]
    sizes = [_sum_bytes(graph, graph.inputs), *(_sum_bytes(graph, c.tensors) for c in chosen)]
    sizes.append(_sum_bytes(graph, graph.outputs))
    seen: set[str] = set()
    return tuple(
        _stage(graph, index, kernels[bounds[index] : bounds[index + 1]], (sizes[index], sizes[index + 1], count), seen)
        for index, count in enumerate([*(len(c.tensors) for c in chosen), len(graph.outputs)])
    )


def cuts_of(kernels: Sequence[Kernel], max_stages: int) -> tuple[Cut, ...]:
    """The boundaries between the stages that `split` makes."""
    loads = cut_loads(kernels)
    return choose(places(kernels, side_tensors(kernels), loads), loads, max_stages)


def choose(cuts: Sequence[Cut], loads: Sequence[float], max_stages: int) -> tuple[Cut, ...]:
    """The cuts to keep: `max_stages` stages with the smallest possible heaviest stage.

    loads: cost of each kernel in one unit, >= 0. Where all cuts fit, all are kept.
    """
    if len(cuts) < max_stages:
        return tuple(cuts)
    total = [0.0]
    for load in loads:
        total.append(total[-1] + load)
    low, high = 0.0, total[-1]
    best: tuple[Cut, ...] = ()
    for _ in range(40):
        middle = (low + high) / 2
        packed = _pack(cuts, total, middle, max_stages)
        if packed is None:
            low = middle
        else:
            high, best = middle, packed
    return _refined(best, cuts, total, max_stages)


def _refined(kept: Sequence[Cut], cuts: Sequence[Cut], total: Sequence[float], max_stages: int) -> tuple[Cut, ...]:
    """Cut the heaviest stages in two, as near to their middle as possible, until there are `max_stages`."""
    chosen = {c.position: c for c in kept}
    while len(chosen) < max_stages - 1:
        bounds = [0, *sorted(chosen), len(total) - 1]
        found = None
        for begin, end in sorted(pairwise(bounds), key=lambda b: total[b[0]] - total[b[1]]):
            middle = (total[begin] + total[end]) / 2
            inside = [c for c in cuts if begin < c.position < end]
            if inside:
                found = min(inside, key=lambda c: abs(total[c.position] - middle))
                break
        if found is None:
            break
        chosen[found.position] = found
    return tuple(chosen[p] for p in sorted(chosen))


def _pack(cuts: Sequence[Cut], total: Sequence[float], limit: float, max_stages: int) -> tuple[Cut, ...] | None:
    """Fill stages from the left up to `limit`; None where that needs more than max_stages."""
    if total[cuts[0].position] > limit:
        return None
    kept: list[Cut] = []
    start = 0.0
    ends = [*(c.position for c in cuts[1:]), len(total) - 1]
    for cut, end in zip(cuts, ends, strict=True):
        if total[end] - start > limit:
            kept.append(cut)
            start = total[cut.position]
            if len(kept) >= max_stages or total[end] - start > limit:
                return None
    return tuple(kept)


def cut_loads(kernels: Sequence[Kernel]) -> list[float]:
    """Cost of each kernel: its share of all operations plus its share of all bytes."""
    flops = [k.flops for k in kernels]
    moved = [k.moved_bytes + k.kv_bytes + sum(k.weights.values()) - k.idle_weight_bytes for k in kernels]
    all_flops, all_bytes = sum(flops) or 1.0, sum(moved) or 1.0
    return [f / all_flops + max(0.0, b) / all_bytes for f, b in zip(flops, moved, strict=True)]


def _stage(
    graph: Graph, index: int, kernels: Sequence[Kernel], ends: tuple[float, float, int], seen: set[str]
) -> Stage:
    """The stage of some kernels. ends: bytes that enter, bytes that leave, and in how many tensors."""
    input_bytes, output_bytes, tensors = ends
    idle = sum(k.idle_weight_bytes for k in kernels)
    operators = sorted({op for k in kernels for op in k.operators})
    name = kernels[0].name or operators[0]
    if name in seen:
        name = f"{name}.{index}"
    seen.add(name)
    return Stage(
        name=name, work=merge_work([w for k in kernels for w in k.work]),
        weight_bytes=max(0.0, _unique_bytes(kernels) - idle), idle_weight_bytes=idle,
        activation_bytes=sum(k.moved_bytes for k in kernels), input_bytes=input_bytes, output_bytes=output_bytes,
        output_tensors=tensors, kv_bytes=sum(k.kv_bytes for k in kernels), arena_bytes=live_bytes_peak(kernels, graph),
        operators=tuple(operators), nodes=sum(k.nodes for k in kernels),
        kernels=merge([run for k in kernels for run in k.runs]),
    )  # fmt: skip


def _bits(mask: int) -> list[int]:
    """Positions of the bits set."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def _unique_bytes(kernels: Sequence[Kernel]) -> float:
    """Weights, those shared by several kernels once."""
    return sum({name: size for k in kernels for name, size in k.weights.items()}.values())


def _sum_bytes(graph: Graph, names: Sequence[str]) -> float:
    return sum(graph.tensors[n].bytes for n in names)
