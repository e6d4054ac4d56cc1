"""Transformers for the prediction benchmark: a sentence encoder (fp32, int8) and a decoder with a key–value cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from prediction_models import Array, Builder, Case

ENCODER_TOKENS = 128
PROMPT_TOKENS = 128
CONTEXT_TOKENS = 256
LAYERS, WIDTH, HEADS, GROUPS, HEAD_WIDTH, INNER, VOCABULARY = 30, 576, 9, 3, 64, 1536, 49152
"""Of a decoder with 135 million parameters."""
BLOCK = 32


def encoder(path: Path, layers: int = 6, width: int = 384, heads: int = 12, inner: int = 1536) -> Path:
    """A sentence encoder as exporters write it: separate projections, GELU out of Erf, LayerNormalization."""
    b = Builder(11)
    x = b.op("Gather", b.normal(30_522, width), "ids")
    x = b.op("Add", x, b.normal(1, ENCODER_TOKENS, width))
    x = _normalised(b, x, width)
    x = _layers(b, x, layers, width, heads, inner)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, ENCODER_TOKENS])
    result = helper.make_tensor_value_info("states", TensorProto.FLOAT, [1, ENCODER_TOKENS, width])
    return b.save(path, [ids], {x: result})


def _layers(b: Builder, x: str, layers: int, width: int, heads: int, inner: int) -> str:
    """Self-attention and inner layers with normalisation behind each."""
    head_width = width // heads
    split = b.constant(np.array([0, 0, heads, head_width], np.int64))
    joined = b.constant(np.array([0, 0, width], np.int64))
    scale = b.constant(np.float32(head_width**-0.5))
    for _ in range(layers):
        query, key, value = (b.op("Reshape", _dense(b, x, width, width), split) for _ in range(3))
        query, value = (b.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (query, value))
        scores = b.op("MatMul", query, b.op("Transpose", key, perm=[0, 2, 3, 1]))
        weights = b.op("Softmax", b.op("Mul", scores, scale), axis=-1)
        mixed = b.op("Transpose", b.op("MatMul", weights, value), perm=[0, 2, 1, 3])
        x = _normalised(b, b.op("Add", _dense(b, b.op("Reshape", mixed, joined), width, width), x), width)
        wide = _gelu(b, _dense(b, x, width, inner))
        x = _normalised(b, b.op("Add", _dense(b, wide, inner, width), x), width)
    return x


def vision(path: Path, size: int = 224, patch: int = 16, width: int = 192) -> Path:
    """An encoder of image patches, twelve layers, three heads."""
    b = Builder(21)
    tokens = (size // patch) ** 2
    kernel = b.normal(width, 3, patch, patch)
    x = b.op("Conv", "image", kernel, b.normal(width), kernel_shape=[patch] * 2, strides=[patch] * 2)
    x = b.op("Transpose", b.op("Reshape", x, b.constant(np.array([1, width, tokens], np.int64))), perm=[0, 2, 1])
    x = _layers(b, b.op("Add", x, b.normal(1, tokens, width)), 12, width, 3, 4 * width)
    x = b.op("ReduceMean", x, axes=[1], keepdims=0)
    x = b.op("Gemm", x, b.normal(1000, width), b.normal(1000), transB=1)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])
    return b.save(path, [image], {x: helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1000])})


def _dense(b: Builder, x: str, inputs: int, outputs: int) -> str:
    made: str = b.op("Add", b.normal(outputs), b.op("MatMul", x, b.normal(inputs, outputs)))
    return made


def _normalised(b: Builder, x: str, width: int) -> str:
    made: str = b.op("LayerNormalization", x, b.normal(width), b.normal(width), axis=-1, epsilon=1e-12)
    return made


def _gelu(b: Builder, x: str) -> str:
    half, one, root = (b.constant(np.float32(v)) for v in (0.5, 1.0, np.sqrt(2.0)))
    gate = b.op("Add", b.op("Erf", b.op("Div", x, root)), one)
    made: str = b.op("Mul", b.op("Mul", x, gate), half)
    return made


def encoder_cases(folder: Path) -> list[Case]:
    """The encoder in fp32 and with dynamically quantised products."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    plain = encoder(folder / "encoder.onnx")
    narrow = folder / "encoder-int8.onnx"
    quantize_dynamic(str(plain), str(narrow), weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    ids = np.random.default_rng(12).integers(0, 30_000, (1, ENCODER_TOKENS), dtype=np.int64)
    return [Case("encoder fp32", plain, "onnx", {"ids": ids}), Case("encoder int8", narrow, "onnx", {"ids": ids})]


def decoder(path: Path) -> Path:
    """A decoder with grouped query attention over a cache, gated inner layers and 4-bit weights in blocks."""
    b = Builder(13)
    length = b.op("Gather", b.op("Shape", "attention_mask"), b.constant(np.array(1, np.int64)), axis=0)
    total = b.op("Cast", length, to=TensorProto.INT32)
    count = b.op("ReduceSum", "attention_mask", b.constant(np.array([1], np.int64)), keepdims=0)
    last = b.op("Cast", b.op("Sub", count, b.constant(np.array([1], np.int64))), to=TensorProto.INT32)
    angles = np.outer(np.arange(2048), 1e4 ** (-np.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH)).astype(np.float32)
    cosine, sine = b.constant(np.cos(angles)), b.constant(np.sin(angles))
    x = b.op("Gather", b.normal(VOCABULARY, WIDTH), "input_ids")
    outputs = {}
    for layer in range(LAYERS):
        y = _root_mean_square(b, x)
        query = _packed(b, y, WIDTH, HEADS * HEAD_WIDTH)
        key, value = (_packed(b, y, WIDTH, GROUPS * HEAD_WIDTH) for _ in range(2))
        mixed, past_key, past_value = b.op(
            "GroupQueryAttention", query, key, value, f"past_key_values.{layer}.key", f"past_key_values.{layer}.value",
            last, total, cosine, sine, domain="com.microsoft", outputs=3, num_heads=HEADS, kv_num_heads=GROUPS,
            do_rotary=1, scale=HEAD_WIDTH**-0.5,
        )  # fmt: skip
        for tensor, name in ((past_key, "key"), (past_value, "value")):
            outputs[tensor] = _cache(f"present.{layer}.{name}")
        x = b.op("Add", x, _packed(b, mixed, HEADS * HEAD_WIDTH, WIDTH))
        y = _root_mean_square(b, x)
        gate, up = (_packed(b, y, WIDTH, INNER) for _ in range(2))
        x = b.op("Add", x, _packed(b, b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), up), INNER, WIDTH))
    scores = _packed(b, _root_mean_square(b, x), WIDTH, VOCABULARY)
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", VOCABULARY])
    given = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
    ]
    given += [_cache(f"past_key_values.{i}.{name}", "past") for i in range(LAYERS) for name in ("key", "value")]
    return b.save(path, given, {scores: result, **outputs}, contrib=True)


