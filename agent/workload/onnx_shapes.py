"""Forward propagation through an ONNX graph: every tensor's shape, type, small values, and what constants stem from.

`onnx.shape_inference` runs per node, fed with the values of shape tensors that were computed on the way, so chains such
as Shape → Gather → Concat → Reshape resolve. Vendor operators have shape rules of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper

from agent.errors import ModelLoadFailed
from agent.workload import onnx_ops_contrib
from agent.workload.graph import Tensor
from agent.workload.onnx_ops import Call

MAX_VALUE_ELEMENTS = 4096
"""Largest constant whose values are followed (shape tensors are tiny)."""
GENERATORS = frozenset({"ConstantOfShape", "Expand", "Tile", "Range", "EyeLike", "RandomNormal", "RandomUniform"})
_EVALUATION_ERRORS = (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, AttributeError)
_INFERENCE_ERRORS = (onnx.shape_inference.InferenceError, onnx.defs.SchemaError, onnx.checker.ValidationError)
_FLOAT8 = {n for n in dir(TensorProto) if n.startswith("FLOAT8")}
_SPELLING = {"float": "float32", "double": "float64"}
_SAME_STORAGE = frozenset({"Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze"})
_TYPE_FROM = {"MatMulIntegerToFloat": 2, "DequantizeLinear": 1, "GatherBlockQuantized": 2, "QuantizeLinear": 2}
"""Vendor operators whose output type is that of another input than the first."""

Array = np.ndarray[Any, Any]


def dtype_name(elem_type: int) -> str:
    """float32, int8, int4 … from ONNX's number; all 8-bit floats are float8."""
    name = TensorProto.DataType.Name(elem_type) if elem_type in TensorProto.DataType.values() else "FLOAT"
    if name in _FLOAT8:
        return "float8"
    lower = name.lower()
    return _SPELLING.get(lower, lower.removesuffix("e2m1"))


def element_type(dtype: str) -> int:
    """ONNX's number of a type name."""
    back = {"float32": "FLOAT", "float64": "DOUBLE", "float8": "FLOAT8E4M3FN", "float4": "FLOAT4E2M1"}
    return int(TensorProto.DataType.Value(back.get(dtype, dtype.upper())))


