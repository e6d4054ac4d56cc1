"""Reads GGUF files: metadata and the whereabouts of each tensor, with every length checked against the file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.errors import BadInput
from agent.llm.formats import BLOCK_FORMATS, NAMES
from agent.records import record

MAX_TENSORS = 65_536
MAX_KEYS = 65_536
MAX_ARRAY = 4_194_304
"""Entries of one metadata array: the largest vocabularies known have 262,208."""
MAX_DEPTH = 4

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@record(frozen=True)
class TensorInfo:
    """One tensor: `shape` has rows first, `kind` names its block format, `start` counts bytes into the file."""

    name: str
    shape: tuple[int, ...]
    kind: str
    start: int
    size_bytes: int

    @property
    def columns(self) -> int:
        """Length of a row."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """Number of rows, 1 for a vector."""
        return prod(self.shape[:-1])


class GgufFile:
    """An open GGUF file; tensors are views of its mapping, so memory stays with the page cache."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise BadInput(f"{path}: the file is empty") from error
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror or error}") from error
        header = _Reader(self._map, path)
        self.metadata, self.tensors = header.everything()

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return len(self._map)

    def close(self) -> None:
        """Let go of the mapping; views that are still held keep it open."""
        try:
            self._map.close()
        except BufferError:
            return  # a view is still held; the mapping goes with it

    def rows(self, info: TensorInfo, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Bytes of `count` rows from row `first`, one row of the result each."""
        stride = info.size_bytes // info.rows
        start = info.start + first * stride
        flat = np.frombuffer(self._map, np.uint8, count * stride, start)
        return flat.reshape(count, stride)

    def tensor(self, name: str) -> TensorInfo:
        """The tensor called `name`. Raises BadInput where the file has none."""
        try:
            return self.tensors[name]
        except KeyError:
            raise BadInput(
                f"{self.path}: tensor {name} is missing; the file is incomplete or of another kind"
            ) from None


class _Reader:
    """A cursor over the header that never reads past the end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def everything(self) -> tuple[Mapping[str, Any], Mapping[str, TensorInfo]]:
        if self.take(4, "the header") != b"GGUF":
            raise BadInput(f"{self.path}: not a GGUF file (it does not begin with GGUF)")
        version = self.number("I", "the version")
        if version not in (2, 3):
            hint = "big endian files are not supported" if version >> 16 else "versions 2 and 3 are supported"
            raise BadInput(f"{self.path}: GGUF version {version}: {hint}")
        tensors, keys = self.number("Q", "the tensor count"), self.number("Q", "the key count")
        if tensors > MAX_TENSORS or keys > MAX_KEYS:
            raise BadInput(f"{self.path}: claims {tensors} tensors and {keys} keys; the header is damaged")
        metadata: dict[str, Any] = {}
        for index in range(keys):
            name = self.string(f"metadata key {index}")
            metadata[name] = self.value(self.number("I", name), name, 0)
        infos = [self.info(index) for index in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise BadInput(f"{self.path}: general.alignment is {alignment}, expected a power of two")
        base = -(-self.at // alignment) * alignment
        return MappingProxyType(metadata), MappingProxyType(self.placed(infos, base, alignment))

    def take(self, count: int, what: str) -> bytes:
        if count > len(self.data) - self.at:
            raise BadInput(f"{self.path}: the file ends inside {what}; copy or download it again")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str, what: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize(code), what))[0])

    def string(self, what: str) -> str:
        raw = self.take(self.number("Q", what), what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.decode(errors="surrogateescape")  # a vocabulary may hold pieces of characters

    def value(self, kind: int, what: str, depth: int) -> Any:
        if kind == _STRING:
            return self.string(what)
        if kind in _SCALARS:
            code = _SCALARS[kind]
            return struct.unpack("<" + code, self.take(struct.calcsize(code), what))[0]
        if kind != _ARRAY or depth >= MAX_DEPTH:
            raise BadInput(f"{self.path}: metadata key {what} has the unknown type {kind}")
        item, count = self.number("I", what), self.number("Q", what)
        if count > MAX_ARRAY:
            raise BadInput(f"{self.path}: metadata key {what} claims {count} entries; the header is damaged")
        if item in _SCALARS:
            width = struct.calcsize(_SCALARS[item])
            return list(struct.unpack(f"<{count}{_SCALARS[item]}", self.take(count * width, what)))
        return [self.value(item, what, depth + 1) for _ in range(count)]

    def info(self, index: int) -> tuple[str, tuple[int, ...], str, int]:
        name = self.string(f"the name of tensor {index}")
        rank = self.number("I", name)
        if not 1 <= rank <= 4:
            raise BadInput(f"{self.path}: tensor {name} has {rank} dimensions, expected 1 to 4")
        shape = tuple(self.number("Q", name) for _ in range(rank))[::-1]
        code = self.number("I", name)
        kind = NAMES.get(code, f"type {code}")
        if kind not in BLOCK_FORMATS:
            raise BadInput(
                f"{self.path}: tensor {name} is of {kind}, which is not supported; "
                f"convert the model to one of {', '.join(BLOCK_FORMATS)}"
            )
        return name, shape, kind, self.number("Q", name)

    def placed(
        self, infos: list[tuple[str, tuple[int, ...], str, int]], base: int, alignment: int
    ) -> dict[str, TensorInfo]:
        placed: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in infos:
            layout = BLOCK_FORMATS[kind]
            if min(shape) < 1 or shape[-1] % layout.block:
                raise BadInput(f"{self.path}: tensor {name} of shape {list(shape)} does not fill {kind} blocks")
            size_bytes = prod(shape) // layout.block * layout.block_bytes
            start = base + offset
            if offset % alignment or start + size_bytes > len(self.data):
                raise BadInput(
                    f"{self.path}: the file ends inside tensor {name} "
                    f"(needs {start + size_bytes} bytes, has {len(self.data)}); copy or download it again"
                )
            if name in placed:
                raise BadInput(f"{self.path}: tensor {name} is there twice; the header is damaged")
            placed[name] = TensorInfo(name, shape, kind, start, size_bytes)
        return placed
