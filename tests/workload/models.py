"""ONNX graphs of well-known networks, written node by node; weights have a shape and a place outside the file only."""

from __future__ import annotations

from math import prod

import onnx
from onnx import TensorProto, helper


class Writer:
    """Collects nodes and initialisers of one graph."""

    def __init__(self, dtype: int = TensorProto.FLOAT) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.dtype = dtype

    def weight(self, *shape: int, dtype: int | None = None) -> str:
        tensor = TensorProto(name=f"w{len(self.weights)}", data_type=dtype or self.dtype, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
        self.weights.append(tensor)
        return tensor.name

    def values(self, array: list[int]) -> str:
        tensor = helper.make_tensor(f"w{len(self.weights)}", TensorProto.INT64, [len(array)], array)
        self.weights.append(tensor)
        return tensor.name

    def node(self, op: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: object) -> str:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, domain=domain, **attributes))
        return names[0]

    def model(self, inputs: dict[str, tuple[int, list[int | str]]], *outputs: str, opset: int = 17) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
            [helper.make_empty_tensor_value_info(o) for o in outputs], self.weights,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets)

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        w = self.weight(outputs, inputs // groups, kernel, kernel)
        pads = [(kernel - 1) // 2] * 4
        return self.node("Conv", x, w, self.weight(outputs), strides=[stride] * 2, pads=pads, group=groups)


def resnet50(batch: int | str = "batch") -> onnx.ModelProto:
    w = Writer()
    x = w.node("Relu", w.conv("image", 3, 64, 7, 2))
    x = w.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for level, blocks in enumerate((3, 4, 6, 3)):
        inner, outer = 64 * 2**level, 256 * 2**level
        for block in range(blocks):
            stride = 2 if level and not block else 1
            y = w.node("Relu", w.conv(x, width, inner, 1))
            y = w.node("Relu", w.conv(y, inner, inner, 3, stride))
            y = w.conv(y, inner, outer, 1)
            skip = w.conv(x, width, outer, 1, stride) if not block else x
            x, width = w.node("Relu", w.node("Add", y, skip)), outer
    x = w.node("Flatten", w.node("GlobalAveragePool", x))
    out = w.node("Gemm", x, w.weight(1000, 2048), w.weight(1000), transB=1)
    return w.model({"image": (TensorProto.FLOAT, [batch, 3, 224, 224])}, out)


def mobilenet_v2() -> onnx.ModelProto:
    w = Writer()
    x, width = w.node("Clip", w.conv("image", 3, 32, 3, 2)), 32
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, channels, repeats, first in rows:
        for block in range(repeats):
            stride = first if not block else 1
            inner, y = width * expansion, x
            if expansion > 1:
                y = w.node("Clip", w.conv(y, width, inner, 1))
            y = w.node("Clip", w.conv(y, inner, inner, 3, stride, inner))
            y = w.conv(y, inner, channels, 1)
            x = w.node("Add", x, y) if stride == 1 and width == channels else y
            width = channels
    x = w.node("Flatten", w.node("GlobalAveragePool", w.node("Clip", w.conv(x, width, 1280, 1))))
    out = w.node("Gemm", x, w.weight(1000, 1280), w.weight(1000), transB=1)
    return w.model({"image": (TensorProto.FLOAT, ["N", 3, 224, 224])}, out)


def bert(layers: int = 12, hidden: int = 768, heads: int = 12, ffn: int = 3072) -> onnx.ModelProto:
    """As exporters write it: shapes computed by nodes, decomposed normalisation and GELU."""
    w = Writer()
    x = w.node("Gather", w.weight(30522, hidden), "ids")
    sizes = w.node("Shape", "ids")
    wanted = w.node("Concat", sizes, w.values([heads, hidden // heads]), axis=0)
    merged = w.node("Concat", sizes, w.values([hidden]), axis=0)
    mask = w.node("Mul", w.node("Cast", w.node("Unsqueeze", "mask", w.values([1, 2])), to=1), w.weight())
    for _ in range(layers):
        q, k, v = (
            w.node("Reshape", w.node("Add", w.node("MatMul", x, w.weight(hidden, hidden)), w.weight(hidden)), wanted)
            for _ in range(3)
        )
        q, v = (w.node("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        scores = w.node("MatMul", q, w.node("Transpose", k, perm=[0, 2, 3, 1]))
        scores = w.node("Softmax", w.node("Add", w.node("Div", scores, w.weight()), mask), axis=-1)
        seen = w.node("Transpose", w.node("MatMul", scores, v), perm=[0, 2, 1, 3])
        y = w.node("MatMul", w.node("Reshape", seen, merged), w.weight(hidden, hidden))
        x = norm(w, w.node("Add", w.node("Add", y, w.weight(hidden)), x), hidden)
        y = gelu(w, w.node("Add", w.node("MatMul", x, w.weight(hidden, ffn)), w.weight(ffn)))
        y = w.node("Add", w.node("MatMul", y, w.weight(ffn, hidden)), w.weight(hidden))
        x = norm(w, w.node("Add", y, x), hidden)
    inputs = {name: (TensorProto.INT64, ["batch_size", "sequence_length"]) for name in ("ids", "mask")}
    return w.model(inputs, x)


def norm(w: Writer, x: str, hidden: int) -> str:
    centred = w.node("Sub", x, w.node("ReduceMean", x, axes=[-1]))
    variance = w.node("ReduceMean", w.node("Pow", centred, w.weight()), axes=[-1])
    scaled = w.node("Div", centred, w.node("Sqrt", w.node("Add", variance, w.weight())))
    return w.node("Add", w.node("Mul", scaled, w.weight(hidden)), w.weight(hidden))


def gelu(w: Writer, x: str) -> str:
    inner = w.node("Add", w.node("Erf", w.node("Div", x, w.weight())), w.weight())
    return w.node("Mul", w.node("Mul", x, inner), w.weight())


def weight_bytes(model: onnx.ModelProto) -> int:
    return sum(4 * prod(t.dims) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
