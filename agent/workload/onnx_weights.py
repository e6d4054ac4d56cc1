"""Weights of stage models: where they lie so that the stages of a model share them.

Large ones leave the model file for one file beside the stages, written once. Weights that were outside the model file
already stay where they are, under a hard link (a runtime follows no symbolic link out of the folder of its model), or
as a copy where the folder is on another file system.
"""

from __future__ import annotations

import os
import shutil
from array import array
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from onnx import AttributeProto, TensorProto
from onnx.external_data_helper import set_external_data

from agent.errors import ModelLoadFailed

WEIGHTS_FILE = "weights.bin"
OUTSIDE_BYTES = 4096
"""Weights from this size on lie outside the stage files, which several stages and splits then share."""
ALIGNMENT_BYTES = 4096


def share(model: Any, path: Path, folder: Path) -> None:
    """Move the large weights of a parsed model out; all its records then name files in `folder`.

    path: where the model was read from, beside which its own outside weights are. Raises ModelLoadFailed, OSError.
    """
    inside = [t for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL]
    links: dict[str, str] = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            _relocate(tensor, path, folder, links)
    _move_out(inside, folder)


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor of a graph that may lie outside the file, those of bodies and constants included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.GRAPH:
                yield from _tensors(attribute.g)


def _move_out(inside: list[Any], folder: Path) -> None:
    target = folder / WEIGHTS_FILE
    partial = partial_of(target)
    at = 0
    with partial.open("wb") if not target.is_file() else nullcontext() as stream:
        for tensor in inside:
            data = _bytes_of(tensor)
            if len(data) < OUTSIDE_BYTES:
                continue
            tensor.raw_data = data
            set_external_data(tensor, WEIGHTS_FILE, offset=at, length=len(data))
            for field in ("raw_data", "float_data", "int64_data"):
                tensor.ClearField(field)
            tensor.data_location = TensorProto.EXTERNAL
            if stream is not None:
                stream.seek(at)
                stream.write(data)
            at = -(-(at + len(data)) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        if stream is not None:
            stream.flush()
            os.fsync(stream.fileno())
    if partial.is_file():
        partial.replace(target)


def _relocate(tensor: Any, path: Path, folder: Path, links: dict[str, str]) -> None:
    entry = next((e for e in tensor.external_data if e.key == "location"), None)
    if entry is None:
        raise ModelLoadFailed(f"weight {tensor.name!r} is outside the file, which does not say where")
    if entry.value not in links:
        links[entry.value] = _linked(entry.value, path, folder, f"outside-{len(links)}.bin")
    entry.value = links[entry.value]


def _linked(location: str, path: Path, folder: Path, name: str) -> str:
    root = path.parent.resolve()
    source = (root / location).resolve()
    if not source.is_relative_to(root):
        raise ModelLoadFailed(f"weights should be in {location!r}, which is not in the model's folder")
    if not source.is_file():
        raise ModelLoadFailed(f"its weights should be in {location!r} beside it, and no such file is there")
    target = folder / name
    if not _same(source, target):
        partial = partial_of(target)
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:
            shutil.copy2(source, partial)  # another file system, or links to others' files are forbidden here
        partial.replace(target)
    return name


def _same(source: Path, target: Path) -> bool:
    if not target.is_file():
        return False
    here, there = target.stat(), source.stat()
    return target.samefile(source) or (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def _bytes_of(tensor: Any) -> bytes:
    """The weight as it lies in memory; nothing for the rare ways of storing that are left in the stage file."""
    if tensor.raw_data:
        return bytes(tensor.raw_data)
    if tensor.float_data and tensor.data_type == tensor.FLOAT:
        return array("f", tensor.float_data).tobytes()
    if tensor.int64_data and tensor.data_type == tensor.INT64:
        return array("q", tensor.int64_data).tobytes()
    return b""


def partial_of(target: Path) -> Path:
    """Name of a file while it is being written."""
    return target.with_name(f".{target.name}.{os.getpid()}.partial")
