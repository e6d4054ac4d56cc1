"""Stages: cuts a graph wherever a single activation crosses, and merges the pieces to a manageable chain. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from agent.schema.workload import Family, Precision, Stage, Work
from agent.workload.graph import Graph, Node

MAX_STAGES = 24
FLOPS_PER_BYTE = 8.0
"""Weight of a byte against an operation when pieces are merged to even sizes: about the ridge of a CPU."""


def make_stages(graph: Graph, max_stages: int = MAX_STAGES) -> tuple[Stage, ...]:
    """Stages of the graph in order; one tensor crosses each boundary and every node is in exactly one stage."""
    if not graph.nodes:
        return (Stage(name="empty", work=(), weight_bytes=0, activation_bytes=0, input_bytes=0, output_bytes=0),)
    ends = _merge(graph, cuts(graph), max_stages)
    stages, begin = [], 0
    for number, end in enumerate(ends):
        stages.append(_stage(graph, begin, end, f"s{number:02d}"))
        begin = end
    return tuple(stages)


def cuts(graph: Graph) -> list[int]:
    """Positions after which exactly one activation is alive, the end of the graph included.

    Graph inputs that a later node still reads count as alive, so that a stage never needs two tensors.
    """
    last_use: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        for name in node.inputs:
            last_use[name] = position
    for name in graph.outputs:
        last_use[name] = len(graph.nodes)
    alive = {t.name for t in graph.tensors.values() if t.graph_input and t.name in last_use}
    found = []
    for position, node in enumerate(graph.nodes):
        alive |= {name for name in node.outputs if last_use.get(name, -1) > position}
        alive -= {name for name in alive if last_use[name] <= position}
        if len(alive) == 1 and position + 1 < len(graph.nodes):
            found.append(position + 1)
    return [*found, len(graph.nodes)]


def _merge(graph: Graph, ends: Sequence[int], max_stages: int) -> list[int]:
    """At most `max_stages` pieces of about even weight, cut at the given positions only."""
    weights = [_weight(node) for node in graph.nodes]
    if len(ends) <= max_stages:
        return list(ends)
    share = sum(weights) / max_stages
    kept, filled = [], 0.0
    begin = 0
    for end in ends[:-1]:
        filled += sum(weights[begin:end])
        begin = end
        if filled >= share and len(kept) < max_stages - 1:
            kept.append(end)
            filled = 0.0
    return [*kept, ends[-1]]


def _weight(node: Node) -> float:
    return sum(w.flops for w in node.work) + FLOPS_PER_BYTE * sum(size for _, size in node.weights)


def _stage(graph: Graph, begin: int, end: int, name: str) -> Stage:
    nodes = graph.nodes[begin:end]
    flops: dict[tuple[Family, Precision], float] = defaultdict(float)
    weights: dict[str, float] = {}
    moved = 0.0
    for node in nodes:
        for work in node.work:
            flops[work.family, work.precision] += work.flops
        weights.update(node.weights)
        if not node.fused:
            moved += sum(_size(graph, t) for t in (*node.inputs, *node.outputs))
    produced = {t for node in nodes for t in node.outputs}
    used_later = {t for node in graph.nodes[end:] for t in node.inputs} | set(graph.outputs)
    entering = {t for node in nodes for t in node.inputs} - produced
    return Stage(
        name=name,
        work=tuple(Work(family=f, precision=p, flops=n) for (f, p), n in sorted(flops.items())),
        weight_bytes=sum(weights.values()), activation_bytes=moved,
        input_bytes=sum(_size(graph, t) for t in entering),
        output_bytes=sum(_size(graph, t) for t in produced & used_later),
        kv_bytes=sum(node.kv_bytes for node in nodes), arena_bytes=_arena(graph, begin, end),
        operators=tuple(sorted({node.operator for node in nodes})), nodes=len(nodes),
    )  # fmt: skip


def _size(graph: Graph, name: str) -> float:
    return graph.tensors[name].size_bytes if name in graph.tensors else 0.0


def _arena(graph: Graph, begin: int, end: int) -> float:
    """Peak bytes of activations alive at the same time while the stage runs."""
    nodes = graph.nodes[begin:end]
    used_later = {t for node in graph.nodes[end:] for t in node.inputs} | set(graph.outputs)
    last_use = {t: i for i, node in enumerate(nodes) for t in node.inputs}
    alive: set[str] = set()
    peak = 0.0
    for position, node in enumerate(nodes):
        alive |= {*node.inputs, *node.outputs}
        peak = max(peak, sum(_size(graph, t) for t in alive))
        alive = {t for t in alive if last_use.get(t, -1) > position or t in used_later}
    return peak
