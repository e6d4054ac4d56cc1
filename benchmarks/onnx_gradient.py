"""True gradients of a picture classifier in ONNX by its input, for attacks: the backward pass is a second ONNX graph.

Knows the operators of convolutional classifiers; any other is an error, never a wrong gradient.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
_SAME = {"Identity", "Cast", "Dropout"}
_SHAPED = {"Reshape", "Squeeze", "Unsqueeze", "Flatten"}


def session(model: onnx.ModelProto, basic: bool = False) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    if basic:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def folded(path: Path, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The model for inputs of that shape with everything constant computed, as the runtime does it."""
    model = onnx.load(path)
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/folded.onnx"
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


class Gradient:
    """Of a classifier that ends in a softmax, for one picture at a time; `shape` is that of its input, batch 1."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        model = folded(path, shape)
        graph = model.graph
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        last = next(n for n in reversed(graph.node) if n.op_type == "Softmax")
        self.input, self.logits = graph.input[0].name, last.input[0]
        for node in graph.node:
            if node.op_type == "MaxPool" and len(node.output) == 1:
                node.output.append(f"{node.output[0]}:places")
        names = [o for n in graph.node for o in n.output if o and n is not last]
        del graph.output[:]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        forward = session(model, basic=True)
        found = forward.run(None, {self.input: np.zeros(shape, np.float32)})
        self.shapes = {name: value.shape for name, value in zip(names, found, strict=True)} | {self.input: shape}
        self.nodes: list[onnx.NodeProto] = []
        self.inits: list[onnx.TensorProto] = []
        self.needed: dict[str, Any] = {}
        self.grads = {self.logits: "start"}
        self._backward(graph)
        # Only what the backward pass reads leaves the forward one.
        del graph.output[:]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in (self.logits, *self.needed))
        self.forward = session(model, basic=True)
        takes = [("start", TensorProto.FLOAT), *self.needed.items()]
        ports = [helper.make_tensor_value_info(name, kind, None) for name, kind in takes]
        out = helper.make_tensor_value_info(self.grads[self.input], TensorProto.FLOAT, None)
        made = helper.make_graph(self.nodes, "backward", ports, [out], self.inits)
        self.back = session(
            helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        )  # fmt: skip

    def of(self, x: Array, weigh: Any) -> tuple[Array, Array]:
        """(logits, gradient by x of the loss whose gradient by the logits is `weigh(logits)`)."""
        logits, *kept = self.forward.run(None, {self.input: x})
        start = np.asarray(weigh(logits), np.float32)
        feeds = {"start": start, **dict(zip(self.needed, kept, strict=True))}
        return logits, self.back.run(None, feeds)[0]

    # ------------------------------------------------------------------ building

    def _const(self, value: Any, kind: Any = np.float32) -> str:
        name = f"c{len(self.inits)}"
        self.inits.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def _emit(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"g{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def _value(self, name: str, kind: int = TensorProto.FLOAT) -> str:
        if name in self.constants:
            return self._const(self.constants[name], self.constants[name].dtype)
        self.needed[name] = kind
        return name

    def _give(self, name: str, gradient: str, shape: tuple[int, ...]) -> None:
        """Add to a value's gradient; summed over what was broadcast."""
        if name in self.constants:
            return
        mine = self.shapes[name]
        if shape != mine:
            padded = (1,) * (len(shape) - len(mine)) + tuple(mine)
            axes = [i for i, (a, b) in enumerate(zip(padded, shape, strict=True)) if a != b]
            if axes:
                gradient = self._emit("ReduceSum", gradient, self._const(axes, np.int64), keepdims=1)
            gradient = self._emit("Reshape", gradient, self._const(mine, np.int64))
        before = self.grads.get(name)
        self.grads[name] = gradient if before is None else self._emit("Add", before, gradient)

    def _where(self, gradient: str, *conditions: str) -> str:
        for condition in conditions:
            gradient = self._emit("Mul", gradient, self._emit("Cast", condition, to=TensorProto.FLOAT))
        return gradient

    def _backward(self, graph: Any) -> None:
        for node in reversed(graph.node):
            gradient = self.grads.get(node.output[0])
            if gradient is not None and node.op_type != "Softmax":
                step = getattr(self, f"_{node.op_type.lower()}", None)
                shape = self.shapes[node.output[0]]
                given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                if node.op_type in _SAME:
                    self._give(node.input[0], gradient, shape)
                elif node.op_type in _SHAPED:
                    mine = self.shapes[node.input[0]]
                    self._give(node.input[0], self._emit("Reshape", gradient, self._const(mine, np.int64)), mine)
                elif step is None:
                    raise NotImplementedError(f"no gradient of {node.op_type} is known here")
                else:
                    step(node, gradient, shape, given)

    # ------------------------------------------------------------------ operators

    def _conv(self, node: Any, g: str, shape: Any, given: Any) -> None:
        x, weight = self.shapes[node.input[0]], self.constants[node.input[1]]
        strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
        pads, reach = given.get("pads"), [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
        if given.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}:
            total = [max(0, (o - 1) * s + r - i) for o, s, r, i in zip(shape[2:], strides, reach, x[2:], strict=True)]
            low = [t // 2 if given["auto_pad"] == b"SAME_UPPER" else t - t // 2 for t in total]
            pads = [*low, *(t - a for t, a in zip(total, low, strict=True))]
        pads = pads or [0, 0, 0, 0]
        rest = [
            i - ((o - 1) * s + r - pads[n] - pads[n + 2])
            for n, (i, o, s, r) in enumerate(zip(x[2:], shape[2:], strides, reach, strict=True))
        ]
        back = self._emit(
            "ConvTranspose", g, self._const(weight), strides=strides, dilations=dilations, group=given.get("group", 1),
            pads=pads, output_padding=rest,
        )  # fmt: skip
        self._give(node.input[0], back, x)

    def _batchnormalization(self, node: Any, g: str, shape: Any, given: Any) -> None:
        scale, variance = self.constants[node.input[1]], self.constants[node.input[4]]
        factor = (scale / np.sqrt(variance + given.get("epsilon", 1e-5))).reshape(1, -1, 1, 1)
        self._give(node.input[0], self._emit("Mul", g, self._const(factor)), shape)

    def _relu(self, node: Any, g: str, shape: Any, _: Any) -> None:
        above = self._emit("Greater", self._value(node.output[0]), self._const(0.0))
        self._give(node.input[0], self._where(g, above), shape)

    def _clip(self, node: Any, g: str, shape: Any, given: Any) -> None:
        bounds = given.get("min", -np.inf), given.get("max", np.inf)
        named = (*node.input[1:], "", "")[:2]
        low, high = (float(self.constants[n].reshape(())) if n else b for n, b in zip(named, bounds, strict=True))
        x = self._value(node.input[0])
        inside = self._emit("Greater", x, self._const(low)), self._emit("Less", x, self._const(high))
        self._give(node.input[0], self._where(g, *inside), shape)

    def _hardsigmoid(self, node: Any, g: str, shape: Any, given: Any) -> None:
        y = self._value(node.output[0])
        inside = self._emit("Greater", y, self._const(0.0)), self._emit("Less", y, self._const(1.0))
        scaled = self._emit("Mul", g, self._const(given.get("alpha", 0.2)))
        self._give(node.input[0], self._where(scaled, *inside), shape)

    def _add(self, node: Any, g: str, shape: Any, _: Any) -> None:
        for name in node.input:
            self._give(name, g, shape)

    def _sub(self, node: Any, g: str, shape: Any, _: Any) -> None:
        self._give(node.input[0], g, shape)
        self._give(node.input[1], self._emit("Neg", g), shape)

    def _mul(self, node: Any, g: str, shape: Any, _: Any) -> None:
        for mine, other in (node.input, reversed(node.input)):
            if mine not in self.constants:
                self._give(mine, self._emit("Mul", g, self._value(other)), shape)

    def _div(self, node: Any, g: str, shape: Any, _: Any) -> None:
        if node.input[1] not in self.constants:
            raise NotImplementedError("no gradient of a division by what is not constant is known here")
        self._give(node.input[0], self._emit("Div", g, self._value(node.input[1])), shape)

    def _matmul(self, node: Any, g: str, shape: Any, _: Any) -> None:  # noqa: ARG002 - as its siblings
        back = self._emit("MatMul", g, self._const(self.constants[node.input[1]].T))
        self._give(node.input[0], back, self.shapes[node.input[0]])

    def _gemm(self, node: Any, g: str, shape: Any, given: Any) -> None:  # noqa: ARG002 - as its siblings
        weight = self.constants[node.input[1]] * given.get("alpha", 1.0)
        back = self._emit("MatMul", g, self._const(weight if given.get("transB") else weight.T))
        self._give(node.input[0], back, self.shapes[node.input[0]])

    def _transpose(self, node: Any, g: str, shape: Any, given: Any) -> None:  # noqa: ARG002 - as its siblings
        back = self._emit("Transpose", g, perm=np.argsort(given["perm"]).tolist())
        self._give(node.input[0], back, self.shapes[node.input[0]])

    def _globalaveragepool(self, node: Any, g: str, shape: Any, _: Any) -> None:  # noqa: ARG002 - as its siblings
        x = self.shapes[node.input[0]]
        spread = self._emit(
            "Expand", self._emit("Div", g, self._const(float(np.prod(x[2:])))), self._const(x, np.int64)
        )
        self._give(node.input[0], spread, x)

    def _averagepool(self, node: Any, g: str, shape: Any, given: Any) -> None:
        x = self.shapes[node.input[0]]
        if tuple(given["kernel_shape"]) != tuple(x[2:]) or tuple(shape[2:]) != (1, 1):
            raise NotImplementedError("only average pools over the whole picture are known here")
        self._globalaveragepool(node, g, shape, given)

    def _reducemean(self, node: Any, g: str, shape: Any, given: Any) -> None:  # noqa: ARG002 - as its siblings
        x = self.shapes[node.input[0]]
        axes = [a % len(x) for a in given["axes"]]
        kept = [1 if i in axes else n for i, n in enumerate(x)]
        share = self._emit("Div", g, self._const(float(np.prod([x[a] for a in axes]))))
        spread = self._emit(
            "Expand", self._emit("Reshape", share, self._const(kept, np.int64)), self._const(x, np.int64)
        )
        self._give(node.input[0], spread, x)

    def _pad(self, node: Any, g: str, shape: Any, given: Any) -> None:
        x = self.shapes[node.input[0]]
        pads = [int(p) for p in (given["pads"] if "pads" in given else self.constants[node.input[1]])]
        begin = pads[: len(x)]
        end = [b + n for b, n in zip(begin, x, strict=True)]
        axes = self._const(list(range(len(shape))), np.int64)
        self._give(
            node.input[0], self._emit("Slice", g, self._const(begin, np.int64), self._const(end, np.int64), axes), x
        )

    def _maxpool(self, node: Any, g: str, shape: Any, _: Any) -> None:  # noqa: ARG002 - as its siblings
        x, flat = self.shapes[node.input[0]], self._const([-1], np.int64)
        places = self._emit("Reshape", self._value(node.output[1], TensorProto.INT64), flat)
        zeros = self._const(np.zeros(int(np.prod(x))))
        spread = self._emit("ScatterElements", zeros, places, self._emit("Reshape", g, flat), axis=0, reduction="add")
        self._give(node.input[0], self._emit("Reshape", spread, self._const(x, np.int64)), x)
