"""The one file beside the graphs that holds every weight, written front to back in bounded pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.errors import BadInput
from agent.llm.formats import BLOCK_FORMATS, Floats, Quantised, plain
from agent.llm.gguf_file import GgufFile, TensorInfo
from agent.records import record

ALIGNMENT = 4096
"""Page size, so that a runtime can map each weight as it lies."""
CHUNK_ELEMENTS = 8 * 1024 * 1024
"""Weights unpacked at a time: some 100 MB of scratch at most."""


@record(frozen=True)
class Stored:
    """Where a tensor lies in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    size_bytes: int


@record(frozen=True)
class Product:
    """A matrix of `rows` outputs and `columns` inputs; `bits` is 0 for floats, else 4 or 8 in groups of `block`."""

    name: str
    rows: int
    columns: int
    block: int
    bits: int
    has_offset: bool
    has_bias: bool = False


class WeightFile:
    """Appends tensors; `stored` says where each lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stored: dict[str, Stored] = {}
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._end = 0

    def close(self) -> None:
        """Give the file its full length and to the disk."""
        os.ftruncate(self._fd, self._end)
        os.fsync(self._fd)
        os.close(self._fd)

    def reserve(self, name: str, shape: tuple[int, ...], dtype: str) -> Stored:
        """Room for a tensor that is written piece by piece."""
        start = -(-self._end // ALIGNMENT) * ALIGNMENT
        size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self._end = start + size_bytes
        self.stored[name] = Stored(name, shape, dtype, start, size_bytes)
        return self.stored[name]

    def write(self, stored: Stored, first_row: int, rows: npt.NDArray[Any]) -> None:
        """Rows of a reserved tensor, from `first_row`."""
        stride = stored.size_bytes // stored.shape[0]
        data = memoryview(np.ascontiguousarray(rows, stored.dtype).reshape(-1).view(np.uint8).data)
        at = stored.start + first_row * stride
        while data:
            done = os.pwrite(self._fd, data, at)
            data, at = data[done:], at + done

    def add(self, name: str, values: npt.NDArray[Any]) -> None:
        """A whole tensor."""
        self.write(self.reserve(name, values.shape, str(values.dtype)), 0, values)


def group_key(info: TensorInfo) -> tuple[int, int, bool, int]:
    """What two matrices must share to become one product."""
    layout = BLOCK_FORMATS[info.kind]
    return layout.group, layout.bits, layout.has_offset, info.columns


def store_product(
    out: WeightFile, source: GgufFile, name: str, parts: list[TensorInfo], biases: list[Floats | None]
) -> Product:
    """Matrices of one `group_key` below each other as one product, with their biases."""
    layout = BLOCK_FORMATS[parts[0].kind]
    rows, columns = sum(p.rows for p in parts), parts[0].columns
    bias = _joined_bias(parts, biases)
    if bias is not None:
        out.add(f"{name}.bias", bias)
    made = Product(name, rows, columns, layout.group, layout.bits, layout.has_offset, bias is not None)
    if layout.bits == 0:
        target = out.reserve(f"{name}.weight", (rows, columns), "float32")
        for first, raw, kind in _pieces(source, parts):
            values = plain(kind, raw)
            _finite(source, parts, values)
            out.write(target, first, values)
    elif layout.bits == 4:
        _store_four(out, source, made, parts)
    else:
        _store_eight(out, source, made, parts)
    return made


def _joined_bias(parts: list[TensorInfo], biases: list[Floats | None]) -> Floats | None:
    if all(b is None for b in biases):
        return None
    whole = [np.zeros(p.rows, np.float32) if b is None else b for p, b in zip(parts, biases, strict=True)]
    return np.concatenate(whole)


def _pieces(source: GgufFile, parts: list[TensorInfo]) -> Iterator[tuple[int, npt.NDArray[np.uint8], str]]:
    """(first row of the product, bytes of rows, format), bounded."""
    base = 0
    for part in parts:
        step = max(1, CHUNK_ELEMENTS // part.columns)
        for first in range(0, part.rows, step):
            yield base + first, source.rows(part, first, min(step, part.rows - first)), part.kind
        base += part.rows


def _unpacked(source: GgufFile, parts: list[TensorInfo]) -> Iterator[tuple[int, Quantised]]:
    for first, raw, kind in _pieces(source, parts):
        unpack = BLOCK_FORMATS[kind].unpack
        if unpack is not None:
            piece = unpack(raw)
            _finite(source, parts, piece.scale, piece.offset)
            yield first, piece


def _finite(source: GgufFile, parts: list[TensorInfo], *found: Floats | None) -> None:
    """Raises BadInput where a weight is no number: one is enough to make every text of the model nonsense."""
    if all(values is None or np.isfinite(values).all() for values in found):
        return
    names = " or ".join(part.name for part in parts)
    raise BadInput(f"{source.path}: tensor {names} holds other than finite numbers; the file is damaged")


def pair_up(q: npt.NDArray[Any], block: int) -> npt.NDArray[np.uint8]:
    """4-bit values (rows, columns) as MatMulNBits stores them: two neighbours a byte, the first in the low half."""
    pairs = q[:, 0::2] | q[:, 1::2] << 4
    return np.asarray(pairs, np.uint8).reshape(q.shape[0], -1, block // 2)


def _store_four(out: WeightFile, source: GgufFile, made: Product, parts: list[TensorInfo]) -> None:
    blocks = made.columns // made.block
    packed = out.reserve(f"{made.name}.q4", (made.rows, blocks, made.block // 2), "uint8")
    scales = out.reserve(f"{made.name}.scale", (made.rows, blocks), "float32")
    offsets = np.zeros((blocks, made.rows) if made.has_offset else (0, 0), np.float32)
    for first, piece in _unpacked(source, parts):
        out.write(packed, first, pair_up(piece.q, made.block))
        out.write(scales, first, piece.scale)
        if piece.offset is not None:
            offsets[:, first : first + len(piece.q)] = piece.offset.T
    if made.has_offset:
        out.add(f"{made.name}.offset", offsets)


def _store_eight(out: WeightFile, source: GgufFile, made: Product, parts: list[TensorInfo]) -> None:
    """8-bit values whole, and as two 4-bit halves: s(q−128) = 16s(h−8) + s(l−8) + 8s.

    The runtime's 8-bit product in float32 is some hundred times slower than its 4-bit one,
    so exact graphs take the halves.
    """
    blocks = made.columns // made.block
    whole = out.reserve(f"{made.name}.q8", (made.rows, blocks, made.block), "uint8")
    scales = out.reserve(f"{made.name}.scale", (made.rows, blocks), "float32")
    halves = out.reserve(f"{made.name}.q4", (2 * made.rows, blocks, made.block // 2), "uint8")
    wide = out.reserve(f"{made.name}.scale4", (2 * made.rows, blocks), "float32")
    exact = np.zeros((blocks, made.rows), np.float32)
    offsets = np.zeros((blocks, made.rows) if made.has_offset else (0, 0), np.float32)
    for first, piece in _unpacked(source, parts):
        here = slice(first, first + len(piece.q))
        out.write(whole, first, piece.q.reshape(len(piece.q), blocks, made.block))
        out.write(scales, first, piece.scale)
        out.write(halves, first, pair_up(piece.q >> 4, made.block))
        out.write(halves, made.rows + first, pair_up(piece.q & 15, made.block))
        out.write(wide, first, 16 * piece.scale)
        out.write(wide, made.rows + first, piece.scale)
        exact[:, here] = 8 * piece.scale.T
        if piece.offset is not None:
            offsets[:, here] = piece.offset.T
            exact[:, here] += piece.offset.T
    out.add(f"{made.name}.offset4", exact)
    if made.has_offset:
        out.add(f"{made.name}.offset", offsets)
