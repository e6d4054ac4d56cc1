"""What operators of vendor domains cost (com.microsoft and friends), and the shapes of their outputs."""

from __future__ import annotations

from collections.abc import Callable

from agent.workload.graph import BITS, Cost, Tensor, precision_of
from agent.workload.onnx_ops import (
    NORMALISATION_FLOPS,
    SOFTMAX_FLOPS,
    Call,
    Rule,
    compute_precision,
    convolution,
    gemm,
    heavy,
    light,
    movement,
    over_inputs,
    per_output,
    pooling,
    product,
    softmax,
)

ShapeRule = Callable[[Call], tuple[tuple[int, ...], ...]]
"""Shapes of the outputs from those of the inputs."""


def packed_product(call: Call) -> Cost:
    """MatMulNBits: weights of `bits` bits in blocks with a scale each; the inner length is attribute K."""
    bits, inner = call.integer("bits", 4), call.integer("K", 1)
    precision = "int4" if bits <= 4 else "int8" if bits <= 8 else precision_of(call.output.dtype)
    return heavy("gemm", precision, 2.0 * call.output.elements * inner, columns=call.integer("N", 0), inner=inner)


def grouped_query_attention(call: Call) -> Cost:
    """Query heads share KV heads; a token sees the positions before it and itself; the cache is read and written.

    Of the tables of angles, a pass reads the rows of its own positions.
    """
    heads, groups = call.integer("num_heads", 1), call.integer("kv_num_heads", 1)
    query, past = call.tensor(0).shape, call.tensor(3).shape
    batch, steps = query[0], query[1]
    packed = call.inputs[1] is None if len(call.inputs) > 1 else True
    width = query[2] // (heads + 2 * groups) if packed else query[2] // heads
    before = past[2] if len(past) == 4 else 0
    seen = steps * (before + (steps + 1) / 2)
    flops = batch * heads * seen * (4.0 * width + SOFTMAX_FLOPS)
    item = BITS.get(call.tensor(3).dtype if len(past) == 4 else call.output.dtype, 16) / 8
    kv = 2.0 * batch * groups * width * item * (before + 2 * steps)
    read = call.tensor(0).bytes + call.tensor(1).bytes + call.tensor(2).bytes
    tables = [call.tensor(7), call.tensor(8)]
    stored = sum(call.stored.get(t.name, t.bytes) for t in tables)
    rows = min(stored, batch * steps * float(width) * item)
    idle = max(0.0, stored - rows)
    return heavy(
        "attention", compute_precision(call, 0, 0), flops, read_bytes=read, kv_bytes=kv, idle_weight_bytes=idle
    )


def multi_head_attention(call: Call) -> Cost:
    """Queries (B, S, H·d) against keys (B, T, H·d), (B, H, T, d) or packed; all positions are computed."""
    heads = call.integer("num_heads", 1)
    query, key = call.tensor(0).shape, call.tensor(1).shape
    batch, steps = query[0], query[1]
    width = (query[2] if len(query) == 3 else query[-1] * query[2]) // heads
    context = key[1] if len(key) == 3 else key[2] if len(key) == 4 else steps
    past = call.tensor(6).shape
    context += past[2] if len(past) == 4 else 0
    flops = batch * heads * float(steps * context) * (4.0 * width + SOFTMAX_FLOPS)
    return heavy("attention", compute_precision(call, 0, 0), flops)


def fused_attention(call: Call) -> Cost:
    """com.microsoft Attention: projection of (B, S, C) to queries, keys and values, then attention."""
    data, weights = call.tensor(0).shape, call.tensor(1).shape
    heads = call.integer("num_heads", 1)
    batch, steps, inner = data
    width = weights[1] / 3
    projection = heavy("gemm", compute_precision(call, 0, 1), 2.0 * batch * steps * inner * weights[1])
    core = 4.0 * batch * steps * steps * width + SOFTMAX_FLOPS * batch * heads * steps * steps
    return Cost("heavy", (*projection.work, *heavy("attention", precision_of(call.output.dtype), core).work))


def block_gather(call: Call) -> Cost:
    """GatherBlockQuantized: rows of a packed table, dequantised."""
    table = call.tensor(0)
    stored = call.stored.get(table.name, table.bytes)
    per_row = stored / max(1, table.shape[0] if table.shape else 1)
    rows = call.output.elements / max(1, call.output.shape[-1] if call.output.shape else 1)
    work = light(call, 2.0).work
    return Cost("other", work, read_bytes=call.tensor(1).bytes, idle_weight_bytes=max(0.0, stored - rows * per_row))


def _same(call: Call) -> tuple[tuple[int, ...], ...]:
    return tuple(call.tensor(0).shape for _ in call.outputs)


def _skip(call: Call) -> tuple[tuple[int, ...], ...]:
    shape = call.tensor(0).shape
    statistics = (*shape[:-1], 1)
    return (shape, statistics, statistics, shape)


def _broadcast(call: Call) -> tuple[tuple[int, ...], ...]:
    return (broadcast_shapes(call.tensor(0), call.tensor(1)),)


def broadcast_shapes(left: Tensor, right: Tensor) -> tuple[int, ...]:
    """Shape of an elementwise result."""
    rank = max(len(left.shape), len(right.shape))
    a = (1,) * (rank - len(left.shape)) + left.shape
    b = (1,) * (rank - len(right.shape)) + right.shape
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))


def _matrix(call: Call) -> tuple[tuple[int, ...], ...]:
    left, right = call.tensor(0).shape, call.tensor(1).shape
    if call.integer("transA", 0):
        left = (*left[:-2], left[-1], left[-2])
    if call.integer("transB", 0):
        right = (*right[:-2], right[-1], right[-2])
    batch = broadcast_shapes(Tensor("", left[:-2], "bool"), Tensor("", right[:-2], "bool"))
    return ((*batch, left[-2], right[-1]),)


