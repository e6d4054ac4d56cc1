"""Micro models as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.workload.micro import MicroModel

_OPSET = 17
_IR = 8
"""Old enough for ONNX Runtime 1.18."""


def write(folder: Path) -> list[MicroModel]:
    """Write every model into the folder."""
    rng = np.random.default_rng(0)
    return [
        _gemm(folder, rng, rows=128, inner=768, columns=768),
        _gemm(folder, rng, rows=16, inner=1024, columns=1024),
        _gemm_int8(folder, rng, rows=128, inner=768, columns=768),
        _conv(folder, rng, channels=64, size=56, kernel=3),
        _conv(folder, rng, channels=256, size=28, kernel=1),
        _depthwise(folder, rng, channels=128, size=56),
        _attention(folder, heads=12, sequence=128, width=64),
        _elementwise(folder, rng, elements=1 << 18),
        _weights_only(folder, rng, inner=4096, columns=4096),
        _in_cache(folder, rng, elements=1 << 17),
        _dispatch(folder),
        _chain(folder, nodes=200),
    ]


def _save(
    folder: Path, name: str, nodes: list[Any], shape: tuple[int, ...], output: str, weights: dict[str, Any]
) -> str:
    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_empty_tensor_value_info(output)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR
    model = onnx.shape_inference.infer_shapes(model)
    path = folder / f"{name}.onnx"
    onnx.save(model, str(path))
    return path.name


def _f32(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
    return values


def _repeat(count: int, op: str, weight: str, **attributes: Any) -> list[Any]:
    """The same layer several times, so that one dispatch is small against the work."""
    names = ["x", *[f"h{i}" for i in range(count - 1)], "y"]
    return [helper.make_node(op, [names[i], weight], [names[i + 1]], **attributes) for i in range(count)]


def _gemm(folder: Path, rng: np.random.Generator, rows: int, inner: int, columns: int) -> MicroModel:
    count = 4
    name = f"gemm-fp32-{rows}"
    file = _save(folder, name, _repeat(count, "MatMul", "w"), (rows, inner), "y", {"w": _f32(rng, inner, columns)})
    moved = 4.0 * (inner * columns + count * rows * (inner + columns))
    flops = 2.0 * count * rows * inner * columns
    return MicroModel(name, file, "onnx", "compute", "gemm", "fp32", flops, moved, count, "x", (rows, inner), "FP32")


def _gemm_int8(folder: Path, rng: np.random.Generator, rows: int, inner: int, columns: int) -> MicroModel:
    count = 4
    nodes: list[Any] = []
    names = ["x", *[f"h{i}" for i in range(count - 1)], "y"]
    for i in range(count):
        quantised, scale, zero = f"q{i}", f"s{i}", f"z{i}"
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [names[i]], [quantised, scale, zero]),
            helper.make_node("MatMulInteger", [quantised, "w", zero, "wz"], [f"i{i}"]),
            helper.make_node("Cast", [f"i{i}"], [f"f{i}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [scale, "ws"], [f"m{i}"]),
            helper.make_node("Mul", [f"f{i}", f"m{i}"], [names[i + 1]]),
        ]
    weights = {
        "w": rng.integers(-127, 127, (inner, columns), dtype=np.int8),
        "wz": np.zeros((), np.int8), "ws": np.array(0.01, np.float32),
    }  # fmt: skip
    file = _save(folder, "gemm-int8", nodes, (rows, inner), "y", weights)
    moved = inner * columns + count * rows * (inner * 5.0 + columns * 8.0)
    flops = 2.0 * count * rows * inner * columns
    return MicroModel(
        "gemm-int8", file, "onnx", "compute", "gemm", "int8", flops, moved, len(nodes), "x", (rows, inner), "FP32"
    )


def _conv(folder: Path, rng: np.random.Generator, channels: int, size: int, kernel: int) -> MicroModel:
    count = 3
    name = f"conv-fp32-{kernel}x{kernel}"
    pad = kernel // 2
    nodes = _repeat(count, "Conv", "w", kernel_shape=[kernel, kernel], pads=[pad] * 4)
    shape = (1, channels, size, size)
    file = _save(folder, name, nodes, shape, "y", {"w": _f32(rng, channels, channels, kernel, kernel)})
    flops = 2.0 * count * channels * channels * kernel * kernel * size * size
    moved = 4.0 * (channels * channels * kernel * kernel + 2 * count * channels * size * size)
    return MicroModel(name, file, "onnx", "compute", "conv", "fp32", flops, moved, count, "x", shape, "FP32")


def _depthwise(folder: Path, rng: np.random.Generator, channels: int, size: int) -> MicroModel:
    count = 4
    nodes = _repeat(count, "Conv", "w", kernel_shape=[3, 3], pads=[1] * 4, group=channels)
    shape = (1, channels, size, size)
    file = _save(folder, "depthwise-fp32", nodes, shape, "y", {"w": _f32(rng, channels, 1, 3, 3)})
    flops = 2.0 * count * channels * 9 * size * size
    moved = 4.0 * 2 * count * channels * size * size
    return MicroModel(
        "depthwise-fp32", file, "onnx", "compute", "depthwise", "fp32", flops, moved, count, "x", shape, "FP32"
    )


def _attention(folder: Path, heads: int, sequence: int, width: int) -> MicroModel:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "t"], ["a"]),
        helper.make_node("Softmax", ["a"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "x"], ["y"]),
    ]
    shape = (1, heads, sequence, width)
    file = _save(folder, "attention-fp32", nodes, shape, "y", {})
    flops = 2.0 * 2 * heads * sequence * sequence * width + 5.0 * heads * sequence * sequence
    moved = 4.0 * heads * (4 * sequence * width + 4 * sequence * sequence)
    return MicroModel(
        "attention-fp32", file, "onnx", "compute", "attention", "fp32", flops, moved, 4, "x", shape, "FP32"
    )


def _elementwise(folder: Path, rng: np.random.Generator, elements: int) -> MicroModel:
    """The mixture that models have: mostly additions, products and activations by comparison, one function in eight."""
    ops = ("Mul", "Add", "Relu", "Sub", "Tanh", "Mul", "Add", "Relu")
    names = ["x", *[f"h{i}" for i in range(len(ops) - 1)], "y"]
    nodes = [
        helper.make_node(op, [names[i]] if op in {"Relu", "Tanh"} else [names[i], "w"], [names[i + 1]])
        for i, op in enumerate(ops)
    ]
    file = _save(folder, "elementwise-fp32", nodes, (elements,), "y", {"w": _f32(rng, elements)})
    count, moved = len(ops), 4.0 * 2 * len(ops) * elements
    flops = float(count * elements)
    return MicroModel(
        "elementwise-fp32",
        file,
        "onnx",
        "compute",
        "elementwise",
        "fp32",
        flops,
        moved,
        count,
        "x",
        (elements,),
        "FP32",
    )


def _weights_only(folder: Path, rng: np.random.Generator, inner: int, columns: int) -> MicroModel:
    count = 2
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["h"]), helper.make_node("MatMul", ["h", "w1"], ["y"])]
    weights = {f"w{i}": _f32(rng, inner, columns) for i in range(count)}
    file = _save(folder, "stream-fp32", nodes, (1, inner), "y", weights)
    moved = 4.0 * count * inner * columns
    return MicroModel(
        "stream-fp32", file, "onnx", "bandwidth", "gemm", "fp32", moved / 2, moved, count, "x", (1, inner), "FP32"
    )


def _in_cache(folder: Path, rng: np.random.Generator, elements: int) -> MicroModel:
    """Additions on half a megabyte: bound by the cache, as the activations of most models are."""
    count = 16
    nodes = _repeat(count, "Add", "w")
    file = _save(folder, "cache-fp32", nodes, (elements,), "y", {"w": _f32(rng, elements)})
    moved = 4.0 * 2 * count * elements
    return MicroModel(
        "cache-fp32", file, "onnx", "cache", "elementwise", "fp32", float(count * elements), moved, count, "x",
        (elements,), "FP32",
    )  # fmt: skip


def _dispatch(folder: Path) -> MicroModel:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    file = _save(folder, "dispatch", nodes, (1, 16), "y", {})
    return MicroModel("dispatch", file, "onnx", "dispatch", "elementwise", "fp32", 16.0, 128.0, 1, "x", (1, 16), "FP32")


def _chain(folder: Path, nodes: int) -> MicroModel:
    names = ["x", *[f"h{i}" for i in range(nodes - 1)], "y"]
    ops = ("Sin", "Neg")
    made = [helper.make_node(ops[i % 2], [names[i]], [names[i + 1]]) for i in range(nodes)]
    file = _save(folder, "chain", made, (1, 64), "y", {})
    return MicroModel(
        "chain", file, "onnx", "node", "elementwise", "fp32", 64.0 * nodes, 512.0 * nodes, nodes, "x", (1, 64), "FP32"
    )
