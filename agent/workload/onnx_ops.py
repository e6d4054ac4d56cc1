"""ONNX operators: operations of one node by family and precision. One multiply–accumulate is two operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from agent.schema.workload import Family, Precision, Work
from agent.workload.onnx_shapes import Shapes

Counter = Callable[[onnx.NodeProto, Shapes], tuple[Family, float]]

MOVEMENT = frozenset(
    [
        "Cast",
        "Concat",
        "CastLike",
        "ConstantOfShape",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherBlockQuantized",
        "GatherElements",
        "GatherND",
        "Identity",
        "Pad",
        "Reshape",
        "ReverseSequence",
        "ScatterElements",
        "ScatterND",
        "Shape",
        "Size",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)
"""Operators that move or reinterpret data without arithmetic."""
FREE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Size"})
"""Operators that runtimes implement without touching the data."""
FUSABLE = frozenset(
    [
        "Add",
        "BatchNormalization",
        "Clip",
        "DequantizeLinear",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mul",
        "PRelu",
        "QuantizeLinear",
        "Relu",
        "Sigmoid",
        "Softplus",
        "Sqrt",
        "Sub",
        "Tanh",
    ]
)
"""Elementwise operators that runtimes run inside the kernel whose output they read."""


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def _conv(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    weight = shapes.shape(node.input[3] if node.op_type == "QLinearConv" else node.input[1]) or (1, 1, 1)
    depthwise = _attribute(node, "group", 1) > 1 and weight[1] == 1
    return "depthwise" if depthwise else "conv", 2.0 * shapes.count(node.output[0]) * float(np.prod(weight[1:]))


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    weight = shapes.shape(node.input[1]) or (1, 1, 1)
    return "conv", 2.0 * shapes.count(node.input[0]) * float(np.prod(weight[1:]))


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    left = shapes.shape(node.input[0]) or (1,)
    constant = any(name in shapes.constants for name in node.input[:2])
    family: Family = "gemm" if constant else "attention"
    return family, 2.0 * shapes.count(node.output[0]) * left[-1]


def _qlinear_matmul(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    left = shapes.shape(node.input[0]) or (1,)
    return "gemm", 2.0 * shapes.count(node.output[0]) * left[-1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    left = shapes.shape(node.input[0]) or (1, 1)
    inner = left[0] if _attribute(node, "transA", 0) else left[-1]
    return "gemm", 2.0 * shapes.count(node.output[0]) * inner


def _matmul_nbits(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    return "gemm", 2.0 * shapes.count(node.output[0]) * _attribute(node, "K", 1)


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    """Product of the sizes of all distinct indices, twice."""
    equation = _attribute(node, "equation", b"").decode().replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, name in zip(equation, node.input, strict=False):
        for index, size in zip(term, shapes.shape(name) or (), strict=False):
            sizes[index] = max(sizes.get(index, 1), size)
    constant = any(name in shapes.constants for name in node.input)
    return "gemm" if constant else "attention", 2.0 * float(np.prod(list(sizes.values()) or [0]))


def _attention(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    """Scores and values of grouped-query or multi-head attention over past and present."""
    query = shapes.shape(node.input[0]) or (1, 1, 1)
    past = shapes.shape(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    length = query[1] if len(query) > 2 else 1
    context = length + (past[2] if past and len(past) == 4 else 0)
    return "attention", 4.0 * query[0] * length * context * query[-1]


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    sequence = shapes.shape(node.input[0]) or (1, 1, 1)
    weights = shapes.count(node.input[1]) + shapes.count(node.input[2])
    return "gemm", 2.0 * sequence[0] * sequence[1] * weights


def _pool(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    kernel = _attribute(node, "kernel_shape", None)
    if kernel is None:
        return "elementwise", shapes.count(node.input[0])
    return "elementwise", shapes.count(node.output[0]) * float(np.prod(kernel))


def _per_input(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    return "elementwise", shapes.count(node.input[0])


def _normalisation(node: onnx.NodeProto, shapes: Shapes) -> tuple[Family, float]:
    return "elementwise", 5.0 * shapes.count(node.input[0])


_COUNTERS: dict[str, Counter] = {
    "Conv": _conv, "QLinearConv": _conv, "ConvInteger": _conv, "FusedConv": _conv, "ConvTranspose": _conv_transpose,
    "MatMul": _matmul, "MatMulInteger": _qlinear_matmul, "QLinearMatMul": _qlinear_matmul, "FusedMatMul": _matmul,
    "DynamicQuantizeMatMul": _qlinear_matmul, "MatMulIntegerToFloat": _qlinear_matmul, "Gemm": _gemm,
    "FusedGemm": _gemm, "MatMulNBits": _matmul_nbits, "Einsum": _einsum, "GroupQueryAttention": _attention,
    "MultiHeadAttention": _attention, "Attention": _attention, "LSTM": _recurrent, "GRU": _recurrent,
    "RNN": _recurrent, "MaxPool": _pool, "AveragePool": _pool, "GlobalAveragePool": _pool, "GlobalMaxPool": _pool,
    "ReduceMean": _per_input, "ReduceSum": _per_input, "ReduceMax": _per_input, "ReduceMin": _per_input,
    "ArgMax": _per_input, "TopK": _per_input, "Softmax": _normalisation, "LogSoftmax": _normalisation,
    "LayerNormalization": _normalisation, "SimplifiedLayerNormalization": _normalisation,
    "SkipLayerNormalization": _normalisation, "SkipSimplifiedLayerNormalization": _normalisation,
    "InstanceNormalization": _normalisation, "GroupNormalization": _normalisation,
}  # fmt: skip

_INTEGER = {
    "QLinearConv", "ConvInteger", "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
}  # fmt: skip


def work_of(node: onnx.NodeProto, shapes: Shapes, quantised: bool) -> tuple[Work, ...]:
    """Operations of the node; `quantised`: its weight comes out of a DequantizeLinear of 8-bit storage."""
    if node.op_type in MOVEMENT:
        return ()
    counter = _COUNTERS.get(node.op_type)
    if counter is None:
        family: Family = "elementwise"
        flops = max((shapes.count(name) for name in node.output if name), default=0.0)
    else:
        family, flops = counter(node, shapes)
    return (Work(family=family, precision=_precision(node, shapes, quantised), flops=flops),) if flops else ()


def _precision(node: onnx.NodeProto, shapes: Shapes, quantised: bool) -> Precision:
    if node.op_type == "MatMulNBits":
        return "int4" if _attribute(node, "bits", 4) <= 4 else "int8"
    if node.op_type in _INTEGER or quantised:
        return "int8"
    kinds: dict[str, Precision] = {"float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
    return kinds.get(shapes.dtype(node.output[0]).name, "fp32")
