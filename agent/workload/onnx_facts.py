"""What a guard must know of an ONNX file: operator set, operators, and the files of weights beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.control.model_guard import ModelFacts
from agent.errors import ModelLoadFailed
from agent.workload import onnx_graph, onnx_outside

MAX_OPERATORS = 10_000
"""Distinct ones; a file with more is no model."""


def read(path: Path) -> ModelFacts:
    """Read in this process, which then holds protobuf. Raises ModelLoadFailed."""
    model = onnx_graph.outline(path)
    own = {(f.domain, f.name) for f in model.functions}
    operators = {(n.domain, n.op_type) for n in _nodes(model)} - own
    if len(operators) > MAX_OPERATORS:
        raise ModelLoadFailed(f"{len(operators)} distinct operators: no model has so many")
    opset = max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=None)
    root, size_bytes, outside, beside = path.parent.resolve(), path.stat().st_size, [], []
    for location, least_bytes in onnx_outside.extents(model).items():
        source = (root / location).resolve()
        if Path(location).is_absolute() or not source.is_relative_to(root):
            outside.append(location)
            continue
        beside.append((location, least_bytes))
        if source.is_file():
            size_bytes += source.stat().st_size
    return ModelFacts("", size_bytes, opset, frozenset(operators), tuple(outside), tuple(beside))


def _nodes(model: Any) -> Iterator[Any]:
    waiting = [model.graph.node, *(f.node for f in model.functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g.node)
                waiting += [g.node for g in attribute.graphs]
