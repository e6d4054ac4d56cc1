"""TFLite graph: reads a .tflite file into a workload of one stage, with the schema that ships with LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from agent.errors import ModelLoadFailed
from agent.schema.workload import Family, Precision, TensorSpec, Work, Workload
from agent.workload.graph import Graph, Node, Tensor
from agent.workload.stages import make_stages

_IDENTIFIER = b"TFL3"
_TYPES: dict[str, tuple[str, int]] = {
    "FLOAT32": ("FP32", 4), "FLOAT16": ("FP16", 2), "INT8": ("INT8", 1), "UINT8": ("UINT8", 1), "INT16": ("INT16", 2),
    "INT32": ("INT32", 4), "INT64": ("INT64", 8), "BOOL": ("BOOL", 1), "FLOAT64": ("FP64", 8), "UINT32": ("UINT32", 4),
}  # fmt: skip
_FREE = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE"}
_MOVEMENT = {
    "CONCATENATION", "PAD", "PADV2", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "GATHER", "SPLIT", "PACK", "UNPACK", "TILE",
    "CAST", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "MIRROR_PAD", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE",
}  # fmt: skip
_FUSABLE = {"ADD", "MUL", "SUB", "RELU", "RELU6", "PRELU", "LOGISTIC", "HARD_SWISH", "TANH", "QUANTIZE", "DEQUANTIZE"}


def read(path: Path) -> Workload:
    """The forward workload. LiteRT runs a model whole, so it is one stage."""
    data = path.read_bytes()
    if data[4:8] != _IDENTIFIER:
        raise ModelLoadFailed("not a TFLite file: its identifier is missing")
    try:
        model = schema.Model.GetRootAs(data, 0)
        reader = _Reader(model)
        stages = make_stages(reader.graph(), 1)
        inputs, outputs = reader.specs()
    except (IndexError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ModelLoadFailed(f"damaged TFLite file ({type(error).__name__})") from error
    return Workload(
        model=path.stem, format="tflite", stages=stages, inputs=inputs, outputs=outputs,
        notes=tuple(dict.fromkeys(reader.notes)),
    )  # fmt: skip


class _Reader:
    """Walks the first subgraph."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._graph = model.Subgraphs(0)
        self.notes: list[str] = []
        self._names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
        self._kinds = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}

    def _shape(self, index: int) -> tuple[int, ...]:
        tensor = self._graph.Tensors(index)
        return tuple(max(1, int(tensor.Shape(i))) for i in range(tensor.ShapeLength()))

    def _kind(self, index: int) -> str:
        return self._kinds.get(self._graph.Tensors(index).Type(), "FLOAT32")

    def _bytes(self, index: int) -> float:
        return float(np.prod(self._shape(index), dtype=np.float64)) * _TYPES.get(self._kind(index), ("", 4))[1]

    def _is_constant(self, index: int) -> bool:
        buffer = self._model.Buffers(self._graph.Tensors(index).Buffer())
        return buffer is not None and buffer.DataLength() > 0

    def _operator(self, operator: Any) -> str:
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        return self._names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "CUSTOM")

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of the model."""
        inputs = [self._graph.Inputs(i) for i in range(self._graph.InputsLength())]
        outputs = [self._graph.Outputs(i) for i in range(self._graph.OutputsLength())]
        return tuple(map(self._spec, inputs)), tuple(map(self._spec, outputs))

    def _spec(self, index: int) -> TensorSpec:
        name = (self._graph.Tensors(index).Name() or b"").decode(errors="replace")
        return TensorSpec(name=name, datatype=_TYPES.get(self._kind(index), ("BYTES", 1))[0], shape=self._shape(index))

    def graph(self) -> Graph:
        """Nodes with work and bytes; dequantisation of constant weights happens at load time."""
        dequantised: dict[int, int] = {}
        nodes: list[Node] = []
        uses: dict[int, int] = {}
        operators = [self._graph.Operators(i) for i in range(self._graph.OperatorsLength())]
        for operator in operators:
            for i in range(operator.InputsLength()):
                uses[operator.Inputs(i)] = uses.get(operator.Inputs(i), 0) + 1
        produced: set[str] = set()
        for number, operator in enumerate(operators):
            name = self._operator(operator)
            inputs = [operator.Inputs(i) for i in range(operator.InputsLength()) if operator.Inputs(i) >= 0]
            outputs = [operator.Outputs(i) for i in range(operator.OutputsLength())]
            if name == "DEQUANTIZE" and self._is_constant(inputs[0]):
                dequantised[outputs[0]] = inputs[0]
                continue
            constants = [i for i in inputs if self._is_constant(i) or i in dequantised]
            activations = [str(i) for i in inputs if i not in constants]
            fused = name in _FREE or (
                name in _FUSABLE and bool(activations) and activations[0] in produced and uses[int(activations[0])] == 1
            )
            nodes.append(
                Node(
                    f"{name}.{number}", name, tuple(activations), tuple(map(str, outputs)),
                    self._work(name, inputs, outputs),
                    tuple((str(i), self._bytes(i)) for i in constants), fused=fused,
                )
            )  # fmt: skip
            produced |= set(map(str, outputs))
        tensors = {
            name: Tensor(name, self._bytes(int(name)), name not in produced)
            for node in nodes for name in (*node.inputs, *node.outputs)
        }  # fmt: skip
        outputs_ = tuple(str(self._graph.Outputs(i)) for i in range(self._graph.OutputsLength()))
        return Graph(tuple(nodes), tensors, outputs_)

    def _work(self, name: str, inputs: list[int], outputs: list[int]) -> tuple[Work, ...]:
        if name in _MOVEMENT or name in _FREE or not outputs:
            return ()
        size = float(np.prod(self._shape(outputs[0]), dtype=np.float64))
        family: Family = "elementwise"
        flops = size
        if name == "CONV_2D":
            family, flops = "conv", 2.0 * size * float(np.prod(self._shape(inputs[1])[1:]))
        elif name == "DEPTHWISE_CONV_2D":
            family, flops = "depthwise", 2.0 * size * float(np.prod(self._shape(inputs[1])[1:3]))
        elif name == "TRANSPOSE_CONV":
            kernel = self._shape(inputs[1])
            family, flops = "conv", 2.0 * float(np.prod(self._shape(inputs[2]))) * float(np.prod(kernel[:3]))
        elif name == "FULLY_CONNECTED":
            family, flops = "gemm", 2.0 * size * self._shape(inputs[1])[-1]
        elif name == "BATCH_MATMUL":
            family, flops = "attention", 2.0 * size * self._shape(inputs[0])[-1]
        elif name in {"MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN", "SOFTMAX"}:
            flops = float(np.prod(self._shape(inputs[0]), dtype=np.float64))
        elif name == "CUSTOM":
            self.notes.append("custom operators are counted as one operation per output")
        return (Work(family=family, precision=self._precision(outputs[0]), flops=flops),)

    def _precision(self, output: int) -> Precision:
        kinds: dict[str, Precision] = {"INT8": "int8", "UINT8": "int8", "INT16": "int8", "FLOAT16": "fp16"}
        return kinds.get(self._kind(output), "fp32")
