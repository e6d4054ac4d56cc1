"""ONNX graph: reads a model file into a `Graph` – what runs at inference time, with work and bytes per node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from agent.errors import ModelLoadFailed
from agent.schema.workload import TensorSpec, Workload
from agent.workload.graph import Graph, Node, Tensor
from agent.workload.onnx_ops import FREE, FUSABLE, work_of
from agent.workload.onnx_shapes import Shapes
from agent.workload.stages import make_stages

_OIP = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "bfloat16": "BF16",
}  # fmt: skip


def load(path: Path) -> onnx.ModelProto:
    """The model without its external data. ModelLoadFailed for what is not one."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises its own types, and they differ between versions
        raise ModelLoadFailed(f"not a readable ONNX file ({type(error).__name__})") from error
    if not model.graph.node or not model.opset_import:
        raise ModelLoadFailed("not an ONNX model: it has no nodes or no opset")
    return model


def read(path: Path, dims: Mapping[str, int]) -> Workload:
    """The forward workload at the given sizes of free dimensions (1 for the first one and 128 otherwise, noted)."""
    model = load(path)
    shapes = Shapes(model, dims)
    graph = to_graph(model, shapes)
    constants = {t.name for t in model.graph.initializer}
    return Workload(
        model=path.stem, format="onnx", stages=make_stages(graph),
        inputs=tuple(_spec(v) for v in model.graph.input if v.name not in constants),
        outputs=tuple(_spec(v) for v in model.graph.output), notes=tuple(dict.fromkeys(graph.notes))[:20],
    )  # fmt: skip


def to_graph(model: onnx.ModelProto, shapes: Shapes) -> Graph:
    """Nodes that run, without what every runtime folds at load time."""
    inputs = {v.name for v in model.graph.input} - shapes.constants
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    aliases: dict[str, str] = {}
    nodes: list[Node] = []
    producers: dict[str, Node] = {}
    quantised = _quantised(model, shapes)
    for proto in model.graph.node:
        if not _runs(proto, shapes):
            continue
        activations = tuple(aliases.get(n, n) for n in proto.input if n and _is_activation(n, shapes))
        if proto.op_type in FREE and activations:
            aliases[proto.output[0]] = activations[0]
            continue
        node = _node(proto, shapes, activations, quantised, producers, uses)
        nodes.append(node)
        producers.update(dict.fromkeys(node.outputs, node))
    tensors = {
        name: Tensor(name, shapes.size_bytes(name), name in inputs)
        for node in nodes
        for name in (*node.inputs, *node.outputs)
    }
    outputs = tuple(aliases.get(v.name, v.name) for v in model.graph.output)
    notes = list(shapes.notes)
    if any(a.type == a.GRAPH for n in model.graph.node for a in n.attribute):
        notes.append("bodies of If, Loop and Scan are not counted")
    return Graph(tuple(nodes), tensors, outputs, tuple(notes))


def _runs(proto: onnx.NodeProto, shapes: Shapes) -> bool:
    """Whether something is left to do at inference time: not constant, and not known from the shapes alone."""
    outputs = [name for name in proto.output if name]
    return not all(name in shapes.constants or name in shapes.values for name in outputs)


def _is_activation(name: str, shapes: Shapes) -> bool:
    return name not in shapes.constants and name not in shapes.values


def _quantised(model: onnx.ModelProto, shapes: Shapes) -> dict[str, float]:
    """Weights that are stored in 8 bits and dequantised in the graph → bytes as stored."""
    found = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in shapes.constants:
            found[node.output[0]] = shapes.size_bytes(node.input[0])
    return found


def _node(
    proto: onnx.NodeProto,
    shapes: Shapes,
    activations: tuple[str, ...],
    quantised: Mapping[str, float],
    producers: Mapping[str, Node],
    uses: Mapping[str, int],
) -> Node:
    weights = tuple(
        (n, quantised.get(n, shapes.size_bytes(n))) for n in proto.input if n in shapes.constants and shapes.count(n)
    )
    fused = (
        proto.op_type in FUSABLE and bool(activations) and activations[0] in producers
        and uses.get(activations[0], 0) == 1
    )  # fmt: skip
    outputs = tuple(n for n in proto.output if n)
    kv_bytes = 0.0
    if proto.op_type in {"GroupQueryAttention", "MultiHeadAttention"}:
        kv_bytes = sum(shapes.size_bytes(n) for n in proto.input[3:5] if n)
    return Node(
        name=proto.name or outputs[0], operator=proto.op_type, inputs=activations, outputs=outputs,
        work=work_of(proto, shapes, any(n in quantised for n in proto.input)), weights=weights, kv_bytes=kv_bytes,
        fused=fused,
    )  # fmt: skip


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    try:
        name = _OIP.get(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, "BYTES")
    except KeyError:
        name = "BYTES"
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else -1 for d in kind.shape.dim)
    return TensorSpec(name=value.name, datatype=name, shape=shape)
