"""Micro models as ONNX files: a few shapes of every routine, so that bytes can be told from operations."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from agent.workload import micro_blocks as blocks
from agent.workload.micro import Kind, MicroModel, described
from agent.workload.micro_graph import GraphWriter

Make = Callable[[GraphWriter], str]


_ALSO_OPEN = frozenset(
    {
        "gemm-fp32-gelu", "conv-fp32-3x3-relu", "conv-fp32-1x1-thin", "conv-fp32-hard", "conv-fp32-hard-wide",
        "conv-fp32-scaled-wide", "block-inverted-fp32", "block-squeezed-fp32", "block-bottleneck-fp32",
        "block-encoder-fp32",
    }
)  # fmt: skip
"""Made a second time with the number of inputs left to the request, as exporters leave it."""


def write(folder: Path) -> list[MicroModel]:
    """Write every model into the folder."""
    found = []
    for name, kind, make in _all():
        graph = GraphWriter()
        output = make(graph)
        found.append(described(graph.save(folder / f"{name}.onnx", output), "onnx", kind, tuple(graph.inputs)))
        if name in _ALSO_OPEN:
            path = graph.save(folder / f"{name}-open.onnx", output, open_batch=True)
            found.append(described(path, "onnx", kind, tuple(graph.inputs)))
    return found


def _all() -> list[tuple[str, Kind, Make]]:
    compute: list[tuple[str, Make]] = [
        ("gemm-fp32-768", partial(_dense, rows=128, sizes=(768,) * 5)),
        ("gemm-fp32-16", partial(_dense, rows=16, sizes=(1024,) * 5)),
        ("gemm-fp32-512", partial(_dense, rows=64, sizes=(512, 2048, 512, 2048, 512))),
        ("gemm-fp32-256", partial(_dense, rows=256, sizes=(256,) * 7)),
        ("gemm-fp32-residual", partial(_dense, rows=96, sizes=(512,) * 5, tail="residual")),
        ("gemm-fp32-gelu", partial(_dense, rows=96, sizes=(320, 1280, 320, 1280, 320), tail="gelu")),
        ("gemm-fp32-swish", partial(_dense, rows=96, sizes=(320, 1280, 320, 1280, 320), tail="swish")),
        ("gemm-fp32-row-residual", partial(_dense, rows=1, sizes=(256,) * 17, tail="residual")),
        ("gemm-fp32-row-swish", partial(_dense, rows=1, sizes=(256,) * 13, tail="swish")),
        ("gemm-fp32-cold", partial(_dense, rows=48, sizes=(1536,) * 9)),
        ("gemm-fp32-row", partial(_dense, rows=1, sizes=(512,) * 9)),
        ("gemm-int8-768", partial(_dense_int8, rows=128, sizes=(768,) * 5)),
        ("gemm-int8-512", partial(_dense_int8, rows=64, sizes=(512, 2048, 512, 2048, 512))),
        ("gemm-int8-256", partial(_dense_int8, rows=256, sizes=(256,) * 7)),
        ("gemm-int8-row", partial(_dense_int8, rows=1, sizes=(1024,) * 5)),
        ("gemm-int4-768", partial(_dense_int4, rows=96, sizes=(768, 2048, 768, 2048, 768))),
        ("gemm-int4-16", partial(_dense_int4, rows=16, sizes=(1024,) * 5)),
        ("gemm-int4-uneven", partial(_dense_int4, rows=80, sizes=(416, 1248, 416, 160, 416))),
        ("gemm-int4-row", partial(_dense_int4, rows=1, sizes=(768, 2048, 768, 2048, 768) * 2)),
        ("gemm-int4-narrow", partial(_dense_int4, rows=1, sizes=(512, 128) * 8)),
        ("gemm-int4-wide", partial(_dense_int4, rows=1, sizes=(512, 32_768))),
        ("conv-fp32-3x3", partial(_convolutions, channels=(64,) * 4, size=56, kernel=3)),
        ("conv-fp32-3x3-deep", partial(_convolutions, channels=(256,) * 4, size=14, kernel=3)),
        ("conv-fp32-3x3-relu", partial(_convolutions, channels=(128,) * 4, size=28, kernel=3, tail="relu")),
        ("conv-fp32-1x1", partial(_convolutions, channels=(256,) * 4, size=28, kernel=1)),
        ("conv-fp32-1x1-deep", partial(_convolutions, channels=(512, 1536, 512, 1536), size=7, kernel=1)),
        ("conv-fp32-1x1-thin", partial(_convolutions, channels=(32, 144, 24, 144, 32), size=56, kernel=1)),
        ("conv-fp32-1x1-add", partial(_convolutions, channels=(128,) * 5, size=28, kernel=1, tail="residual")),
        ("conv-fp32-swish", partial(_convolutions, channels=(96,) * 4, size=28, kernel=1, tail="swish")),
        ("conv-fp32-swish-wide", partial(_convolutions, channels=(24,) * 5, size=96, kernel=3, tail="swish")),
        ("conv-fp32-3x3-thin", partial(_convolutions, channels=(16, 32, 16, 32, 16), size=72, kernel=3, tail="relu")),
        ("conv-fp32-3x3-small", partial(_convolutions, channels=(192,) * 4, size=10, kernel=3, tail="relu")),
        ("conv-fp32-scaled", partial(_convolutions, channels=(64,) * 5, size=40, kernel=1, tail="scaled")),
        ("conv-fp32-scaled-deep", partial(_convolutions, channels=(256,) * 4, size=14, kernel=3, tail="scaled")),
        ("conv-fp32-scaled-wide", partial(_convolutions, channels=(24,) * 5, size=136, kernel=1, tail="scaled")),
        ("conv-fp32-hard", partial(_convolutions, channels=(56,) * 5, size=48, kernel=1, tail="hard")),
        ("conv-fp32-hard-wide", partial(_convolutions, channels=(20,) * 5, size=144, kernel=3, tail="hard")),
        ("conv-fp32-hard-small", partial(_convolutions, channels=(144,) * 5, size=12, kernel=1, tail="hard")),
        ("conv-fp32-split", partial(blocks.split, channels=64, size=36, blocks=3)),
        ("conv-fp32-first", partial(_first_convolution, channels=48, size=224, kernel=5)),
        ("conv-fp32-first-thin", partial(_first_convolution, channels=20, size=288, kernel=3)),
        ("conv-fp32-line", partial(_lines, channels=(192, 384, 192), length=400, kernel=5)),
        ("conv-fp32-line-thin", partial(_lines, channels=(64,) * 5, length=1200, kernel=7)),
        ("conv-fp32-line-tall", partial(_lines, channels=(160, 320, 160), length=480, kernel=5, tall=True)),
        ("conv-fp32-line-tall-deep", partial(_lines, channels=(384,) * 3, length=144, kernel=3, tall=True)),
        ("conv-int8-3x3", partial(_convolutions_int8, channels=(64,) * 4, size=56, kernel=3)),
        ("conv-int8-3x3-deep", partial(_convolutions_int8, channels=(256,) * 4, size=14, kernel=3)),
        ("conv-int8-1x1", partial(_convolutions_int8, channels=(256,) * 4, size=28, kernel=1)),
        ("conv-int8-1x1-deep", partial(_convolutions_int8, channels=(512, 1536, 512, 1536), size=7, kernel=1)),
        ("depthwise-fp32-56", partial(_convolutions, channels=(128,) * 5, size=56, kernel=3, depthwise=True)),
        ("depthwise-fp32-14", partial(_convolutions, channels=(512,) * 5, size=14, kernel=3, depthwise=True)),
        ("depthwise-fp32-5x5", partial(_convolutions, channels=(192,) * 5, size=28, kernel=5, depthwise=True)),
        ("depthwise-int8-56", partial(_convolutions_int8, channels=(128,) * 5, size=56, kernel=3, depthwise=True)),
        ("attention-fp32-128", partial(_attention, heads=8, tokens=128, width=64)),
        ("attention-fp32-256", partial(_attention, heads=6, tokens=256, width=32)),
        ("attention-fp32-48", partial(_attention, heads=16, tokens=48, width=64)),
        ("grouped-attention-step", partial(_grouped_attention, heads=8, groups=2, tokens=1, past=512)),
        ("grouped-attention-long", partial(_grouped_attention, heads=8, groups=8, tokens=1, past=1536)),
        ("grouped-attention-short", partial(_grouped_attention, heads=8, groups=4, tokens=1, past=64)),
        ("grouped-attention-prompt", partial(_grouped_attention, heads=8, groups=2, tokens=96, past=0)),
        ("elementwise-fp32", partial(_chain, ops=("Mul", "Add", "Relu", "Sub"), count=8, elements=1 << 18)),
        ("elementwise-fp32-small", partial(_chain, ops=("Mul", "Add", "Relu", "Sub"), count=16, elements=1 << 14)),
        ("function-fp32", partial(_chain, ops=("Tanh", "Sigmoid", "Erf", "Exp"), count=4, elements=1 << 16)),
        ("function-fp32-small", partial(_chain, ops=("Sigmoid", "Tanh"), count=8, elements=1 << 12)),
        ("normalisation-fp32", partial(_normalised, rows=96, width=768, op="LayerNormalization")),
        ("normalisation-fp32-root", partial(_normalised, rows=96, width=768, op="SimplifiedLayerNormalization")),
        ("normalisation-fp32-row", partial(_normalised, rows=1, width=1024, op="SimplifiedLayerNormalization")),
        ("softmax-fp32-short", partial(_softmax, rows=4096, width=16)),
        ("softmax-fp32", partial(_softmax, rows=1024, width=192)),
        ("pooling-fp32", partial(_pooled, channels=64, size=112)),
        ("pooling-fp32-small", partial(_pooled, channels=192, size=20)),
        ("movement-fp32-image", partial(_enlarged, channels=96, size=20)),
        ("movement-fp32", partial(_moved, rows=128, width=768)),
        ("movement-fp32-small", partial(_moved, rows=32, width=64)),
        ("view-fp32", _viewed),
    ]
    compute += [
        ("block-encoder-fp32", partial(blocks.encoder, tokens=80, width=320, layers=3)),
        ("block-encoder-fp32-wide", partial(blocks.encoder, tokens=160, width=512, layers=2)),
        ("block-encoder-int8", partial(blocks.encoder, tokens=80, width=320, layers=3, narrow=True)),
        ("block-decoder-step", partial(blocks.decoder, tokens=1, past=320, width=512, inner=1408, layers=6)),
        ("block-decoder-prompt", partial(blocks.decoder, tokens=64, past=0, width=512, inner=1408, layers=3)),
        ("block-decoder-cold", partial(blocks.decoder, tokens=1, past=96, width=1536, inner=4096, layers=6)),
        ("block-inverted-fp32", partial(blocks.inverted, channels=40, size=36, blocks=3)),
        ("block-inverted-fp32-deep", partial(blocks.inverted, channels=112, size=12, blocks=4)),
        ("block-squeezed-fp32", partial(blocks.squeezed, channels=32, size=28, blocks=4)),
        ("block-squeezed-fp32-deep", partial(blocks.squeezed, channels=88, size=9, blocks=5)),
        ("block-bottleneck-fp32", partial(blocks.bottleneck, channels=192, size=40, blocks=3)),
        ("block-bottleneck-fp32-deep", partial(blocks.bottleneck, channels=768, size=10, blocks=4)),
    ]
    rest: list[tuple[str, Kind, Make]] = [
        ("stream-fp32", "bandwidth", partial(_dense, rows=1, sizes=(4096, 4096, 4096), bias=False)),
        ("stream-fp32-64", "compute", partial(_dense, rows=1, sizes=(2896, 2896, 2896), bias=False)),
        ("stream-fp32-32", "compute", partial(_dense, rows=1, sizes=(2048, 2048, 2048), bias=False)),
        ("stream-int4-large", "compute", partial(_dense_int4, rows=1, sizes=(4096, 16_384, 4096, 4096))),
        ("stream-int4", "compute", partial(_dense_int4, rows=1, sizes=(4096, 8192, 4096))),
        ("tensors-fp32", "compute", partial(_many, count=48, elements=1 << 8)),
        ("tensors-fp32-large", "compute", partial(_many, count=32, elements=1 << 15)),
        ("copied-fp32", "compute", partial(_chain, ops=("Neg",), count=1, elements=1 << 20)),
        ("stream-fp32-16", "compute", partial(_dense, rows=1, sizes=(1024,) * 5, bias=False)),
        ("cache-fp32", "cache", partial(_chain, ops=("Add",), count=16, elements=1 << 17)),
        ("dispatch", "dispatch", partial(_chain, ops=("Add",), count=1, elements=16)),
        ("chain", "node", partial(_chain, ops=("Sin", "Neg"), count=200, elements=64)),
    ]
    return [*((name, "compute", make) for name, make in compute), *rest]


def _dense(g: GraphWriter, rows: int, sizes: tuple[int, ...], tail: str = "", bias: bool = True) -> str:
    """Products in a row, each with weights of its own; with a tail in three dimensions, as exporters write them."""
    x = g.input("x", *((1, rows) if tail else (rows,)), sizes[0])
    for inner, columns in itertools.pairwise(sizes):
        y = g.op("MatMul", x, g.normal(inner, columns))
        y = g.op("Add", y, g.normal(columns)) if bias else y
        x = _tail(g, y, x, tail)
    return x


def _tail(g: GraphWriter, y: str, x: str, tail: str, channels: int = 1) -> str:
    """What models put behind a product: the residual, or an activation as exporters write it."""
    if tail == "residual":
        return g.op("Add", y, x)
    if tail == "relu":
        return g.op("Relu", y)
    if tail == "swish":
        return g.op("Mul", y, g.op("Sigmoid", y))
    if tail == "scaled":
        shifts = [g.normal(1, channels, 1, 1) for _ in range(3)]
        return g.op("Relu", g.op("Add", g.op("Mul", g.op("Sub", y, shifts[0]), shifts[1]), shifts[2]))
    if tail == "hard":
        three, zero, six = (g.constant(np.float32(v)) for v in (3.0, 0.0, 6.0))
        return g.op("Div", g.op("Mul", y, g.op("Clip", g.op("Add", y, three), zero, six)), six)
    if tail == "gelu":
        return blocks.gelu(g, y)
    return y


def _dense_int8(g: GraphWriter, rows: int, sizes: tuple[int, ...]) -> str:
    """Products of dynamically quantised activations, as quantisation tools write them."""
    x = g.input("x", rows, sizes[0])
    for inner, columns in itertools.pairwise(sizes):
        x = blocks.dense(g, x, inner, columns, narrow=True)
    return x


def _dense_int4(g: GraphWriter, rows: int, sizes: tuple[int, ...]) -> str:
    """Products with weights of four bits."""
    x = g.input("x", 1, rows, sizes[0])
    for inner, columns in itertools.pairwise(sizes):
        x = blocks.packed(g, x, inner, columns)
    return x


def _convolutions(
    g: GraphWriter, channels: tuple[int, ...], size: int, kernel: int, depthwise: bool = False, tail: str = ""
) -> str:
    x = blocks.image(g, channels[0], size)
    for inputs, outputs in itertools.pairwise(channels):
        weight = g.normal(outputs, 1 if depthwise else inputs, kernel, kernel)
        y = g.op(
            "Conv", x, weight, g.normal(outputs), kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4,
            group=inputs if depthwise else 1,
        )  # fmt: skip
        x = _tail(g, y, x, tail, outputs)
    return blocks.pooled(g, x)


def _lines(g: GraphWriter, channels: tuple[int, ...], length: int, kernel: int, tall: bool = False) -> str:
    """Convolutions over time; `tall` as exporters spell them that know images alone, one pixel wide."""
    more = [1] if tall else []
    x = g.input("x", 1, 3, length, *more)
    x = g.op("Conv", x, g.normal(channels[0], 3, 1, *more), g.normal(channels[0]), kernel_shape=[1, *more])
    for inputs, outputs in itertools.pairwise(channels):
        x = g.op(
            "Conv", x, g.normal(outputs, inputs, kernel, *more), g.normal(outputs), kernel_shape=[kernel, *more],
            pads=[kernel // 2, *([0] if tall else [])] * 2,
        )  # fmt: skip
        x = g.op("Relu", x)
    return blocks.pooled(g, x)


def _enlarged(g: GraphWriter, channels: int, size: int) -> str:
    """Twice as high and wide, put beside another, as detectors join their levels."""
    x = g.input("x", 1, channels, size, size)
    other = g.input("y", 1, channels, 2 * size, 2 * size)
    scales = g.constant(np.array([1, 1, 2, 2], np.float32))
    y = g.op("Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    y = g.op("Concat", y, other, axis=1)
    return g.op("Slice", y, *(g.constant(np.array([v], np.int64)) for v in (channels // 2, 3 * channels // 2, 1)))


def _first_convolution(g: GraphWriter, channels: int, size: int, kernel: int) -> str:
    """Three channels in: the first layer of nets for images."""
    x = g.input("x", 1, 3, size, size)
    x = g.op(
        "Conv", x, g.normal(channels, 3, kernel, kernel), g.normal(channels), kernel_shape=[kernel] * 2,
        pads=[kernel // 2] * 4, strides=[2, 2],
    )  # fmt: skip
    return blocks.pooled(g, x)


def _convolutions_int8(
    g: GraphWriter, channels: tuple[int, ...], size: int, kernel: int, depthwise: bool = False
) -> str:
    """Convolutions between quantising and dequantising nodes, a scale for each channel of the weights."""
    # Zero is the least value, so that the activation between product and quantisation falls away, as tools write it.
    scale, zero = g.constant(np.float32(0.02)), g.constant(np.uint8(0))

    def quantised(x: str) -> str:
        return g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero), scale, zero)

    x = quantised(g.input("x", 1, 3, size, size))
    for index, (inputs, outputs) in enumerate(itertools.pairwise((3, *channels))):
        # The first makes the channels out of an image's.
        window, grouped = (1, False) if index == 0 else (kernel, depthwise)
        shape = (outputs, 1 if grouped else inputs, window, window)
        scales = g.constant(np.full(outputs, 0.01, np.float32))
        weight = g.op(
            "DequantizeLinear", g.constant(g.rng.integers(-127, 127, shape, dtype=np.int8)), scales,
            g.constant(np.zeros(outputs, np.int8)), axis=0,
        )  # fmt: skip
        bias = g.op(
            "DequantizeLinear", g.constant(np.zeros(outputs, np.int32)), g.constant(np.full(outputs, 2e-4, np.float32)),
            g.constant(np.zeros(outputs, np.int32)), axis=0,
        )  # fmt: skip
        y = g.op(
            "Conv", x, weight, bias, kernel_shape=[window] * 2, pads=[window // 2] * 4, group=inputs if grouped else 1,
        )  # fmt: skip
        x = quantised(y)
    return blocks.pooled(g, x)


def _attention(g: GraphWriter, heads: int, tokens: int, width: int) -> str:
    x = g.input("x", 1, heads, tokens, width)
    scale = g.constant(np.float32(width**-0.5))
    for _ in range(3):
        scores = g.op("Mul", g.op("MatMul", x, g.op("Transpose", x, perm=[0, 1, 3, 2])), scale)
        x = g.op("MatMul", g.op("Softmax", scores, axis=-1), x)
    return x


def _grouped_attention(g: GraphWriter, heads: int, groups: int, tokens: int, past: int, width: int = 64) -> str:
    """Grouped query attention behind a cache of `past` positions, with rotation, four layers between products."""
    x = g.input("x", 1, tokens, heads * width)
    key = g.input("k", 1, tokens, groups * width)
    last = g.constant(np.array([past + tokens - 1], np.int32))
    total = g.constant(np.array(past + tokens, np.int32))
    angles = [g.normal(past + tokens, width // 2) for _ in range(2)]
    for layer in range(4):
        x = g.op("MatMul", x, g.normal(heads * width, heads * width))
        caches = [g.input(f"past_{name}{layer}", 1, groups, past, width) for name in "kv"]
        x, present_k, present_v = g.ops(
            "GroupQueryAttention", 3, x, key, key, *caches, last, total, *angles, domain="com.microsoft",
            num_heads=heads, kv_num_heads=groups, do_rotary=1, scale=width**-0.5,
        )  # fmt: skip
        g.keep(present_k, present_v)
    return x


def _chain(g: GraphWriter, ops: tuple[str, ...], count: int, elements: int) -> str:
    """Elementwise nodes in turn; those of two operands take a weight."""
    x = g.input("x", 1, elements)
    other = g.normal(1, elements)
    for index in range(count):
        op = ops[index % len(ops)]
        x = g.op(op, x, other) if op in {"Add", "Mul", "Sub"} else g.op(op, x)
    return x


def _many(g: GraphWriter, count: int, elements: int) -> str:
    """As many tensors in and out as a decoder's cache has."""
    made = [g.op("Neg", g.input(f"x{index}", 1, elements)) for index in range(count)]
    g.keep(*made[1:])
    return made[0]


