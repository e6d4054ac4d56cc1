"""Kernels: which nodes a runtime runs as one, and which activations really travel through memory. Pure.

Fusion assumed (what ONNX Runtime, OpenVINO, TensorRT and XNNPACK have in common): a convolution or matrix product takes
along the elementwise nodes that follow it (bias, batch normalisation, activation, gating such as x·sigmoid(x), residual
addition), as long as nobody else reads what lies between. Decomposed normalisations (ReduceMean … Mul, Add) become
one kernel. Views (Reshape, Squeeze, …) move nothing. Elementwise nodes elsewhere are kernels of their own.
LiteRT fuses nothing that its files have not fused already.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.records import record
from agent.schema.workload import Kernels, Work
from agent.workload.graph import VIEWS, Graph, Node, Tensor, merge_work
from agent.workload.routines import kernels_of

MAX_FUSED = 16
"""Longest chain taken into one kernel."""
_SQUARES = ("Pow", "Mul", "Square")


@record(frozen=True)
class Kernel:
    """Nodes that run as one. `reads`/`writes` are the activations it moves, without weights."""

    name: str
    operators: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    work: tuple[Work, ...]
    moved_bytes: float
    kv_bytes: float
    idle_weight_bytes: float
    weights: dict[str, float]
    nodes: int
    runs: tuple[Kernels, ...]

    @property
    def flops(self) -> float:
        """All operations."""
        return sum(w.flops for w in self.work)


class _Links:
    """Who makes and who reads each tensor, views resolved to what they show."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.source: dict[str, str] = {}
        self.readers: dict[str, list[int]] = {}
        self.views: dict[str, int] = {}
        for index, node in enumerate(graph.nodes):
            if node.cost.kind in VIEWS and node.inputs:
                root = self.root(node.inputs[0])
                self.source.update(dict.fromkeys(node.outputs, root))
                self.views[root] = self.views.get(root, 0) + (node.cost.kind == "alias")
                continue
            for name in dict.fromkeys(self.root(i) for i in node.inputs):
                self.readers.setdefault(name, []).append(index)
        self.kept = {self.root(o) for o in graph.outputs}

    def root(self, name: str) -> str:
        return self.source.get(name, name)

    def inputs(self, node: Node) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.root(i) for i in node.inputs))

    def tensor(self, name: str) -> Tensor:
        return self.graph.tensors[name]


def group(graph: Graph) -> tuple[Kernel, ...]:
    """The graph as kernels in an order that can be executed; every node that is not a view is in exactly one."""
    links = _Links(graph)
    taken: set[int] = set()
    groups: list[list[int]] = []
    for index, node in enumerate(graph.nodes):
        if index in taken or (node.cost.kind in VIEWS and node.inputs):
            continue
        members = [index, *_followers(links, index)]
        members = [m for m in members if m not in taken]
        taken.update(members)
        groups.append(members)
    groups.sort(key=max)
    return tuple(_kernel(links, members) for members in groups)


def live_bytes_peak(kernels: Iterable[Kernel], graph: Graph) -> float:
    """Peak bytes of activations alive at once when the kernels run in order and tensors die after their last reader."""
    order = tuple(kernels)
    links = _Links(graph)
    last: dict[str, int] = {}
    for index, kernel in enumerate(order):
        last.update(dict.fromkeys((*kernel.reads, *kernel.writes), index))
    made = {name for kernel in order for name in kernel.writes}
    alive = {n for n in last if n not in made}
    current = sum(links.tensor(n).bytes for n in alive)
    peak = current
    for index, kernel in enumerate(order):
        current += sum(links.tensor(n).bytes for n in kernel.writes)
        peak = max(peak, current)
        for name in {*kernel.reads, *kernel.writes}:
            if last[name] == index:
                current -= links.tensor(name).bytes
    return peak


def _followers(links: _Links, start: int) -> list[int]:
    node = links.graph.nodes[start]
    if len(node.outputs) != 1 or not links.graph.fuses:
        return []
    if node.cost.kind == "heavy":
        return _absorb(links, start, node.outputs[0], None)
    if _starts_normalisation(links, start):
        inputs = links.inputs(node)
        members = _absorb(links, start, node.outputs[0], set(inputs))
        if members and _elements(links, members[-1]) == links.tensor(inputs[0]).elements:
            return members
    return []