def _cache(name: str, length: str = "total") -> object:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", GROUPS, length, HEAD_WIDTH])


def _root_mean_square(b: Builder, x: str) -> str:
    made: str = b.op("SimplifiedLayerNormalization", x, b.normal(WIDTH), axis=-1, epsilon=1e-5)
    return made


def _packed(b: Builder, x: str, inputs: int, outputs: int) -> str:
    """A product with weights of four bits, symmetric, a scale for each block, computed on 8-bit activations."""
    blocks = inputs // BLOCK
    weight = b.constant(b.rng.integers(0, 256, (outputs, blocks, BLOCK // 2), dtype=np.uint8))
    scales = b.constant((b.rng.random((outputs, blocks), dtype=np.float32) * 0.01).astype(np.float32))
    made: str = b.op(
        "MatMulNBits", x, weight, scales, domain="com.microsoft", K=inputs, N=outputs, bits=4, block_size=BLOCK,
        accuracy_level=4,
    )  # fmt: skip
    return made


def decoder_cases(folder: Path) -> list[Case]:
    """Reading a prompt, and one step behind a context."""
    path = decoder(folder / "decoder.onnx")
    dims = {"sequence": PROMPT_TOKENS, "past": CONTEXT_TOKENS, "total": CONTEXT_TOKENS + 1}
    return [
        Case("decoder prefill", path, "onnx", _feeds(PROMPT_TOKENS, 0), {**dims, "total": PROMPT_TOKENS}, "prefill"),
        Case("decoder step", path, "onnx", _feeds(1, CONTEXT_TOKENS), dims, "decode"),
    ]


def _feeds(tokens: int, past: int) -> dict[str, Array]:
    rng = np.random.default_rng(14)
    feeds: dict[str, Array] = {
        "input_ids": rng.integers(0, VOCABULARY, (1, tokens), dtype=np.int64),
        "attention_mask": np.ones((1, past + tokens), np.int64),
    }
    for layer in range(LAYERS):
        for name in ("key", "value"):
            cache = rng.standard_normal((1, GROUPS, past, HEAD_WIDTH), dtype=np.float32)
            feeds[f"past_key_values.{layer}.{name}"] = cache
    return feeds
