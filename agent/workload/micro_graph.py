"""Writer of small ONNX graphs: names tensors, makes weights, saves. Owns no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""Old enough for ONNX Runtime 1.18."""
Array = np.ndarray[Any, Any]


class GraphWriter:
    """An ONNX graph under construction; methods return the name of the tensor they made."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.inputs: list[tuple[str, tuple[int, ...]]] = []
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._extra: list[str] = []
        self._count = 0

    def input(self, name: str, *shape: int) -> str:
        """A float input of the graph."""
        self.inputs.append((name, shape))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """One node with one output."""
        self._count += 1
        name = f"t{self._count}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def ops(self, kind: str, outputs: int, *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        """One node with several outputs."""
        self._count += 1
        names = [f"t{self._count}.{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names

    def constant(self, value: Any) -> str:
        """A weight with that value."""
        self._count += 1
        name = f"w{self._count}"
        self._weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def normal(self, *shape: int, scale: float = 0.05) -> str:
        """A random weight."""
        return self.constant(self.rng.standard_normal(shape, dtype=np.float32) * np.float32(scale))

    def keep(self, *names: str) -> None:
        """Make further tensors outputs, so that nothing is optimised away."""
        self._extra += names

    def save(self, path: Path, output: str, *, open_batch: bool = False) -> Path:
        """Write the file with `output` and the kept tensors as outputs; open: the first size is left to the request."""
        shapes = {name: ["batch", *shape[1:]] if open_batch else list(shape) for name, shape in self.inputs}
        given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
        made = [helper.make_empty_tensor_value_info(n) for n in (output, *self._extra)]
        graph = helper.make_graph(self._nodes, path.stem, given, made, self._weights)
        opsets = [helper.make_opsetid("", OPSET)]
        contrib = any(n.domain == "com.microsoft" for n in self._nodes)
        opsets += [helper.make_opsetid("com.microsoft", 1)] if contrib else []
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = IR_VERSION
        if contrib:
            for value in model.graph.output:
                value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None))
        else:
            model = onnx.shape_inference.infer_shapes(model)
        onnx.save(model, str(path))
        return path