def _normalised(g: GraphWriter, rows: int, width: int, op: str) -> str:
    """Normalisations behind residual additions."""
    x = g.input("x", 1, rows, width)
    start = x
    for _ in range(4):
        weights = [g.normal(width), g.normal(width)][: 2 if op == "LayerNormalization" else 1]
        x = g.op(op, g.op("Add", x, start), *weights, axis=-1, epsilon=1e-5)
    return x


def _softmax(g: GraphWriter, rows: int, width: int) -> str:
    return g.op("Softmax", g.op("Softmax", g.input("x", 1, rows, width), axis=-1), axis=-1)


def _pooled(g: GraphWriter, channels: int, size: int) -> str:
    x = g.input("x", 1, channels, size, size)
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = g.op("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    return g.op("GlobalAveragePool", x)


def _moved(g: GraphWriter, rows: int, width: int) -> str:
    """Transposed as heads are, and put together."""
    x = g.input("x", 1, rows, width)
    shape = g.constant(np.array([1, rows, 8, width // 8], np.int64))
    y = g.op("Transpose", g.op("Reshape", x, shape), perm=[0, 2, 1, 3])
    y = g.op("Concat", y, g.op("Transpose", y, perm=[0, 1, 3, 2]), axis=0) if rows == width // 8 else y
    return g.op("Transpose", g.op("Concat", y, y, axis=3), perm=[0, 2, 3, 1])


def _viewed(g: GraphWriter) -> str:
    x = g.input("x", 64, 64)
    shapes = [g.constant(np.array(s, np.int64)) for s in ([16, 256], [4096], [64, 64])]
    for index in range(24):
        x = g.op("Neg", g.op("Reshape", x, shapes[index % 3]))
    return x
