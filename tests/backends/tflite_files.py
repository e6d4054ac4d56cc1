"""Tiny LiteRT files, written tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


def _schema() -> Any:
    return pytest.importorskip("ai_edge_litert.schema_py_generated", reason="this LiteRT brings no file format")


def tensor(name: str, shape: list[int], **more: Any) -> Any:
    """`free` is the declared shape where sizes are free, `data` makes a constant, `state` a variable."""
    schema = _schema()
    made = schema.TensorT()
    made.name, made.shape, made.buffer, made.isVariable = name, shape, 0, more.get("state", False)
    made.type, made.data = more.get("type", schema.TensorType.FLOAT32), more.get("data")
    if "free" in more:
        made.shapeSignature = more["free"]
    return made


def save(
    path: Path, tensors: list[Any], operators: list[tuple[str, list[int], list[int], dict[str, Any]]],
    inputs: list[int], outputs: list[int],
) -> Path:  # fmt: skip
    """Write a file; operators are (name in capitals, inputs, outputs, options)."""
    flatbuffers, schema = pytest.importorskip("flatbuffers"), _schema()
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, [schema.BufferT()], [], [graph]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, [], inputs, outputs
    for made in tensors:
        if made.data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(made.data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
    for kind, sources, results, options in operators:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = code.builtinCode, 1
        name = f"{kind.title() if kind != 'RNN' else kind}Options"
        chosen = getattr(schema, f"{name}T")()
        for key, value in options.items():
            setattr(chosen, key, value)
        operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes), sources, results
        operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, name), chosen
        model.operatorCodes.append(code)
        graph.operators.append(operator)
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def only_one_row(path: Path) -> Path:
    """y = 2 x, declared for any number of rows; its reshape takes one."""
    four = np.array([4], np.int32)
    tensors = [
        tensor("x", [1, 4], free=[-1, 4]), tensor("shape", [1], data=four, type=_schema().TensorType.INT32),
        tensor("h", [4]), tensor("y", [4]),
    ]  # fmt: skip
    operators = [("RESHAPE", [0, 1], [2], {"newShape": [4]}), ("ADD", [2, 2], [3], {})]
    return save(path, tensors, operators, [0], [3])


def one_of_five(path: Path) -> Path:
    """y = [0, 1, 2, 3, 4][i]."""
    kind = _schema().TensorType.INT32
    tensors = [tensor("i", [1], type=kind), tensor("p", [5], data=np.arange(5, dtype=np.float32)), tensor("y", [1])]
    return save(path, tensors, [("GATHER", [1, 0], [2], {})], [0], [2])


def remembers(path: Path) -> Path:
    """y = x + what it was before, in a variable."""
    one, none = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    tensors = [
        tensor("x", [1, 2]), tensor("w", [2, 2], data=one), tensor("r", [2, 2], data=one), tensor("b", [2], data=none),
        tensor("h", [1, 2], state=True), tensor("y", [1, 2]),
    ]  # fmt: skip
    return save(path, tensors, [("RNN", [0, 1, 2, 3, 4], [5], {})], [0], [5])


def subtracts(path: Path) -> Path:
    """y = x - x: two inputs of the same name."""
    tensors = [tensor("x", [4]), tensor("x", [4]), tensor("y", [4])]
    return save(path, tensors, [("SUB", [0, 1], [2], {})], [0, 1], [2])
