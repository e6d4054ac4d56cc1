"""Micro models of whole blocks: what kernels cost in the company that models give them.

A kernel in a row of its like finds its operands in the cache and the provider's own layout; between a normalisation
and a residual it does not. Blocks are those of encoders, gated decoders and convolution nets, of sizes of their own.
"""

from __future__ import annotations

import numpy as np

from agent.workload.micro_graph import GraphWriter

_BLOCK = 32
_HEAD = 64


def encoder(g: GraphWriter, tokens: int, width: int, layers: int, narrow: bool = False) -> str:
    """Self-attention and inner layers, normalised behind each; `narrow`: products of dynamically quantised integers."""
    x = g.input("x", 1, tokens, width)
    heads = width // _HEAD
    split = g.constant(np.array([0, 0, heads, _HEAD], np.int64))
    joined = g.constant(np.array([0, 0, width], np.int64))
    scale = g.constant(np.float32(_HEAD**-0.5))
    for _ in range(layers):
        query, key, value = (g.op("Reshape", dense(g, x, width, width, narrow), split) for _ in range(3))
        query, value = (g.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (query, value))
        scores = g.op("Mul", g.op("MatMul", query, g.op("Transpose", key, perm=[0, 2, 3, 1])), scale)
        mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), value)
        mixed = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        x = _normalised(g, g.op("Add", dense(g, mixed, width, width, narrow), x), width)
        wide = gelu(g, dense(g, x, width, 4 * width, narrow))
        x = _normalised(g, g.op("Add", dense(g, wide, 4 * width, width, narrow), x), width)
    return x


def dense(g: GraphWriter, x: str, inner: int, columns: int, narrow: bool) -> str:
    """A product with bias, as exporters write it; `narrow`: of dynamically quantised activations."""
    if not narrow:
        return g.op("Add", g.op("MatMul", x, g.normal(inner, columns)), g.normal(columns))
    quantised, scale, zero = g.ops("DynamicQuantizeLinear", 3, x)
    weight = g.constant(g.rng.integers(-127, 127, (inner, columns), dtype=np.int8))
    product = g.op("MatMulInteger", quantised, weight, zero, g.constant(np.int8(0)))
    scales = g.op("Mul", scale, g.constant(np.float32(0.001)))
    return g.op("Add", g.op("Mul", g.op("Cast", product, to=1), scales), g.normal(columns))


def gelu(g: GraphWriter, x: str) -> str:
    """GELU out of erf."""
    half, one, root = (g.constant(np.float32(v)) for v in (0.5, 1.0, 2.0**0.5))
    return g.op("Mul", g.op("Mul", x, g.op("Add", g.op("Erf", g.op("Div", x, root)), one)), half)


def _normalised(g: GraphWriter, x: str, width: int) -> str:
    return g.op("LayerNormalization", x, g.normal(width), g.normal(width), axis=-1, epsilon=1e-5)