def _starts_normalisation(links: _Links, index: int) -> bool:
    node = links.graph.nodes[index]
    if len(links.inputs(node)) != 1:
        return False
    if node.cost.kind == "reduce":
        return True
    readers = links.readers.get(node.outputs[0], [])
    after = [links.graph.nodes[r].cost.kind for r in readers]
    return node.operator in _SQUARES and after == ["reduce"]


def _elements(links: _Links, index: int) -> int:
    return links.tensor(links.graph.nodes[index].outputs[0]).elements


def _absorb(links: _Links, start: int, output: str, allowed: set[str] | None) -> list[int]:
    """Nodes after `start` that one kernel can take, up to a point where a single tensor leaves it.

    allowed: activations from outside that they may read; None = any that exist by then (residuals).
    """
    nodes = links.graph.nodes
    size = links.tensor(output).elements
    inside, members = {output}, [start]
    open_: set[str] = {output}
    best: list[int] = []
    while len(members) <= MAX_FUSED:
        waiting = sorted(r for name in open_ for r in links.readers.get(name, ()) if r not in members)
        if not waiting:
            break
        node = nodes[waiting[0]]
        if not _fits(links, node, size, inside, allowed):
            break
        members.append(waiting[0])
        inside.update(node.outputs)
        open_.update(node.outputs)
        open_ = {n for n in open_ if not _closed(links, n, members)}
        if open_ == set(node.outputs):
            best = members[1:]
    return list(best)


def _closed(links: _Links, name: str, members: list[int]) -> bool:
    readers = links.readers.get(name, [])
    return bool(readers) and name not in links.kept and all(r in members for r in readers)


def _fits(links: _Links, node: Node, size: int, inside: set[str], allowed: set[str] | None) -> bool:
    if len(node.outputs) != 1:
        return False
    if allowed is None:
        return node.cost.kind == "elementwise" and links.tensor(node.outputs[0]).elements == size
    outside = {i for i in links.inputs(node) if i not in inside}
    return node.cost.kind in ("elementwise", "reduce") and outside <= allowed


def _kernel(links: _Links, members: list[int]) -> Kernel:
    nodes = [links.graph.nodes[m] for m in sorted(members)]
    made = {o for n in nodes for o in n.outputs}
    reads = tuple(dict.fromkeys(i for n in nodes for i in links.inputs(n) if i not in made))
    position = set(members)
    writes = tuple(o for n in nodes for o in n.outputs if o in links.kept or _read_outside(links, o, position))
    if not writes:
        writes = nodes[-1].outputs
    weights: dict[str, float] = {}
    for node in nodes:
        weights.update(node.weights)
    moved = sum(n.cost.inner_bytes for n in nodes) + sum(links.tensor(w).bytes for w in writes)
    limited = [n.cost.read_bytes for n in nodes if n.cost.read_bytes is not None]
    moved += sum(limited) if limited else sum(links.tensor(r).bytes for r in reads)
    views = sum(links.views.get(w, 0) for w in writes)
    return Kernel(
        name=nodes[0].name, operators=tuple(dict.fromkeys(n.operator for n in nodes)), reads=reads, writes=writes,
        work=merge_work([w for n in nodes for w in n.cost.work]), moved_bytes=moved,
        kv_bytes=sum(n.cost.kv_bytes for n in nodes), idle_weight_bytes=sum(n.cost.idle_weight_bytes for n in nodes),
        weights=weights, nodes=1 + views, runs=kernels_of(nodes, moved, views, _joined(links, nodes, made)),
    )  # fmt: skip


def _joined(links: _Links, nodes: list[Node], made: set[str]) -> set[int]:
    """Positions of nodes that read a whole activation from outside: one as large as what they make."""
    return {
        position
        for position, node in enumerate(nodes)
        for name in links.inputs(node)
        if name not in made and links.tensor(name).elements >= links.tensor(node.outputs[0]).elements > 1
    }


def _read_outside(links: _Links, name: str, members: set[int]) -> bool:
    return any(r not in members for r in links.readers.get(name, ()))
