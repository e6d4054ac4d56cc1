"""Micro models as TFLite files, written with the schema that ships inside the LiteRT package."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from agent.records import record
from agent.workload.micro import Kind, MicroModel, described

_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_FIRST_VERSION = frozenset({"RESHAPE", "PRELU", "RELU", "CONCATENATION"})
"""Operators used here that never had a third version, or not in old runtimes."""
COLOURS = 3
_ACTIVATION_SCALE, _WEIGHT_SCALE = 0.05, 0.01
Array = np.ndarray[Any, Any]


@record(frozen=True)
class _Layer:
    """One operator with its weight tensors and the shape it gives."""

    builtin: str
    options_type: str
    options: Any
    weights: tuple[Array, ...]
    shape: tuple[int, ...]
    back: int | None = None
    """Its second operand is the tensor so many layers before its first; 0: the first again."""
    quantised: bool | None = None
    """Changes the type from here on; None keeps it."""


@record(frozen=True)
class _Net:
    """Layers in a row behind a float input."""

    shape: tuple[int, ...]
    layers: tuple[_Layer, ...]


def write(folder: Path) -> list[MicroModel]:
    """Write every model into the folder."""
    found = []
    for name, kind, make in _all():
        rng = np.random.default_rng(0)
        net = _of_an_image(rng, make(rng))
        path = _save(folder, name, net)
        found.append(described(path, "tflite", kind, (("x", net.shape),)))
    return found


def _all() -> list[tuple[str, Kind, Callable[[np.random.Generator], _Net]]]:
    convolution, dense = partial(_convolutions, depthwise=False), _dense
    depthwise = partial(_convolutions, depthwise=True)
    narrow = partial(convolution, narrow=True)
    return [
        ("tfl-conv-fp32-3x3", "compute", partial(convolution, channels=(64,) * 4, size=56, kernel=3)),
        ("tfl-conv-fp32-3x3-thin", "compute", partial(convolution, channels=(16, 24, 16, 24), size=64, kernel=3)),
        ("tfl-conv-fp32-1x1", "compute", partial(convolution, channels=(256,) * 4, size=28, kernel=1)),
        ("tfl-conv-fp32-1x1-thin", "compute", partial(convolution, channels=(24, 48, 24, 48, 24), size=56, kernel=1)),
        ("tfl-conv-fp32-1x1-deep", "compute", partial(convolution, channels=(256, 512, 256, 512), size=7, kernel=1)),
        ("tfl-conv-fp32-tiny", "compute", partial(convolution, channels=(96,) * 7, size=4, kernel=1)),
        ("tfl-conv-fp32-first", "compute", partial(convolution, channels=(3, 24), size=160, kernel=5, stride=2)),
        ("tfl-conv-fp32-add", "compute", partial(convolution, channels=(64,) * 5, size=28, kernel=1, added=True)),
        ("tfl-view", "compute", _viewed),
        ("tfl-depthwise-fp32", "compute", partial(depthwise, channels=(128,) * 5, size=56, kernel=3)),
        ("tfl-depthwise-fp32-thin", "compute", partial(depthwise, channels=(32,) * 5, size=64, kernel=3)),
        ("tfl-depthwise-fp32-5x5", "compute", partial(depthwise, channels=(96,) * 5, size=14, kernel=5)),
        ("tfl-conv-int8-3x3", "compute", partial(narrow, channels=(64,) * 4, size=56, kernel=3)),
        ("tfl-conv-int8-1x1", "compute", partial(narrow, channels=(256,) * 4, size=28, kernel=1)),
        ("tfl-conv-int8-1x1-deep", "compute", partial(narrow, channels=(256, 512, 256, 512), size=7, kernel=1)),
        ("tfl-conv-int8-thin", "compute", partial(narrow, channels=(24, 48, 24, 48, 24), size=56, kernel=1)),
        ("tfl-depthwise-int8", "compute", partial(depthwise, channels=(128,) * 5, size=28, kernel=3, narrow=True)),
        ("tfl-depthwise-int8-14", "compute", partial(depthwise, channels=(96,) * 5, size=14, kernel=3, narrow=True)),
        ("tfl-gemm-fp32", "compute", partial(dense, rows=64, sizes=(768,) * 5)),
        ("tfl-gemm-fp32-row", "compute", partial(dense, rows=1, sizes=(512,) * 9)),
        ("tfl-gemm-int8", "compute", partial(dense, rows=64, sizes=(768,) * 5, narrow=True)),
        ("tfl-stream-fp32", "bandwidth", partial(dense, rows=1, sizes=(4096,) * 3)),
        ("tfl-elementwise-fp32", "compute", partial(_unary, elements=1 << 18, layers=8)),
        ("tfl-function-fp32", "compute", partial(_functions, elements=1 << 16, layers=4)),
        ("tfl-pooling-fp32", "compute", partial(_pooled, channels=32, size=96)),
        ("tfl-blocks-fp32-20", "compute", partial(_blocks, channels=20, size=72, activation="PRELU")),
        ("tfl-blocks-fp32-40", "compute", partial(_blocks, channels=40, size=36, activation="PRELU")),
        ("tfl-blocks-fp32-88", "compute", partial(_blocks, channels=88, size=18, activation="RELU")),
        ("tfl-blocks-fp32-112", "compute", partial(_blocks, channels=112, size=7, activation="PRELU")),
        ("tfl-prelu-fp32", "compute", partial(_activated, channels=24, size=80, activation="PRELU")),
        ("tfl-relu-fp32-small", "compute", partial(_activated, channels=64, size=12, activation="RELU")),
        ("tfl-pooling-fp32-small", "compute", partial(_pooled, channels=96, size=16)),
        ("tfl-join-fp32", "compute", partial(_joined, channels=32, size=32)),
        ("tfl-padding-fp32-thin", "compute", partial(_padded, channels=12, size=64)),
        ("tfl-blocks-fp32-32", "compute", partial(_blocks, channels=32, size=48, activation="RELU")),
        ("tfl-blocks-fp32-64", "compute", partial(_blocks, channels=64, size=14, activation="RELU")),
        ("tfl-add-fp32", "compute", partial(_activated, channels=32, size=64, activation="RELU")),
        ("tfl-add-fp32-small", "compute", partial(_activated, channels=48, size=24, activation="RELU")),
        ("tfl-conv-fp32-first-thin", "compute", partial(convolution, channels=(3, 16), size=224, kernel=3, stride=2)),
        ("tfl-conv-fp32-1x1-wide", "compute", partial(convolution, channels=(16, 16, 32, 16, 16), size=80, kernel=1)),
        ("tfl-depthwise-fp32-7", "compute", partial(depthwise, channels=(128,) * 9, size=7, kernel=3)),
        ("tfl-gemm-int8-row", "compute", partial(dense, rows=1, sizes=(768,) * 7, narrow=True)),
        ("tfl-function-fp32-small", "compute", partial(_functions, elements=1 << 12, layers=8)),
        ("tfl-padding-fp32", "compute", partial(_padded, channels=32, size=32)),
        ("tfl-cache-fp32", "cache", partial(_unary, elements=1 << 17, layers=16)),
        ("tfl-dispatch", "dispatch", partial(_unary, elements=16, layers=1)),
        ("tfl-chain", "node", partial(_unary, elements=64, layers=200)),
    ]  # fmt: skip


def _save(folder: Path, name: str, net: _Net) -> Path:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = _SCHEMA_VERSION, name
    model.buffers = [schema.BufferT()]
    model.operatorCodes, graph.operators = [], []
    codes: dict[str, int] = {}
    graph.tensors = [_tensor("x", net.shape, 0, np.float32)]
    previous, narrow = 0, False
    made = [0]
    for index, layer in enumerate(net.layers):
        inputs = [previous] if layer.back is None else [previous, made[-1 - layer.back]]
        for number, weight in enumerate(layer.weights):
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(weight.tobytes(), np.uint8)
            model.buffers.append(buffer)
            quantised = narrow and layer.builtin not in {"PAD", "RESHAPE", "MEAN"}
            graph.tensors.append(
                _tensor(f"w{index}.{number}", weight.shape, len(model.buffers) - 1, weight.dtype.type, quantised, layer)
            )
            inputs.append(len(graph.tensors) - 1)
        narrow = narrow if layer.quantised is None else layer.quantised
        last = index == len(net.layers) - 1
        kind = np.int8 if narrow else np.float32
        graph.tensors.append(_tensor("y" if last else f"h{index}", layer.shape, 0, kind, narrow))
        previous = len(graph.tensors) - 1
        made.append(previous)
        graph.operators.append(_operator(model, codes, layer, inputs, previous))
    graph.inputs, graph.outputs, graph.name = [0], [previous], "main"
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    path = folder / f"{name}.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path


def _operator(model: Any, codes: dict[str, int], layer: _Layer, inputs: list[int], output: int) -> Any:
    if layer.builtin not in codes:
        code = schema.OperatorCodeT()
        value = getattr(schema.BuiltinOperator, layer.builtin)
        code.builtinCode, code.deprecatedBuiltinCode = value, min(value, 127)
        code.version = 1 if layer.builtin in _FIRST_VERSION else 3
        codes[layer.builtin] = len(model.operatorCodes)
        model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = codes[layer.builtin]
    operator.inputs, operator.outputs = inputs, [output]
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, layer.options_type)
    operator.builtinOptions = layer.options
    return operator


def _tensor(
    name: str, shape: Sequence[int], buffer: int, kind: Any, quantised: bool = False, layer: _Layer | None = None
) -> Any:
    types = {np.float32: "FLOAT32", np.int8: "INT8", np.int32: "INT32"}
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, list(shape), buffer
    tensor.type = getattr(schema.TensorType, types[kind])
    if quantised:
        tensor.quantization = _quantisation(kind, shape, layer)
    return tensor


def _quantisation(kind: Any, shape: Sequence[int], layer: _Layer | None) -> Any:
    """A scale for the activation, one for each channel of a convolution's weights, and their product for a bias."""
    made = schema.QuantizationParametersT()
    scale = _ACTIVATION_SCALE if layer is None else _WEIGHT_SCALE
    count, axis = 1, 0
    if layer is not None and layer.builtin != "FULLY_CONNECTED":
        axis = 3 if layer.builtin == "DEPTHWISE_CONV_2D" and len(shape) == 4 else 0
        count = shape[axis]
    if kind is np.int32:
        scale = _ACTIVATION_SCALE * _WEIGHT_SCALE
    made.scale, made.zeroPoint = [scale] * count, [0] * count
    made.quantizedDimension = axis
    return made


