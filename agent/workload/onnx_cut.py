"""Cutting an ONNX graph: nodes, weights, inputs and outputs of each stage between boundaries. Parsed protos only.

A boundary is one tensor or a few; a stage makes what the boundary behind it consists of, walked back to what is there
already: the model's inputs and the tensors of the boundaries before it. Nodes that an earlier stage has too (shape
arithmetic, masks) are copied while they are cheap; a boundary that would need dear ones twice is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx

from agent.errors import ModelLoadFailed
from agent.records import record
from agent.workload.graph import Graph
from agent.workload.stages import SIDE_SHARE

Boundary = tuple[str, ...]
MAX_STAGES = 16
MAX_NAMED = 4
"""Tensors that an error names before it only counts them."""

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators whose copy would not give the same numbers."""


@record(frozen=True)
class Slice:
    """One stage. `receives`: tensors of earlier stages; `sends`: those that later ones read; `answers`: the model's."""

    nodes: tuple[Any, ...]
    given: tuple[str, ...]
    receives: tuple[str, ...]
    sends: tuple[str, ...]
    answers: tuple[str, ...]
    weights: frozenset[str]
    copies: int
    """Nodes that an earlier stage has too."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the stage model's inputs: what crosses first, then the model's own."""
        return (*self.receives, *self.given)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the stage model's outputs."""
        return (*self.sends, *(name for name in self.answers if name not in self.sends))


@record(frozen=True)
class NodeCosts:
    """Operations of the node that makes a tensor, bytes of its weights by name, and the graph's totals."""

    flops: Mapping[str, float]
    weights: Mapping[str, Mapping[str, float]]
    all_flops: float
    all_weight_bytes: float


def node_costs(graph: Graph) -> NodeCosts:
    """Costs by output name from the graph as the cost model reads it; folded nodes are missing and cost nothing."""
    flops = {name: sum(w.flops for w in n.cost.work) for n in graph.nodes for name in n.outputs[:1]}
    weights = {name: n.weights for n in graph.nodes for name in n.outputs[:1]}
    unique = {key: size for n in graph.nodes for key, size in n.weights.items()}
    return NodeCosts(flops, weights, sum(flops.values()), sum(unique.values()))


