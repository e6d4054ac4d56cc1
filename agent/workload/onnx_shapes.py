"""ONNX shapes: resolves every tensor's shape and what can be computed at load time, node by node.

onnx's own inference of a whole graph gives up where a shape is computed by nodes (a Pad fed by Shape and Slice, say);
going node by node with the small constants at hand does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

SMALL = 4096
"""Elements up to which a constant is evaluated; larger ones (weights) only have a shape."""
DEFAULT_DIMS: dict[str, int] = {}
ASSUMED_BATCH, ASSUMED_SEQUENCE = 1, 128

Array = np.ndarray[Any, Any]


class Shapes:
    """Shape, element type, constness and (where small) value of every tensor of a graph."""

    def __init__(self, model: onnx.ModelProto, dims: Mapping[str, int]) -> None:
        self.notes: list[str] = []
        self.types: dict[str, TypeProto] = {}
        self.values: dict[str, Array] = {}
        self.constants: set[str] = set()
        self._opsets = list(model.opset_import)
        self._dims = dims
        for tensor in model.graph.initializer:
            self.constants.add(tensor.name)
            self.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            if _count(tensor.dims) <= SMALL and tensor.data_location != TensorProto.EXTERNAL:
                self.values[tensor.name] = numpy_helper.to_array(tensor)
        for value in model.graph.input:
            if value.name not in self.constants:
                self.types[value.name] = self._input_type(value)
        for node in model.graph.node:
            self._visit(node)

    # ------------------------------------------------------------------ reading

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape, or None where it is unknown."""
        proto = self.types.get(name)
        if proto is None or not proto.tensor_type.HasField("shape"):
            return None
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in proto.tensor_type.shape.dim]
        return None if any(s is None for s in sizes) else tuple(int(s or 0) for s in sizes)

    def count(self, name: str) -> float:
        """Elements; 0 where the shape is unknown."""
        shape = self.shape(name)
        return 0.0 if shape is None else float(np.prod(shape, dtype=np.float64))

    def dtype(self, name: str) -> np.dtype[Any]:
        """Element type; float32 where it is unknown."""
        proto = self.types.get(name)
        if proto is None or proto.tensor_type.elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
            return np.dtype(np.float32)
        return np.dtype(helper.tensor_dtype_to_np_dtype(proto.tensor_type.elem_type))

    def size_bytes(self, name: str) -> float:
        """Bytes of the tensor."""
        return self.count(name) * self.dtype(name).itemsize

    # ------------------------------------------------------------------ propagating

    def _input_type(self, value: onnx.ValueInfoProto) -> TypeProto:
        proto = TypeProto()
        proto.CopyFrom(value.type)
        for index, dim in enumerate(proto.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value <= 0:
                dim.dim_value = self._free(value.name, dim.dim_param, index)
        return proto

    def _free(self, tensor: str, symbol: str, index: int) -> int:
        if symbol in self._dims:
            return self._dims[symbol]
        size = ASSUMED_BATCH if index == 0 else ASSUMED_SEQUENCE
        self.notes.append(f"free size {symbol or index} of input {tensor} taken as {size}")
        return size

    def _visit(self, node: onnx.NodeProto) -> None:
        inputs = [name for name in node.input if name]
        if node.op_type == "Constant" or (inputs and all(name in self.constants for name in inputs)):
            self.constants |= set(node.output)
        value = self._evaluate(node, inputs)
        if value is not None:
            for name, array in zip(node.output, value, strict=False):
                self.values[name] = array
                element = helper.np_dtype_to_tensor_dtype(array.dtype)
                self.types[name] = helper.make_tensor_type_proto(element, list(array.shape))
            return
        for name, proto in self._infer(node).items():
            self.types[name] = proto

    def _evaluate(self, node: onnx.NodeProto, inputs: list[str]) -> list[Array] | None:
        """The node's outputs if all that it needs is known and small."""
        if node.op_type == "Shape":
            shape = self.shape(node.input[0])
            if shape is None:
                return None
            bounds = {a.name: a.i for a in node.attribute}
            return [np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)]
        known = all(name in self.values for name in inputs)
        if not known or node.domain not in ("", "ai.onnx") or any(a.type == a.GRAPH for a in node.attribute):
            return None
        if node.op_type in {"ConstantOfShape", "Expand", "Tile", "Range", "RandomNormal", "RandomUniform"}:
            sizes = [self.values[name] for name in inputs]
            if any(np.prod(np.abs(s.astype(np.float64)) + 1) > SMALL * 64 for s in sizes if s.size):
                return None
        try:
            graph = helper.make_graph([node], "one", [], [])
            for name in inputs:
                graph.input.append(helper.make_value_info(name, self.types[name]))
            graph.output.extend(helper.make_empty_tensor_value_info(name) for name in node.output if name)
            model = helper.make_model(graph, opset_imports=self._opsets)
            outputs = ReferenceEvaluator(model).run(None, {name: self.values[name] for name in inputs})
        except Exception:  # noqa: BLE001  (a reference kernel may refuse anything; inference is the other way)
            return None
        arrays = [np.asarray(o) for o in outputs]
        return arrays if all(a.size <= SMALL for a in arrays) else None

    def _infer(self, node: onnx.NodeProto) -> dict[str, TypeProto]:
        if node.domain not in ("", "ai.onnx"):
            return self._contributed(node)
        try:
            version = next(o.version for o in self._opsets if o.domain in ("", "ai.onnx"))
            schema = onnx.defs.get_schema(node.op_type, version, "")
            types = {n: self.types[n] for n in node.input if n in self.types}
            data = {n: numpy_helper.from_array(self.values[n], n) for n in node.input if n in self.values}
            return dict(onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=self._opsets))
        except Exception as error:  # noqa: BLE001  (C++ inference throws many types; the shape is then unknown)
            self.notes.append(f"shape of {node.op_type} {node.name or node.output[0]} unknown ({type(error).__name__})")
            return {}

    def _contributed(self, node: onnx.NodeProto) -> dict[str, TypeProto]:
        """Outputs of com.microsoft operators: like the first input, but for the quantised products."""
        first = self.types.get(node.input[0]) if node.input else None
        if first is None:
            return {}
        attributes = {a.name: a.i for a in node.attribute}
        proto = TypeProto()
        proto.CopyFrom(first)
        if node.op_type == "MatMulNBits" and proto.tensor_type.shape.dim:
            proto.tensor_type.shape.dim[-1].dim_value = attributes["N"]
        return {node.output[0]: proto}


def _count(dims: Any) -> int:
    return int(np.prod(list(dims), dtype=np.int64)) if len(dims) else 1
