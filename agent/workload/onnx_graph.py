"""ONNX files as operator graphs. Weights kept beside the file (external data) are sized from metadata, never read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from agent.errors import ModelLoadFailed
from agent.schema.workload import TensorSpec
from agent.workload import onnx_ops, onnx_ops_contrib
from agent.workload.graph import Cost, Graph, Node, Tensor, datatype_of, merge_work
from agent.workload.kernels import group
from agent.workload.onnx_layout import cancelled
from agent.workload.onnx_light import read_light
from agent.workload.onnx_ops import Call, light
from agent.workload.onnx_shapes import Propagation, dtype_name
from agent.workload.sizes import Sizes

_STANDARD = ("", "ai.onnx.ml")
_BODIES = ("If", "Loop", "Scan")
_THROUGH = 10
"""Steps over which a product of activations looks for its softmax."""


def load(path: Path) -> Any:
    """The parsed file without external data. Raises ModelLoadFailed with one clear line."""
    return _checked(lambda: onnx.load(str(path), load_external_data=False))


def outline(path: Path) -> Any:
    """As `load`, without the large weights: of a file of 2 GB only the graph is read. Not to be run or written."""
    return _checked(lambda: onnx.load_model_from_string(read_light(path)))


def _checked(parse: Callable[[], Any]) -> Any:
    try:
        model = parse()
    except (DecodeError, ValueError, RecursionError) as error:
        raise ModelLoadFailed("not an ONNX model, or damaged: its protobuf cannot be parsed") from error
    except OSError as error:
        raise ModelLoadFailed(f"cannot be read: {error.strerror or error}") from error
    if not model.graph.node or not model.graph.output:
        raise ModelLoadFailed("not an ONNX model, or damaged: it has no operators")
    return opened(model)


def opened(model: Any) -> Any:
    """The model with its own functions put in place of their calls."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _shorten_domains(model.graph)
    return model


def _shorten_domains(graph: Any) -> None:
    """The standard domain has two spellings; only the empty one is used from here on."""
    _check_texts(t.name for t in graph.initializer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        _check_texts((value.name, *(d.dim_param for d in value.type.tensor_type.shape.dim)))
    for node in graph.node:
        _check_texts((node.op_type, node.domain, node.name, *node.input, *node.output))
        _check_texts(attribute.name for attribute in node.attribute)
        if node.domain == "ai.onnx":
            node.domain = ""
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _shorten_domains(attribute.g)


def _check_texts(texts: Iterable[Any]) -> None:
    if not all(isinstance(text, str) for text in texts):  # bytes where they are no UTF-8
        raise ModelLoadFailed("damaged: a name in it is no text")


def read(model: Any, dims: Mapping[str, int]) -> Graph:
    """The main graph at those sizes. `dims`: sizes of free dimensions by name or kind (batch, sequence, past …)."""
    sizes = Sizes(dims)
    known = Propagation({o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import})
    initialised = {t.name for t in model.graph.initializer}
    free = [v for v in model.graph.input if v.name not in initialised]
    inputs = []
    for value in free:
        tensor = _declared(value, sizes)
        known.tensors[tensor.name] = tensor
        inputs.append(tensor)
    reader = _Reader(known, {t.name for t in inputs})
    nodes = reader.run(model.graph)
    outputs = [known.known(v.name, "the output") for v in model.graph.output]
    made = [t for t in outputs if not t.constant]
    return Graph(
        name=model.graph.name, nodes=tuple(nodes), tensors=reader.storage, inputs=tuple(t.name for t in inputs),
        outputs=tuple(t.name for t in made), input_specs=tuple(_spec(v) for v in free),
        output_specs=tuple(_spec(v) for v in model.graph.output),
        notes=(*sizes.notes(), *known.notes, *dict.fromkeys(reader.notes)),
    )  # fmt: skip


def _declared(value: Any, sizes: Sizes) -> Tensor:
    kind = value.type.tensor_type
    dims = list(kind.shape.dim)
    shape = tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else sizes.resolve(d.dim_param, i, len(dims))
        for i, d in enumerate(dims)
    )
    return Tensor(value.name, shape, dtype_name(kind.elem_type))


def _spec(value: Any) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else -1 for d in kind.shape.dim)
    return TensorSpec(name=value.name, datatype=datatype_of(dtype_name(kind.elem_type)), shape=shape)