class Cutter:
    """Slices of one parsed model."""

    def __init__(self, model: Any, costs: NodeCosts) -> None:
        self._nodes = model.graph.node
        self._answers = [v.name for v in model.graph.output]
        self._costs = costs
        self._reads = [reads(node) for node in self._nodes]
        self._maker = {name: i for i, node in enumerate(self._nodes) for name in node.output if name}
        self._stored = {t.name for t in model.graph.initializer}
        self._stored |= {t.values.name for t in model.graph.sparse_initializer}
        self._given = [v.name for v in model.graph.input if v.name not in self._stored]
        self._inside = {name for node in self._nodes for name in _made_inside(node)}

    def slices(self, boundaries: Sequence[Boundary]) -> tuple[Slice, ...]:
        """The stages between the boundaries, in order. Raises ModelLoadFailed where the graph cannot be cut there."""
        if not 0 < len(boundaries) < MAX_STAGES:
            raise ModelLoadFailed(f"give 1 to {MAX_STAGES - 1} boundaries, for 2 to {MAX_STAGES} stages")
        for boundary in boundaries:
            self._check(boundary)
        homes = self._homes(boundaries)
        held: set[str] = set()
        before: set[int] = set()
        found: list[tuple[set[int], set[str], list[str], list[str]]] = []
        for index, boundary in enumerate((*boundaries, ())):
            sends = [name for name in boundary if name not in held]
            answers = [name for name in self._answers if homes[name] == index]
            nodes, read = self._needed([*sends, *answers], held)
            if index < len(boundaries) and not nodes - before:
                raise ModelLoadFailed(f"cannot be cut at {_named(boundary)}: no operator is left before it")
            self._check_copies(nodes & before, boundaries[:index])
            found.append((nodes, read, sends, answers))
            before |= nodes
            held.update(sends)
        if not found[-1][0]:
            raise ModelLoadFailed(f"cannot be cut at {_named(boundaries[-1])}: no operator is left behind it")
        return self._made(found)

    def _made(self, found: Sequence[tuple[set[int], set[str], list[str], list[str]]]) -> tuple[Slice, ...]:
        """Slices without what nobody reads: a tensor of a boundary may be an answer only."""
        made: list[Slice] = []
        before: set[int] = set()
        sent: set[str] = set()
        for index, (nodes, read, sends, answers) in enumerate(found):
            later = {name for row in found[index + 1 :] for name in row[1]}
            crossing = tuple(name for name in sends if name in later)
            if sends and not crossing:
                raise ModelLoadFailed(f"cannot be cut at {_named(sends)}: nothing behind reads it")
            made.append(
                Slice(
                    nodes=tuple(self._nodes[i] for i in sorted(nodes)),
                    given=tuple(name for name in self._given if name in read),
                    receives=tuple(sorted(read & sent)), sends=crossing, answers=tuple(answers),
                    weights=frozenset(read & self._stored), copies=len(nodes & before),
                )
            )  # fmt: skip
            before |= nodes
            sent.update(sends)
        return tuple(made)

    def crossing(self, boundary: Boundary) -> tuple[str, ...]:
        """Tensors made by what the boundary needs and read by the rest: what would have to cross there."""
        nodes, _ = self._needed(boundary, set())
        made = {name for i in nodes for name in self._nodes[i].output if name}
        wanted = {name for i, names in enumerate(self._reads) if i not in nodes for name in names}
        rest = made & wanted - set(boundary)
        dear = (name for name in sorted(rest, key=self._maker.__getitem__))
        return tuple(name for name in dear if not self._cheap(self._needed([name], set())[0]))

    def _check(self, boundary: Boundary) -> None:
        if not boundary:
            raise ModelLoadFailed("a boundary needs at least one tensor")
        for name in boundary:
            if name in self._maker:
                continue
            if name in self._given:
                raise ModelLoadFailed(f"cannot be cut at {name!r}: it is an input of the model")
            if name in self._stored:
                raise ModelLoadFailed(f"cannot be cut at {name!r}: it is a weight")
            if name in self._inside:
                raise ModelLoadFailed(f"cannot be cut at {name!r}: it lies inside the body of an If, Loop or Scan")
            raise ModelLoadFailed(f"cannot be cut at {name!r}: there is no such tensor{self._meant(name)}")

    def _meant(self, name: str) -> str:
        from difflib import get_close_matches  # noqa: PLC0415  (only for an error)

        near = get_close_matches(name, self._maker, 1)
        return f" (did you mean {near[0]!r}?)" if near else ""

    def _homes(self, boundaries: Sequence[Boundary]) -> dict[str, int]:
        """Stage that makes each answer: the first that has it at hand, else behind the last boundary it depends on."""
        homes = dict.fromkeys(self._answers, 0)
        for index, boundary in enumerate(boundaries, 1):
            after = self._depending(boundary)
            homes.update({name: index for name in self._answers if name in after})
        for index in reversed(range(len(boundaries))):
            nodes, _ = self._needed(boundaries[index], set())
            made = {name for i in nodes for name in self._nodes[i].output}
            homes.update({name: index for name in self._answers if name in made and index < homes[name]})
        return homes

    def _depending(self, start: Iterable[str]) -> set[str]:
        """Tensors computed from `start`."""
        begin = set(start)
        found = set(begin)
        for node, names in zip(self._nodes, self._reads, strict=True):
            if not found.isdisjoint(names):
                found.update(node.output)
        return found - begin - {""}

    def _needed(self, outputs: Iterable[str], held: set[str]) -> tuple[set[int], set[str]]:
        """Nodes that the outputs need besides what is held, and all names they read."""
        nodes: set[int] = set()
        read: set[str] = set()
        open_ = list(outputs)
        read.update(name for name in open_ if name in held or name not in self._maker)
        open_ = [name for name in open_ if name not in held]
        while open_:
            index = self._maker.get(open_.pop())
            if index is None or index in nodes:
                continue
            nodes.add(index)
            read |= self._reads[index]
            open_ += [name for name in self._reads[index] if name not in held]
        return nodes, read

    def _check_copies(self, copies: set[int], before: Sequence[Boundary]) -> None:
        if not copies:
            return
        for index in copies:
            if self._nodes[index].op_type in _RANDOM:
                sentence = f"both sides need the same {self._nodes[index].op_type}"
                raise ModelLoadFailed(f"cannot be cut at {_named(before[-1])}: {sentence}")
        if self._cheap(copies):
            return
        rest = self.crossing(before[-1])
        if not rest:
            raise ModelLoadFailed(f"cannot be cut at {_named(before[-1])}: {len(copies)} operators would run twice")
        if len(rest) > MAX_NAMED:
            raise ModelLoadFailed(f"cannot be cut at {_named(before[-1])}: {len(rest)} more tensors cross there")
        verb = "crosses" if len(rest) == 1 else "cross"
        raise ModelLoadFailed(
            f"cannot be cut at {_named(before[-1])}: {_named(rest)} {verb} there too; "
            f"a boundary of all of them is {','.join((*before[-1], *rest))}"
        )

    def _cheap(self, nodes: Iterable[int]) -> bool:
        """Whether the nodes together are worth next to nothing."""
        flops, weights = 0.0, dict[str, float]()
        for index in nodes:
            if self._nodes[index].op_type in _RANDOM:
                return False
            for name in self._nodes[index].output:
                flops += self._costs.flops.get(name, 0.0)
                weights.update(self._costs.weights.get(name, {}))
        costs = self._costs
        return flops <= SIDE_SHARE * costs.all_flops and sum(weights.values()) <= SIDE_SHARE * costs.all_weight_bytes


def _named(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def reads(node: Any) -> set[str]:
    """Names a node reads, those its bodies take from around them included."""
    return {name for name in node.input if name}.union(*(_captured(body) for body in bodies(node)))


def bodies(node: Any) -> list[Any]:
    """Graphs inside a node."""
    found = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return found + [g for a in node.attribute if a.type == onnx.AttributeProto.GRAPHS for g in a.graphs]


def _captured(body: Any) -> set[str]:
    own = {v.name for v in body.input} | {t.name for t in body.initializer} | {n for p in body.node for n in p.output}
    own |= {t.values.name for t in body.sparse_initializer}
    asked = {name for p in body.node for name in reads(p)} | {v.name for v in body.output}
    return asked - own


def _made_inside(node: Any) -> set[str]:
    made: set[str] = set()
    for body in bodies(node):
        made.update(name for inner in body.node for name in (*inner.output, *_made_inside(inner)))
    return made