def packed(g: GraphWriter, x: str, inner: int, columns: int) -> str:
    """A product with weights of four bits, symmetric in blocks, computed on 8-bit activations."""
    blocks = inner // _BLOCK
    weight = g.constant(g.rng.integers(0, 256, (columns, blocks, _BLOCK // 2), dtype=np.uint8))
    scales = g.constant(g.rng.random((columns, blocks), dtype=np.float32) * np.float32(0.01))
    return g.op(
        "MatMulNBits", x, weight, scales, domain="com.microsoft", K=inner, N=columns, bits=4, block_size=_BLOCK,
        accuracy_level=4,
    )  # fmt: skip


def decoder(g: GraphWriter, tokens: int, past: int, width: int, inner: int, layers: int) -> str:
    """Grouped attention over a cache, gated inner layers, weights of four bits."""
    heads, groups = width // _HEAD, width // _HEAD // 4
    x = g.input("x", 1, tokens, width)
    last = g.constant(np.array([past + tokens - 1], np.int32))
    total = g.constant(np.array(past + tokens, np.int32))
    angles = [g.normal(past + tokens, _HEAD // 2) for _ in range(2)]
    for layer in range(layers):
        y = _root(g, x, width)
        query = packed(g, y, width, width)
        key, value = (packed(g, y, width, groups * _HEAD) for _ in range(2))
        caches = [g.input(f"past_{name}{layer}", 1, groups, past, _HEAD) for name in "kv"]
        mixed, *present = g.ops(
            "GroupQueryAttention", 3, query, key, value, *caches, last, total, *angles, domain="com.microsoft",
            num_heads=heads, kv_num_heads=groups, do_rotary=1, scale=_HEAD**-0.5,
        )  # fmt: skip
        g.keep(*present)
        x = g.op("Add", x, packed(g, mixed, width, width))
        y = _root(g, x, width)
        gate, up = (packed(g, y, width, inner) for _ in range(2))
        x = g.op("Add", x, packed(g, g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up), inner, width))
    return x


def _root(g: GraphWriter, x: str, width: int) -> str:
    return g.op("SimplifiedLayerNormalization", x, g.normal(width), axis=-1, epsilon=1e-5)


def convolved(g: GraphWriter, x: str, inputs: int, outputs: int, kernel: int, groups: int = 1, act: str = "") -> str:
    """A convolution that keeps the size, with bias and an activation."""
    y = g.op(
        "Conv", x, g.normal(outputs, inputs // groups, kernel, kernel), g.normal(outputs), kernel_shape=[kernel] * 2,
        pads=[kernel // 2] * 4, group=groups,
    )  # fmt: skip
    if act == "swish":
        return g.op("Mul", y, g.op("Sigmoid", y))
    if act == "clip":
        return g.op("Clip", y, g.constant(np.float32(0)), g.constant(np.float32(6)))
    return g.op("Relu", y) if act == "relu" else y


def image(g: GraphWriter, channels: int, size: int) -> str:
    """An image made into so many channels: tensors of many channels come from kernels, hardly ever from outside."""
    return convolved(g, g.input("x", 1, 3, size, size), 3, channels, 1)


def pooled(g: GraphWriter, x: str) -> str:
    """One value for each channel leaves the net: large results would be laid out anew and copied, which few nets do."""
    return g.op("GlobalAveragePool", x)


def squeezed(g: GraphWriter, channels: int, size: int, blocks: int) -> str:
    """Inverted residuals whose channels are weighted by what their means say."""
    x = image(g, channels, size)
    wide = 4 * channels
    for _ in range(blocks):
        y = convolved(g, x, channels, wide, 1, act="swish")
        y = convolved(g, y, wide, wide, 5, wide, act="swish")
        gate = convolved(g, g.op("GlobalAveragePool", y), wide, channels // 4, 1, act="relu")
        gate = g.op("Sigmoid", convolved(g, gate, channels // 4, wide, 1))
        x = g.op("Add", x, convolved(g, g.op("Mul", y, gate), wide, channels, 1))
    return pooled(g, x)


def inverted(g: GraphWriter, channels: int, size: int, blocks: int) -> str:
    """Expansion, depthwise, projection, and the residual."""
    x = image(g, channels, size)
    wide = 5 * channels
    for _ in range(blocks):
        y = convolved(g, x, channels, wide, 1, act="clip")
        y = convolved(g, y, wide, wide, 3, wide, act="clip")
        x = g.op("Add", x, convolved(g, y, wide, channels, 1))
    return pooled(g, x)


def bottleneck(g: GraphWriter, channels: int, size: int, blocks: int) -> str:
    """Narrow, three by three, wide, the residual, and a clamp behind it."""
    x = image(g, channels, size)
    for _ in range(blocks):
        y = convolved(g, x, channels, channels // 4, 1, act="relu")
        y = convolved(g, y, channels // 4, channels // 4, 3, act="relu")
        x = g.op("Relu", g.op("Add", convolved(g, y, channels // 4, channels, 1), x))
    return pooled(g, x)


def split(g: GraphWriter, channels: int, size: int, blocks: int) -> str:
    """Half of the channels goes through a convolution, then all parts are put together again."""
    x = image(g, channels, size)
    half = channels // 2
    for _ in range(blocks):
        first, second = g.ops("Split", 2, x, g.constant(np.array([half, half], np.int64)), axis=1)
        third = convolved(g, second, half, half, 3, act="swish")
        x = convolved(g, g.op("Concat", first, second, third, axis=1), 3 * half, channels, 1, act="swish")
    return pooled(g, x)
