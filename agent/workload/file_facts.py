"""File facts: what a guard must know of a model file before a runtime opens it, read in a process of its own.

`python -m agent.workload.file_facts PATH onnx|tflite` prints JSON: operator set, operators with their domains, size
with the weights beside the file, the files in which those are, and every place outside its folder where some should be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.control.model_guard import ModelFacts
from agent.errors import ModelLoadFailed
from agent.workload.reading_child import answer, ask

TIMEOUT_S = 60.0
MAX_OPERATORS = 10_000
"""Distinct ones; a file with more is no model."""
CUSTOM = "custom"
"""Domain of TFLite operators that a runtime does not have itself."""

_DELEGATED = frozenset({"TFLite_Detection_PostProcess", "edgetpu-custom-op"})
"""Custom operators that the runtime or the profile's own delegate brings."""


def facts_in_child(path: Path, format_: str, digest: str) -> ModelFacts:
    """The facts of a file. ModelLoadFailed with one line where it cannot be read."""
    return from_json(json.loads(ask("agent.workload.file_facts", [str(path), format_], path, TIMEOUT_S)), digest)


def from_json(document: dict[str, Any], digest: str) -> ModelFacts:
    """Facts as they were printed."""
    operators = frozenset((str(domain), str(name)) for domain, name in document["operators"])
    return ModelFacts(
        digest, document["size_bytes"], document["opset"], operators, tuple(document["outside"]),
        tuple((str(name), int(size)) for name, size in document["beside"]),
    )  # fmt: skip


def to_json(facts: ModelFacts) -> dict[str, Any]:
    """Undo `from_json`."""
    return {
        "size_bytes": facts.size_bytes, "opset": facts.opset, "operators": sorted(facts.operators),
        "outside": list(facts.outside), "beside": [list(item) for item in facts.beside],
    }  # fmt: skip


def read(path: Path, format_: str) -> ModelFacts:
    """Read in this process (which then holds protobuf for ONNX)."""
    return _onnx(path) if format_ == "onnx" else _tflite(path)


def _onnx(path: Path) -> ModelFacts:
    from agent.workload import onnx_graph, onnx_outside  # noqa: PLC0415  (optional package)

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


def _tflite(path: Path) -> ModelFacts:
    from agent.workload import tflite_graph  # noqa: PLC0415  (only the format that is asked for)

    operators = tflite_graph.operator_names(tflite_graph.load(path))
    named = frozenset((CUSTOM if own and name not in _DELEGATED else "", name) for name, own in operators)
    return ModelFacts("", path.stat().st_size, None, named)


def main(arguments: list[str]) -> int:
    """Entry of the child process: JSON on success, else one line on standard error and code 1."""
    path, format_ = Path(arguments[0]), arguments[1]
    return answer(lambda: to_json(read(path, format_)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