class _Reader:
    """Walks a graph (or a body inside it) and turns protobuf nodes into costed nodes."""

    def __init__(self, known: Propagation, given: set[str]) -> None:
        self.known = known
        self.given = given
        self.storage: dict[str, Tensor] = {}
        self.aliases: set[str] = set()
        self.notes: list[str] = []

    def run(self, graph: Any) -> list[Node]:
        """Costed nodes of everything that is not folded away when the model is loaded."""
        for initializer in graph.initializer:
            self.known.add_initializer(initializer)
        for sparse in graph.sparse_initializer:
            self.known.add_initializer(sparse.values)
        for value in (*graph.value_info, *graph.output):
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                self.known.hints[value.name] = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
        protos = []
        bodies: dict[int, tuple[Cost, dict[str, float]]] = {}
        for proto in graph.node:
            if proto.op_type in _BODIES and proto.domain in _STANDARD:
                bodies[id(proto)] = self._body(proto)
            else:
                self.known.step(proto)
            if any(not self.known.tensors[o].constant for o in proto.output if o in self.known.tensors):
                protos.append(proto)
        attending = _attending(protos, self.known)
        self._store(protos, {o.name for o in graph.output})
        return [self._node(p, bodies.get(id(p)), i in attending) for i, p in enumerate(protos)]

    def _node(self, proto: Any, body: tuple[Cost, dict[str, float]] | None, attends: bool) -> Node:
        call = self.known.call(proto)
        call = Call(
            call.operator, call.inputs, call.outputs, call.attributes, call.sources, call.stored, attends=attends
        )
        constants = [t.name for t in call.inputs if t is not None and t.constant]
        weights: dict[str, float] = {}
        for name in constants:
            weights.update(self.known.stored[name])
        moving = tuple(t.name for t in call.inputs if t is not None and not t.constant)
        cost, more = body or (self._cost(proto, call), {})
        weights.update(more)
        outputs = tuple(o for o in proto.output if o in self.storage)
        return Node(proto.name or proto.op_type, proto.op_type, moving, outputs, cost, weights)

    def _cost(self, proto: Any, call: Call) -> Cost:
        if proto.output and proto.output[0] in self.aliases:
            return Cost("removed")
        rules = onnx_ops.RULES if proto.domain in _STANDARD else onnx_ops_contrib.RULES
        rule = rules.get(proto.op_type) or onnx_ops.RULES.get(proto.op_type)
        if rule is None:
            self.notes.append(f"{proto.op_type} is not in the table, counted as elementwise")
            return light(call, 1.0, "other")
        try:
            return rule(call)
        except (IndexError, ValueError, ZeroDivisionError) as error:
            raise ModelLoadFailed(f"node {proto.name or proto.op_type!r} has inputs of the wrong shape") from error

    def _store(self, protos: list[Any], outputs: set[str]) -> None:
        """Storage of activations: between quantised operators they lie in memory as integers; what moves nothing."""
        readers: dict[str, list[Any]] = {}
        for proto in protos:
            for name in set(proto.input):
                readers.setdefault(name, []).append(proto)
        self.storage = {n: t for n, t in self.known.tensors.items() if not t.constant}
        self.aliases = set(cancelled(protos, {n: len(t.shape) for n, t in self.storage.items()}))
        for proto in protos:
            if proto.op_type == "Cast" and self.storage[proto.input[0]].dtype == self.storage[proto.output[0]].dtype:
                self.aliases.add(proto.output[0])
            elif proto.op_type == "QuantizeLinear":
                name, made = proto.input[0], proto.output[0]
                if name not in self.given and name not in outputs and len(readers[name]) == 1:
                    self._retype(name, self.known.tensors[made].dtype)
                    self.aliases.add(made)
            elif proto.op_type == "DequantizeLinear" and proto.output[0] not in outputs:
                self._retype(proto.output[0], self.known.tensors[proto.input[0]].dtype)
                self.aliases.add(proto.output[0])

    def _retype(self, name: str, dtype: str) -> None:
        self.storage[name] = Tensor(name, self.storage[name].shape, dtype)

    def _body(self, proto: Any) -> tuple[Cost, dict[str, float]]:
        """Work and weights of the bodies: the dearest branch of If; Loop and Scan times their count where known."""
        best: tuple[float, Cost, dict[str, float], Propagation, Any] | None = None
        for attribute in proto.attribute:
            if attribute.type != onnx.AttributeProto.GRAPH:
                continue
            inner = Propagation(self.known.opsets, self.known)
            given = self._arguments(proto, attribute.g, inner)
            reader = _Reader(inner, given)
            nodes = reader.run(attribute.g)
            self.notes += [*reader.notes, *inner.notes]
            cost, weights = _inside(nodes, reader.storage, attribute.g)
            flops = sum(w.flops for w in cost.work)
            if best is None or flops > best[0]:
                best = (flops, cost, weights, inner, attribute.g)
        if best is None:
            raise ModelLoadFailed(f"node {proto.name or proto.op_type!r} has no body: the file is damaged")
        _, cost, weights, inner, body = best
        times = self._repeats(proto)
        shift = 1 if proto.op_type == "Loop" else 0
        for index, (name, value) in enumerate(zip(proto.output, body.output[shift:], strict=False)):
            found = inner.known(value.name, "a body")
            stacked = index >= _states(proto)
            self.known.tensors[name] = Tensor(name, (times, *found.shape) if stacked else found.shape, found.dtype)
        work = tuple(w.model_copy(update={"flops": w.flops * times}) for w in cost.work)
        return Cost("other", work, inner_bytes=cost.inner_bytes * times), weights

    def _arguments(self, proto: Any, body: Any, inner: Propagation) -> set[str]:
        names = list(proto.input)
        if proto.op_type == "Loop":
            names = ["", "", *names[2:]]
        for index, value in enumerate(body.input):
            outside = self.known.tensors.get(names[index]) if index < len(names) else None
            found = outside or _declared(value, Sizes({}))
            sliced = proto.op_type == "Scan" and index >= _states(proto)
            shape = found.shape[1:] if sliced else found.shape
            inner.tensors[value.name] = Tensor(value.name, shape, found.dtype)
        return {v.name for v in body.input}

    def _repeats(self, proto: Any) -> int:
        if proto.op_type == "If":
            self.notes.append("If: the more expensive branch is counted")
            return 1
        if proto.op_type == "Scan":
            scanned = self.known.known(proto.input[_states(proto)], "Scan")
            return scanned.shape[0] if scanned.shape else 1
        count = self.known.values.get(proto.input[0]) if proto.input else None
        if count is not None and count.size == 1 and 0 < int(count.reshape(-1)[0]) <= 10_000:
            return int(count.reshape(-1)[0])
        self.notes.append("Loop: how often its body runs is known only at run time, counted once")
        return 1


