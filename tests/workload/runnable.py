"""Small ONNX models with real weights: a network of convolutions, a transformer, a decoder with a cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.workload import models

_RAW = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}


class Net(models.Writer):
    """A writer whose weights have values."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def weight(self, *shape: int, dtype: int | None = None) -> str:
        values = (self.rng.standard_normal(shape) * 0.1 + (0 if len(shape) > 1 else 0.5)).astype(_RAW[dtype or 1])
        tensor = numpy_helper.from_array(values, f"w{len(self.weights)}")
        self.weights.append(tensor)
        return tensor.name

    def constant(self, values: object, dtype: type = np.float32) -> str:
        tensor = numpy_helper.from_array(np.array(values, dtype), f"w{len(self.weights)}")
        self.weights.append(tensor)
        return tensor.name

    def built(self, inputs: dict, *outputs: tuple[str, int, list]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
            [helper.make_tensor_value_info(*o) for o in outputs], self.weights,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def convolutions(blocks: int = 4, width: int = 16) -> onnx.ModelProto:
    """Convolutions with batch normalisation and residuals; free batch."""
    w = Net()
    x = w.node("Relu", _normed(w, w.conv("image", 3, width, 3, 2), width))
    for _ in range(blocks):
        y = w.node("Relu", _normed(w, w.conv(x, width, width, 3), width))
        x = w.node("Relu", w.node("Add", _normed(w, w.conv(y, width, width, 3), width), x))
    x = w.node("Flatten", w.node("GlobalAveragePool", x))
    out = w.node("Gemm", x, w.weight(10, width), w.weight(10), transB=1)
    return w.built({"image": (1, ["batch", 3, 32, 32])}, (out, 1, ["batch", 10]))


def _normed(w: Net, x: str, width: int) -> str:
    variance = w.constant(np.full(width, 0.9))
    return w.node("BatchNormalization", x, w.weight(width), w.weight(width), w.weight(width), variance)


def transformer(layers: int = 3, hidden: int = 32, heads: int = 4) -> onnx.ModelProto:
    """Encoder with a mask that every layer reads; free batch and sequence."""
    w = Net()
    x = w.node("Gather", w.weight(50, hidden), "ids")
    sizes = w.node("Shape", "ids")
    wanted = w.node("Concat", sizes, w.values([heads, hidden // heads]), axis=0)
    merged = w.node("Concat", sizes, w.values([hidden]), axis=0)
    off = w.node("Sub", w.node("Cast", w.node("Unsqueeze", "mask", w.values([1, 2])), to=1), w.constant(1.0))
    mask = w.node("Mul", off, w.constant(10000.0))
    for _ in range(layers):
        q, k, v = (
            w.node("Reshape", w.node("Add", w.node("MatMul", x, w.weight(hidden, hidden)), w.weight(hidden)), wanted)
            for _ in range(3)
        )
        q, v = (w.node("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        scores = w.node("MatMul", q, w.node("Transpose", k, perm=[0, 2, 3, 1]))
        scores = w.node("Softmax", w.node("Add", w.node("Div", scores, w.constant(2.8)), mask), axis=-1)
        seen = w.node("Transpose", w.node("MatMul", scores, v), perm=[0, 2, 1, 3])
        y = w.node("MatMul", w.node("Reshape", seen, merged), w.weight(hidden, hidden))
        x = _layer_norm(w, w.node("Add", w.node("Add", y, w.weight(hidden)), x), hidden)
        y = _gelu(w, w.node("Add", w.node("MatMul", x, w.weight(hidden, 4 * hidden)), w.weight(4 * hidden)))
        y = w.node("Add", w.node("MatMul", y, w.weight(4 * hidden, hidden)), w.weight(hidden))
        x = _layer_norm(w, w.node("Add", y, x), hidden)
    inputs = {name: (TensorProto.INT64, ["batch_size", "sequence_length"]) for name in ("ids", "mask")}
    return w.built(inputs, (x, 1, ["batch_size", "sequence_length", hidden]))


def _layer_norm(w: Net, x: str, hidden: int) -> str:
    centred = w.node("Sub", x, w.node("ReduceMean", x, axes=[-1]))
    variance = w.node("ReduceMean", w.node("Pow", centred, w.constant(2.0)), axes=[-1])
    scaled = w.node("Div", centred, w.node("Sqrt", w.node("Add", variance, w.constant(1e-5))))
    return w.node("Add", w.node("Mul", scaled, w.weight(hidden)), w.weight(hidden))


def _gelu(w: Net, x: str) -> str:
    inner = w.node("Add", w.node("Erf", w.node("Div", x, w.constant(1.4142135))), w.constant(1.0))
    return w.node("Mul", w.node("Mul", x, inner), w.constant(0.5))


def decoder(layers: int = 3, hidden: int = 32, heads: int = 4) -> onnx.ModelProto:
    """Decoder that takes and gives a cache of keys and values per layer; free batch, sequence and past."""
    w = Net()
    size = hidden // heads
    x = w.node("Gather", w.weight(60, hidden), "input_ids")
    shape = w.constant([0, -1, heads, size], np.int64)
    flat = w.constant([0, -1, hidden], np.int64)
    cache, outputs = {}, []
    for layer in range(layers):
        q, k, v = (
            w.node("Transpose", w.node("Reshape", w.node("MatMul", x, w.weight(hidden, hidden)), shape),
                   perm=[0, 2, 1, 3])
            for _ in range(3)
        )  # fmt: skip
        names = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
        cache.update({n: (1, ["batch_size", heads, "past_sequence_length", size]) for n in names})
        k, v = w.node("Concat", names[0], k, axis=2), w.node("Concat", names[1], v, axis=2)
        outputs += [(t, 1, ["batch_size", heads, "total_sequence_length", size]) for t in (k, v)]
        scores = w.node("Softmax", w.node("MatMul", q, w.node("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
        seen = w.node("Reshape", w.node("Transpose", w.node("MatMul", scores, v), perm=[0, 2, 1, 3]), flat)
        x = _layer_norm(w, w.node("Add", w.node("MatMul", seen, w.weight(hidden, hidden)), x), hidden)
        y = _gelu(w, w.node("MatMul", x, w.weight(hidden, 4 * hidden)))
        x = _layer_norm(w, w.node("Add", w.node("MatMul", y, w.weight(4 * hidden, hidden)), x), hidden)
    logits = w.node("MatMul", x, w.weight(hidden, 60))
    inputs = {"input_ids": (TensorProto.INT64, ["batch_size", "sequence_length"]), **cache}
    return w.built(inputs, (logits, 1, ["batch_size", "sequence_length", 60]), *outputs)


def saved(model: onnx.ModelProto, folder: Path, name: str = "net") -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(model, str(path))
    return path
