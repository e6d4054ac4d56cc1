"""Micro models as TFLite files, written with the schema that ships inside the LiteRT package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from agent.workload.micro import Kind, MicroModel

_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3


@dataclass(frozen=True)
class _Layer:
    """One operator with its weight tensors and the shape it gives."""

    builtin: str
    options_type: str
    options: Any
    weights: tuple[np.ndarray[Any, Any], ...]
    shape: tuple[int, ...]
    inputs_twice: bool = False


def write(folder: Path) -> list[MicroModel]:
    """Write every model into the folder."""
    rng = np.random.default_rng(0)
    return [
        _conv(folder, rng, channels=64, size=56, kernel=3),
        _conv(folder, rng, channels=256, size=28, kernel=1),
        _depthwise(folder, rng, channels=128, size=56),
        _dense(folder, rng, "tfl-gemm-fp32", rows=64, inner=768, columns=768, layers=4),
        _dense(folder, rng, "tfl-stream-fp32", rows=1, inner=4096, columns=4096, layers=2),
        _unary(folder, "tfl-elementwise-fp32", elements=1 << 18, layers=8),
        _unary(folder, "tfl-cache-fp32", elements=1 << 17, layers=16),
        _unary(folder, "tfl-dispatch", elements=16, layers=1),
        _unary(folder, "tfl-chain", elements=64, layers=200),
    ]


def _save(folder: Path, name: str, shape: tuple[int, ...], layers: Sequence[_Layer]) -> str:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = _SCHEMA_VERSION, name
    model.buffers = [schema.BufferT()]
    model.operatorCodes, graph.operators = [], []
    codes: dict[str, int] = {}
    graph.tensors = [_tensor("x", shape, 0)]
    previous = 0
    for index, layer in enumerate(layers):
        inputs = [previous, previous] if layer.inputs_twice else [previous]
        for number, weight in enumerate(layer.weights):
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(weight.tobytes(), np.uint8)
            model.buffers.append(buffer)
            graph.tensors.append(_tensor(f"w{index}.{number}", weight.shape, len(model.buffers) - 1))
            inputs.append(len(graph.tensors) - 1)
        graph.tensors.append(_tensor("y" if index == len(layers) - 1 else f"h{index}", layer.shape, 0))
        previous = len(graph.tensors) - 1
        graph.operators.append(_operator(model, codes, layer, inputs, previous))
    graph.inputs, graph.outputs, graph.name = [0], [previous], "main"
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    path = folder / f"{name}.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path.name


def _operator(model: Any, codes: dict[str, int], layer: _Layer, inputs: list[int], output: int) -> Any:
    if layer.builtin not in codes:
        code = schema.OperatorCodeT()
        value = getattr(schema.BuiltinOperator, layer.builtin)
        code.builtinCode, code.deprecatedBuiltinCode, code.version = value, min(value, 127), 1
        codes[layer.builtin] = len(model.operatorCodes)
        model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = codes[layer.builtin]
    operator.inputs, operator.outputs = inputs, [output]
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, layer.options_type)
    operator.builtinOptions = layer.options
    return operator


def _tensor(name: str, shape: Sequence[int], buffer: int) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, list(shape), buffer
    tensor.type = schema.TensorType.FLOAT32
    return tensor


def _f32(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
    return values


def _conv(folder: Path, rng: np.random.Generator, channels: int, size: int, kernel: int) -> MicroModel:
    count, name, shape = 3, f"tfl-conv-fp32-{kernel}x{kernel}", (1, size, size, channels)
    layers = []
    for _ in range(count):
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
        options.dilationHFactor = options.dilationWFactor = 1
        weights = (_f32(rng, channels, kernel, kernel, channels), _f32(rng, channels))
        layers.append(_Layer("CONV_2D", "Conv2DOptions", options, weights, shape))
    file = _save(folder, name, shape, layers)
    flops = 2.0 * count * channels * channels * kernel * kernel * size * size
    moved = 4.0 * count * (channels * channels * kernel * kernel + 2 * channels * size * size)
    return MicroModel(name, file, "tflite", "compute", "conv", "fp32", flops, moved, count, "x", shape, "FP32")


def _depthwise(folder: Path, rng: np.random.Generator, channels: int, size: int) -> MicroModel:
    count, shape = 4, (1, size, size, channels)
    layers = []
    for _ in range(count):
        options = schema.DepthwiseConv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
        options.dilationHFactor = options.dilationWFactor = options.depthMultiplier = 1
        weights = (_f32(rng, 1, 3, 3, channels), _f32(rng, channels))
        layers.append(_Layer("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", options, weights, shape))
    file = _save(folder, "tfl-depthwise-fp32", shape, layers)
    flops, moved = 2.0 * count * channels * 9 * size * size, 4.0 * 2 * count * channels * size * size
    return MicroModel(
        "tfl-depthwise-fp32", file, "tflite", "compute", "depthwise", "fp32", flops, moved, count, "x", shape, "FP32"
    )


def _dense(
    folder: Path, rng: np.random.Generator, name: str, rows: int, inner: int, columns: int, layers: int
) -> MicroModel:
    made = []
    for _ in range(layers):
        weights = (_f32(rng, columns, inner), _f32(rng, columns))
        options = schema.FullyConnectedOptionsT()
        made.append(_Layer("FULLY_CONNECTED", "FullyConnectedOptions", options, weights, (rows, columns)))
    file = _save(folder, name, (rows, inner), made)
    flops = 2.0 * layers * rows * inner * columns
    moved = 4.0 * layers * (inner * columns + rows * (inner + columns))
    kind: Kind = "bandwidth" if rows == 1 else "compute"
    return MicroModel(name, file, "tflite", kind, "gemm", "fp32", flops, moved, layers, "x", (rows, inner), "FP32")


def _unary(folder: Path, name: str, elements: int, layers: int) -> MicroModel:
    options = [schema.AddOptionsT() for _ in range(layers)]
    made = [_Layer("ADD", "AddOptions", option, (), (1, elements), inputs_twice=True) for option in options]
    file = _save(folder, name, (1, elements), made)
    kinds: dict[str, Kind] = {"tfl-dispatch": "dispatch", "tfl-chain": "node", "tfl-cache-fp32": "cache"}
    kind = kinds.get(name, "compute")
    flops, moved = float(layers * elements), 4.0 * 2 * layers * elements
    return MicroModel(
        name, file, "tflite", kind, "elementwise", "fp32", flops, moved, layers, "x", (1, elements), "FP32"
    )