def _weight(rng: np.random.Generator, narrow: bool, *shape: int) -> Array:
    if narrow:
        return rng.integers(-127, 127, shape, dtype=np.int8)
    values: Array = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
    return values


def _bias(rng: np.random.Generator, narrow: bool, outputs: int) -> Array:
    return np.zeros(outputs, np.int32) if narrow else _weight(rng, False, outputs)


def _framed(shape: tuple[int, ...], layers: list[_Layer], narrow: bool) -> _Net:
    """Behind a float input: quantised first where the layers are."""
    if narrow:
        layers = [_Layer("QUANTIZE", "QuantizeOptions", schema.QuantizeOptionsT(), (), shape, quantised=True), *layers]
    return _Net(shape, tuple(layers))


def _convolutions(
    rng: np.random.Generator, channels: tuple[int, ...], size: int, kernel: int, depthwise: bool, narrow: bool = False,
    stride: int = 1, added: bool = False,
) -> _Net:  # fmt: skip
    layers = []
    for inputs, outputs in itertools.pairwise(channels):
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.SAME, stride, stride
        options.dilationHFactor = options.dilationWFactor = 1
        if depthwise:
            options.depthMultiplier = 1
        filters = (1, kernel, kernel, outputs) if depthwise else (outputs, kernel, kernel, inputs)
        weights = (_weight(rng, narrow, *filters), _bias(rng, narrow, outputs))
        name = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
        shape = (1, size // stride, size // stride, outputs)
        layers.append(_Layer(*name, options, weights, shape))
        if added:
            layers.append(_Layer("ADD", "AddOptions", schema.AddOptionsT(), (), shape, back=0))
    return _framed((1, size, size, channels[0]), layers, narrow)


def _of_an_image(rng: np.random.Generator, net: _Net) -> _Net:
    """Behind an image where it begins with many channels, and with one value for each channel at the end.

    Tensors of many channels come from kernels and go to kernels in served nets, not through the runtime's door.
    """
    if len(net.shape) != 4 or net.shape[-1] <= COLOURS:
        return net
    *space, channels = net.shape
    shape = (*space, COLOURS)
    narrow = net.layers[0].builtin == "QUANTIZE"
    first = _convolutions(rng, (COLOURS, channels), space[1], 1, depthwise=False, narrow=narrow).layers
    options = schema.ReducerOptionsT()
    options.keepDims = True
    axes = (np.array([1, 2], np.int32),)
    last = _Layer("MEAN", "ReducerOptions", options, axes, (1, 1, 1, net.layers[-1].shape[-1]))
    return _Net(shape, (*first, *net.layers[1 if narrow else 0 :], last))


def _dense(rng: np.random.Generator, rows: int, sizes: tuple[int, ...], narrow: bool = False) -> _Net:
    made = []
    for inner, columns in itertools.pairwise(sizes):
        weights = (_weight(rng, narrow, columns, inner), _bias(rng, narrow, columns))
        options = schema.FullyConnectedOptionsT()
        made.append(_Layer("FULLY_CONNECTED", "FullyConnectedOptions", options, weights, (rows, columns)))
    return _framed((rows, sizes[0]), made, narrow)


def _unary(_: np.random.Generator, elements: int, layers: int) -> _Net:
    made = [_Layer("ADD", "AddOptions", schema.AddOptionsT(), (), (1, elements), back=0) for _ in range(layers)]
    return _Net((1, elements), tuple(made))


def _viewed(_: np.random.Generator) -> _Net:
    made = []
    for step in range(24):
        shape = ((1, 16, 256), (1, 4096), (1, 64, 64))[step % 3]
        options = schema.ReshapeOptionsT()
        options.newShape = list(shape)
        made.append(_Layer("RESHAPE", "ReshapeOptions", options, (np.array(shape, np.int32),), shape))
        made.append(_Layer("ADD", "AddOptions", schema.AddOptionsT(), (), shape, back=0))
    return _Net((1, 64, 64), tuple(made))


def _functions(_: np.random.Generator, elements: int, layers: int) -> _Net:
    made = [_Layer(("LOGISTIC", "TANH")[i % 2], "NONE", None, (), (1, elements)) for i in range(layers)]
    return _Net((1, elements), tuple(made))


def _activated(rng: np.random.Generator, channels: int, size: int, activation: str) -> _Net:
    """Activations of their own, with slopes for each channel or none, in turn with additions."""
    shape = (1, size, size, channels)
    made: list[_Layer] = []
    for _ in range(4):
        made.append(_activation(rng, activation, shape))
        made.append(_Layer("ADD", "AddOptions", schema.AddOptionsT(), (), shape, back=1))
    return _Net(shape, tuple(made))


def _activation(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> _Layer:
    slopes = (_weight(rng, False, 1, 1, shape[-1]),) if name == "PRELU" else ()
    return _Layer(name, "NONE", None, slopes, shape)


def _blocks(rng: np.random.Generator, channels: int, size: int, activation: str) -> _Net:
    """Depthwise, pointwise, the residual, and an activation that the file has not fused, as small nets have them."""
    shape = (1, size, size, channels)
    made: list[_Layer] = []
    for _ in range(4):
        deep = _convolutions(rng, (channels,) * 2, size, 3, depthwise=True).layers
        flat = _convolutions(rng, (channels,) * 2, size, 1, depthwise=False).layers
        made += [*deep, *flat, _Layer("ADD", "AddOptions", schema.AddOptionsT(), (), shape, back=2)]
        made.append(_activation(rng, activation, shape))
    return _Net(shape, tuple(made))


def _joined(_: np.random.Generator, channels: int, size: int) -> _Net:
    """Put beside itself again and again."""
    made = []
    for step in range(3):
        options = schema.ConcatenationOptionsT()
        options.axis = 3
        shape = (1, size, size, channels << (step + 1))
        made.append(_Layer("CONCATENATION", "ConcatenationOptions", options, (), shape, back=0))
    return _Net((1, size, size, channels), tuple(made))


def _pooled(_: np.random.Generator, channels: int, size: int) -> _Net:
    made = []
    for step in (1, 2):
        options = schema.Pool2DOptionsT()
        options.padding = schema.Padding.SAME
        options.strideH = options.strideW = options.filterHeight = options.filterWidth = 2
        side = size >> step
        made.append(_Layer("MAX_POOL_2D", "Pool2DOptions", options, (), (1, side, side, channels)))
    return _Net((1, size, size, channels), tuple(made))


def _padded(_: np.random.Generator, channels: int, size: int) -> _Net:
    """Channels added, as residual nets do where a block widens."""
    made = []
    for step in range(4):
        wide = channels * (step + 2)
        pads = np.array([[0, 0], [0, 0], [0, 0], [0, channels]], np.int32)
        made.append(_Layer("PAD", "PadOptions", schema.PadOptionsT(), (pads,), (1, size, size, wide)))
    return _Net((1, size, size, channels), tuple(made))