def _states(proto: Any) -> int:
    """How many inputs and outputs of Loop and Scan carry state from turn to turn; all for If."""
    if proto.op_type == "Loop":
        return max(0, len(proto.input) - 2)
    if proto.op_type == "Scan":
        scanned = next((a.i for a in proto.attribute if a.name == "num_scan_inputs"), 1)
        return max(0, min(len(proto.input) - 1, len(proto.input) - int(scanned)))
    return len(proto.output)


def _inside(nodes: list[Node], storage: Mapping[str, Tensor], body: Any) -> tuple[Cost, dict[str, float]]:
    names = tuple(v.name for v in body.output if v.name in storage)
    kernels = group(Graph("body", tuple(nodes), storage, (), names))
    weights = {n: b for k in kernels for n, b in k.weights.items()}
    moved = sum(k.moved_bytes for k in kernels)
    return Cost("other", merge_work([w for k in kernels for w in k.work]), inner_bytes=moved), weights


def _attending(protos: list[Any], known: Propagation) -> set[int]:
    """Positions of products of activations and softmaxes that belong to attention."""
    made = {o: i for i, p in enumerate(protos) for o in p.output if o}
    products = {
        i for i, p in enumerate(protos)
        if p.op_type in ("MatMul", "Einsum", "FusedMatMul") and len(p.input) > 1
        and not any(known.tensors[n].constant for n in p.input[:2])
    }  # fmt: skip
    found: set[int] = set()
    for index, proto in enumerate(protos):
        if proto.op_type != "Softmax":
            continue
        before = _upstream(protos, made, index, products)
        if before:
            found.update((index, *before))
    after = {i for i in products - found if _upstream(protos, made, i, found & _softmaxes(protos))}
    return found | after


def _softmaxes(protos: list[Any]) -> set[int]:
    return {i for i, p in enumerate(protos) if p.op_type == "Softmax"}


def _upstream(protos: list[Any], made: Mapping[str, int], start: int, wanted: set[int]) -> set[int]:
    """Wanted nodes reached from a node's inputs through at most _THROUGH steps of cheap nodes."""
    frontier, hits, seen = {start}, set(), {start}
    for _ in range(_THROUGH):
        frontier = {made[n] for i in frontier for n in protos[i].input if n in made} - seen
        seen |= frontier
        hits |= frontier & wanted
        frontier = {i for i in frontier - wanted if protos[i].op_type not in ("MatMul", "Gemm", "Conv", "Einsum")}
        if hits or not frontier:
            break
    return hits
