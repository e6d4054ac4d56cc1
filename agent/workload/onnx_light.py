"""ONNX files without their large weights: the bytes of the file, read where needed, the weights left where they lie.

Owns the little of the protobuf wire format that this needs. What does not look as expected is passed on as it is: the
parser behind has the last word. A file of 2 GB costs the memory of its graph.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

LARGE_BYTES: Final = 64 * 1024
"""Weights from this size on are left out: none so large is the shape or the axes of anything."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH: Final = 7  # of ModelProto
_INITIALIZER: Final = 5  # of GraphProto
_RAW_DATA, _DATA_LOCATION = 9, 14  # of TensorProto
_LONGEST_VARINT: Final = 10
MAX_FIELDS: Final = 1_000_000
"""Of one record; walking more takes long, and the parser behind is quicker."""

Buffer = bytes | mmap.mmap
Instead = Callable[[int, int], bytes]
"""Given where a weight lies and how long it is: what its record holds instead."""


class _Field(NamedTuple):
    number: int
    wire: int
    start: int
    payload: int
    end: int


class _Unusual(Exception):
    """Not what a protobuf writer makes."""


def read_light(path: Path, instead: Instead | None = None) -> bytes:
    """The file's bytes with `instead` (nothing) in the place of every large weight. Raises OSError."""
    with path.open("rb") as stream:
        try:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            return b""  # an empty file cannot be mapped
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError from error
            raise
        with data:
            return lightened(data, instead or _nothing)


def lightened(data: Buffer, instead: Instead) -> bytes:
    """As `read_light`, of bytes at hand."""
    try:
        model = list(_fields(data, 0, len(data)))
        graphs = [f for f in model if f.number == _GRAPH and f.wire == _BYTES]
        if len(graphs) != 1:
            return data[:]
        inner = b"".join(_graph(data, graphs[0], instead))
        return b"".join(_tagged(_GRAPH, inner) if f is graphs[0] else data[f.start : f.end] for f in model)
    except _Unusual:
        return data[:]


def external(location: str, offset: int, length: int) -> bytes:
    """What a tensor's record holds where its weight lies in another file of the same folder."""
    entries = (("location", location), ("offset", str(offset)), ("length", str(length)))
    records = [_tagged(1, key.encode()) + _tagged(2, value.encode()) for key, value in entries]
    return b"".join(_tagged(13, record) for record in records) + _number(_DATA_LOCATION << 3 | _VARINT) + _number(1)


def _nothing(_offset: int, _length: int) -> bytes:
    return b""


def _graph(data: Buffer, graph: _Field, instead: Instead) -> Iterator[bytes]:
    kept = graph.payload
    for field in _fields(data, graph.payload, graph.end):
        if field.number != _INITIALIZER or field.wire != _BYTES or field.end - field.payload < LARGE_BYTES:
            continue
        tensor = list(_fields(data, field.payload, field.end))
        large = [f for f in tensor if f.number == _RAW_DATA and f.end - f.payload >= LARGE_BYTES]
        if len(large) != 1 or any(f.number == _DATA_LOCATION for f in tensor):
            continue
        yield data[kept : field.start]
        kept = field.end
        rest = b"".join(data[f.start : f.end] for f in tensor if f is not large[0])
        yield _tagged(_INITIALIZER, rest + instead(large[0].payload, large[0].end - large[0].payload))
    yield data[kept : graph.end]


def _fields(data: Buffer, at: int, end: int) -> Iterator[_Field]:
    for _ in range(MAX_FIELDS):
        if at >= end:
            return
        start = at
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        payload = at
        if wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire == _BYTES:
            length, payload = _varint(data, at, end)
            at = payload + length
        elif wire in {_FIXED32, _FIXED64}:
            at += 4 if wire == _FIXED32 else 8
        else:
            raise _Unusual
        if at > end or number == 0:
            raise _Unusual
        yield _Field(number, wire, start, payload, at)
    raise _Unusual


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST_VARINT):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at
    raise _Unusual


def _number(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _tagged(field: int, payload: bytes) -> bytes:
    return _number(field << 3 | _BYTES) + _number(len(payload)) + payload