def attributes_of(node: Any) -> dict[str, Any]:
    """Attributes as Python values; subgraphs and tensors stay protobuf."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


class Propagation:
    """Knowledge about a graph's tensors, built up node by node."""

    def __init__(self, opsets: Mapping[str, int], outer: Propagation | None = None) -> None:
        self.opsets = dict(opsets)
        self.tensors: dict[str, Tensor] = dict(outer.tensors) if outer else {}
        self.values: dict[str, Array] = dict(outer.values) if outer else {}
        self.stored: dict[str, dict[str, float]] = dict(outer.stored) if outer else {}
        self.sources: dict[str, str] = dict(outer.sources) if outer else {}
        self.hints: dict[str, tuple[int, ...]] = {}
        self.notes: list[str] = []
        self._imports = [helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]

    def add_initializer(self, proto: Any) -> None:
        """A weight: size and type always, values only if it is small and inside the file."""
        tensor = Tensor(proto.name, tuple(int(d) for d in proto.dims), dtype_name(proto.data_type), constant=True)
        self.add_constant(tensor, {proto.name: tensor.bytes})
        external = proto.data_location == TensorProto.EXTERNAL
        if tensor.elements <= MAX_VALUE_ELEMENTS and not external and tensor.dtype != "string":
            try:
                self.values[proto.name] = numpy_helper.to_array(proto)
            except _EVALUATION_ERRORS:
                return  # shape-only initialisers of exported skeletons hold no data

    def add_constant(self, tensor: Tensor, stored: dict[str, float]) -> None:
        """A tensor known when the model is loaded."""
        self.tensors[tensor.name] = tensor
        self.stored[tensor.name] = stored

    def known(self, name: str, where: str) -> Tensor:
        """A tensor that must exist by now."""
        if name not in self.tensors:
            raise ModelLoadFailed(f"{where} reads {name!r}, which nothing produces: the file is damaged")
        return self.tensors[name]

    def call(self, node: Any) -> Call:
        """The node with what is known about its tensors (outputs included once propagated)."""
        where = f"node {node.name or node.op_type!r}"
        inputs = tuple(self.known(n, where) if n else None for n in node.input)
        outputs = tuple(self.tensors.get(n) if n else None for n in node.output)
        stored = {n: sum(self.stored[n].values()) for n in node.input if n in self.stored}
        sources = {n: self.sources[n] for n in node.input if n in self.sources}
        return Call(node.op_type, inputs, outputs, attributes_of(node), sources, stored)

    def step(self, node: Any) -> None:
        """Learn everything about the outputs of one node (not of If and Loop, whose bodies the caller reads)."""
        call = self.call(node)
        constant = all(t.constant for t in call.inputs if t is not None) and not _is_random(node)
        if self._evaluate(node, call, constant):
            return
        for name, shape, dtype in self._infer(node, call):
            tensor = Tensor(name, shape, dtype, constant)
            self.tensors[name] = tensor
            if constant:
                self.stored[name] = self._origin(node, tensor)
        if node.op_type == "DequantizeLinear" and node.output[0]:
            first = node.input[0]
            self.sources[node.output[0]] = self.sources.get(first, self.tensors[first].dtype)
        elif node.op_type in _SAME_STORAGE and node.input[0] in self.sources:
            self.sources[node.output[0]] = self.sources[node.input[0]]

    def _origin(self, node: Any, tensor: Tensor) -> dict[str, float]:
        """Bytes behind a folded constant: those of the folded result, but a dequantised weight stays packed."""
        sources: dict[str, float] = {}
        for name in node.input:
            sources.update(self.stored.get(name, {}))
        if node.op_type == "DequantizeLinear" or any(n in self.sources for n in node.input):
            return sources
        if node.op_type in GENERATORS or len(sources) != 1 or sum(sources.values()) != tensor.bytes:
            return {tensor.name: tensor.bytes}
        return sources

    def _evaluate(self, node: Any, call: Call, constant: bool) -> bool:
        if node.op_type == "Constant" and not node.input:
            return self._constant(node, call)
        if node.op_type in ("Shape", "Size") and call.inputs and call.inputs[0] is not None:
            shape = call.tensor(0).shape
            part = shape[call.attributes.get("start", 0) : call.attributes.get("end", len(shape))]
            value = np.array(part if node.op_type == "Shape" else call.tensor(0).elements, np.int64)
            self._remember(node.output[0], value)
            return True
        if node.domain or not all(not n or n in self.values for n in node.input):
            return False
        if not node.input or not constant or self._too_big(node):
            return False
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - few files need it, and its import takes time

        try:
            feeds = {n: self.values[n] for n in node.input if n}
            results = ReferenceEvaluator(node, opsets=self.opsets).run(None, feeds)
        except _EVALUATION_ERRORS:
            return False
        arrays = [np.asarray(r) for r in results]
        if any(a.size > MAX_VALUE_ELEMENTS or a.dtype == object for a in arrays):
            return False
        if node.op_type == "DequantizeLinear":
            return False
        for name, array in zip(node.output, arrays, strict=False):
            if name:
                self._remember(name, array)
        return True

    def _too_big(self, node: Any) -> bool:
        """Generators can ask for any size; read it before making the array."""
        if node.op_type in ("ConstantOfShape", "Expand", "Tile"):
            wish = self.values[node.input[-1]]
            base = self.tensors[node.input[0]].elements if node.op_type == "Tile" else 1
            return base * float(np.prod(wish.astype(np.float64))) > MAX_VALUE_ELEMENTS
        if node.op_type == "Range":
            start, limit, delta = (float(self.values[n]) for n in node.input[:3])
            return delta == 0 or abs(limit - start) / abs(delta) > MAX_VALUE_ELEMENTS
        return False

    def _constant(self, node: Any, call: Call) -> bool:
        for key, value in call.attributes.items():
            if key == "value":
                value.name = node.output[0]
                self.add_initializer(value)
            elif key in ("value_int", "value_ints"):
                self._remember(node.output[0], np.array(value, np.int64))
            elif key in ("value_float", "value_floats"):
                self._remember(node.output[0], np.array(value, np.float32))
            else:
                self.add_constant(Tensor(node.output[0], (), "string", constant=True), {})
        return True

    def _remember(self, name: str, array: Array) -> None:
        dtype = "float32" if array.dtype.kind not in "biuf" else str(array.dtype)
        tensor = Tensor(name, tuple(int(d) for d in array.shape), dtype, constant=True)
        self.add_constant(tensor, {name: tensor.bytes})
        self.values[name] = array

    def _infer(self, node: Any, call: Call) -> list[tuple[str, tuple[int, ...], str]]:
        if node.domain in ("", "ai.onnx.ml") and onnx.defs.has(node.op_type, node.domain):
            return self._infer_standard(node, call)
        rule = onnx_ops_contrib.SHAPES.get(node.op_type)
        if rule is None:
            return [(n, *self._guess(n, call)) for n in node.output if n]
        try:
            shapes = rule(call)
        except (IndexError, ValueError, ZeroDivisionError) as error:
            raise ModelLoadFailed(f"node {node.name or node.op_type!r} has inputs of the wrong shape") from error
        dtype = call.tensor(_TYPE_FROM.get(node.op_type, 0)).dtype
        return [(n, s, dtype) for n, s in zip(node.output, shapes, strict=False) if n]

    def _infer_standard(self, node: Any, call: Call) -> list[tuple[str, tuple[int, ...], str]]:
        types = {t.name: helper.make_tensor_type_proto(element_type(t.dtype), t.shape) for t in call.inputs if t}
        data = {n: numpy_helper.from_array(self.values[n], n) for n in node.input if n in self.values}
        version = self.opsets.get(node.domain, self.opsets.get("", 1))
        try:
            schema = onnx.defs.get_schema(node.op_type, version, node.domain)
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, None, self._imports)
        except (*_INFERENCE_ERRORS, *_EVALUATION_ERRORS):
            found = {}
        results = []
        for name in node.output:
            if not name:
                continue
            proto = found.get(name)
            if proto is None or not proto.tensor_type.HasField("shape"):
                shape, dtype = self._guess(name, call)
                if proto is not None and proto.tensor_type.elem_type:
                    dtype = dtype_name(proto.tensor_type.elem_type)
                results.append((name, shape, dtype))
                continue
            shape = tuple(self._size(name, axis, dim) for axis, dim in enumerate(proto.tensor_type.shape.dim))
            results.append((name, shape, dtype_name(proto.tensor_type.elem_type)))
        return results

    def _size(self, name: str, axis: int, dim: Any) -> int:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            return int(dim.dim_value)
        hint = self.hints.get(name, ())
        if axis < len(hint) and hint[axis] > 0:
            return hint[axis]
        self._note("sizes that depend on the data are taken as 1")
        return 1

    def _guess(self, name: str, call: Call) -> tuple[tuple[int, ...], str]:
        """Shape of an output nobody can derive: what the file says, else the first input's."""
        if call.operator == "Dropout":
            return call.tensor(0).shape, call.tensor(0).dtype
        if name in self.hints:
            return tuple(max(1, d) for d in self.hints[name]), call.tensor(0).dtype
        self._note(f"the output of {call.operator} has an unknown shape, taken as its input's")
        return call.tensor(0).shape, call.tensor(0).dtype

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _is_random(node: Any) -> bool:
    return str(node.op_type).startswith(("Random", "Bernoulli", "Multinomial"))
