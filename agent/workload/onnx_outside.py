"""Weights outside an ONNX file: where it says they are, and whether a runtime would take them from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from agent.errors import ModelLoadFailed


def check_outside(model: Any, path: Path) -> tuple[str, ...]:
    """What is to be said about the files of weights beside `path`: which of them are not there.

    Raises ModelLoadFailed for a place outside the model's folder, which runtimes refuse: a link out of it too.
    """
    root = path.parent.resolve()
    missing = []
    for location in locations(model):
        source = (root / location).resolve()
        if Path(location).is_absolute() or not source.is_relative_to(root):
            raise ModelLoadFailed(f"weights should be in {location!r}, which is not in the model's folder")
        if not source.is_file():
            missing.append(location)
    if not missing:
        return ()
    return (f"weights are not there, so no runtime can load it: {', '.join(missing[:4])}; sizes are those it states",)


def locations(model: Any) -> list[str]:
    """Every place where the file says that weights are, in order, each once."""
    return list(extents(model))


def extents(model: Any) -> dict[str, int]:
    """Every place where the file says that weights are, in order, with the bytes that must be there at least."""
    found: dict[str, int] = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            said = {entry.key: entry.value for entry in tensor.external_data}
            if "location" in said:
                end = sum(int(text) if (text := said.get(key, "")).isdecimal() else 0 for key in ("offset", "length"))
                found[said["location"]] = max(found.get(said["location"], 0), end)
    return found


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(attribute.g)