def _packed_product(call: Call) -> tuple[tuple[int, ...], ...]:
    return ((*call.tensor(0).shape[:-1], call.integer("N", 1)),)


def _grouped_query(call: Call) -> tuple[tuple[int, ...], ...]:
    heads, groups = call.integer("num_heads", 1), call.integer("kv_num_heads", 1)
    query, past = call.tensor(0).shape, call.tensor(3).shape
    packed = call.inputs[1] is None if len(call.inputs) > 1 else True
    width = query[2] // (heads + 2 * groups) if packed else query[2] // heads
    before = past[2] if len(past) == 4 else 0
    cache = (query[0], groups, before + query[1], width)
    return ((query[0], query[1], heads * width), cache, cache)


def _multi_head(call: Call) -> tuple[tuple[int, ...], ...]:
    query, value, past = call.tensor(0).shape, call.tensor(2).shape, call.tensor(6).shape
    heads = call.integer("num_heads", 1)
    width = query[2] // heads if len(query) == 3 else query[-1]
    out = (query[0], query[1], value[2] if len(value) == 3 else heads * width)
    length = value[1] if len(value) == 3 else value[2] if len(value) == 4 else query[1]
    cache = (query[0], heads, length + (past[2] if len(past) == 4 else 0), width)
    return (out, cache, cache)


def _projected(call: Call) -> tuple[tuple[int, ...], ...]:
    data, weights = call.tensor(0).shape, call.tensor(1).shape
    return ((data[0], data[1], weights[1] // 3),)


def _rows(call: Call) -> tuple[tuple[int, ...], ...]:
    table = call.tensor(0).shape
    packing = 8 // call.integer("bits", 4) if call.tensor(0).dtype == "uint8" else 1
    return ((*call.tensor(1).shape, *table[1:-1], table[-1] * packing),)


def _embedded(call: Call) -> tuple[tuple[int, ...], ...]:
    batch, steps = call.tensor(0).shape
    return ((batch, steps, call.tensor(2).shape[-1]), (batch,), (batch, steps, call.tensor(2).shape[-1]))


RULES: dict[str, Rule] = {
    "MatMulNBits": packed_product,
    "MatMulBnb4": packed_product,
    "MatMulIntegerToFloat": product,
    "DynamicQuantizeMatMul": product,
    "FusedMatMul": product,
    "FusedGemm": gemm,
    "QGemm": lambda call: gemm(call, 0, 3),
    "FusedConv": convolution,
    "NhwcFusedConv": convolution,
    "QLinearConv": lambda call: convolution(call, 0, 3),
    "GroupQueryAttention": grouped_query_attention,
    "MultiHeadAttention": multi_head_attention,
    "DecoderMaskedMultiHeadAttention": multi_head_attention,
    "Attention": fused_attention,
    "QAttention": fused_attention,
    "GatherBlockQuantized": block_gather,
    "SimplifiedLayerNormalization": per_output(5.0),
    "SkipSimplifiedLayerNormalization": per_output(6.0),
    "SkipLayerNormalization": per_output(NORMALISATION_FLOPS + 1.0),
    "LayerNormalization": per_output(NORMALISATION_FLOPS),
    "EmbedLayerNormalization": per_output(NORMALISATION_FLOPS + 2.0),
    "RotaryEmbedding": per_output(4.0),
    "Gelu": per_output(1.0, "elementwise"),
    "FastGelu": per_output(1.0, "elementwise"),
    "QuickGelu": per_output(1.0, "elementwise"),
    "BiasGelu": per_output(2.0, "elementwise"),
    "BiasAdd": per_output(1.0, "elementwise"),
    "QLinearAdd": per_output(1.0, "elementwise"),
    "QLinearMul": per_output(1.0, "elementwise"),
    "QLinearSigmoid": per_output(1.0, "elementwise"),
    "QLinearLeakyRelu": per_output(1.0, "elementwise"),
    "QLinearSoftmax": softmax,
    "QLinearAveragePool": pooling,
    "QLinearGlobalAveragePool": over_inputs(1.0),
    "QLinearConcat": movement,
    "QuantizeLinear": per_output(1.0, "elementwise"),
    "DequantizeLinear": per_output(1.0, "elementwise"),
    "NhwcMaxPool": pooling,
}

SHAPES: dict[str, ShapeRule] = {
    "MatMulNBits": _packed_product,
    "MatMulBnb4": _packed_product,
    "MatMulIntegerToFloat": _matrix,
    "DynamicQuantizeMatMul": _matrix,
    "FusedMatMul": _matrix,
    "GroupQueryAttention": _grouped_query,
    "MultiHeadAttention": _multi_head,
    "DecoderMaskedMultiHeadAttention": _multi_head,
    "Attention": _projected,
    "GatherBlockQuantized": _rows,
    "SkipSimplifiedLayerNormalization": _skip,
    "SkipLayerNormalization": _skip,
    "EmbedLayerNormalization": _embedded,
    "QLinearAdd": lambda call: (broadcast_shapes(call.tensor(0), call.tensor(3)),),
    "QLinearMul": lambda call: (broadcast_shapes(call.tensor(0), call.tensor(3)),),
    "BiasGelu": _broadcast,
    "BiasAdd": _broadcast,
    **dict.fromkeys(
        ("SimplifiedLayerNormalization", "LayerNormalization", "RotaryEmbedding", "Gelu", "FastGelu", "QuickGelu",
         "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QuantizeLinear", "DequantizeLinear"),
        _same,
    ),
}  # fmt: skip
