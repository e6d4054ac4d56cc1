"""Tensors on the wire: every datatype of the Open Inference Protocol to and from JSON values and raw bytes.

Owns syntax, element counts and value ranges. Whether a tensor fits a model is the service's business.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.errors import BackendError, BadInput, TooLarge
from agent.ports import Tensor
from agent.schema.bfloat16 import BF16, from_floats, is_bf16, to_floats

MAX_RANK: Final = 32
MAX_ELEMENTS: Final = 2**48
"""More than any memory holds. A size of 0 hides it from the count of bytes, but numpy multiplies the others."""
MAX_BYTES_ELEMENTS: Final = 1_000_000
"""Elements of one BYTES tensor; each costs tens of bytes of memory however short it is."""

DTYPES: Final[dict[str, npt.DTypeLike]] = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BF16": BF16, "BYTES": "O",
}  # fmt: skip
_NAMES: Final = {
    (np.dtype(d).kind, np.dtype(d).itemsize): name for name, d in DTYPES.items() if name not in {"BF16", "BYTES"}
}
_LENGTH: Final = struct.Struct("<I")


def datatype_of(tensor: Tensor) -> str:
    """The protocol's name of an array's type; BackendError where it has none (a model's output, then)."""
    if tensor.dtype.kind in "OSU":
        return "BYTES"
    name = _NAMES.get((tensor.dtype.kind, tensor.dtype.itemsize))
    if name is None:
        raise BackendError(f"an output has the type {tensor.dtype}, which the protocol cannot carry")
    return "BF16" if name == "UINT16" and is_bf16(tensor) else name


def check_shape(name: str, datatype: Any, shape: Any) -> tuple[int, ...]:
    """The shape as a tuple; BadInput unless the datatype is known and the shape a list of sizes."""
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise BadInput(f"input {name!r}: datatype {_short(datatype)} is not one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or any(type(size) is not int or not 0 <= size < 2**63 for size in shape):
        raise BadInput(f"input {name!r}: shape must be a list of sizes ≥ 0, got {_short(shape)}")
    if len(shape) > MAX_RANK:
        raise BadInput(f"input {name!r}: shape has {len(shape)} dimensions, at most {MAX_RANK} are read")
    if 0 in shape and prod(size for size in shape if size) > MAX_ELEMENTS:
        raise BadInput(f"input {name!r}: shape {_short(shape)} is empty and yet larger than any tensor")
    return tuple(shape)


# ---------------------------------------------------------------------------------------------- raw bytes


def from_binary(name: str, datatype: str, shape: tuple[int, ...], data: memoryview) -> Tensor:
    """A read-only view of `data` (row-major, little-endian), without a copy; BYTES become an array of bytes."""
    count = prod(shape)
    if datatype == "BYTES":
        return _bytes_from_binary(name, shape, count, data)
    dtype = np.dtype(DTYPES[datatype])
    if count * dtype.itemsize != len(data):
        raise BadInput(
            f"input {name!r}: {datatype} {list(shape)} needs {count * dtype.itemsize} bytes, "
            f"binary_data_size is {len(data)}"
        )
    if datatype == "BOOL" and count and np.frombuffer(data, np.uint8).max() > 1:
        raise BadInput(f"input {name!r}: a BOOL is a byte 0 or 1")
    return np.frombuffer(data, dtype, count).reshape(shape)


def _bytes_from_binary(name: str, shape: tuple[int, ...], count: int, data: memoryview) -> Tensor:
    _check_count(name, count)
    if count * _LENGTH.size > len(data):
        raise BadInput(f"input {name!r}: {count} BYTES elements need at least {count * _LENGTH.size} bytes")
    elements = np.empty(count, object)
    offset = 0
    for index in range(count):
        start = offset + _LENGTH.size
        if start > len(data):
            raise BadInput(f"input {name!r}: the data ends before BYTES element {index} of {count}")
        offset = start + _LENGTH.unpack_from(data, offset)[0]
        if offset > len(data):
            raise BadInput(f"input {name!r}: BYTES element {index} is longer than the data that is left")
        elements[index] = bytes(data[start:offset])
    if offset != len(data):
        raise BadInput(f"input {name!r}: {len(data) - offset} bytes follow the last of {count} BYTES elements")
    return elements.reshape(shape)


def to_binary(tensor: Tensor) -> bytes | memoryview:
    """Row-major little-endian bytes; a view where the array already is that."""
    if tensor.dtype.kind in "OSU":
        return b"".join(chain.from_iterable((_LENGTH.pack(len(e)), e) for e in map(_as_bytes, tensor.flat)))
    if tensor.dtype.byteorder == ">":
        tensor = tensor.astype(tensor.dtype.newbyteorder("<"))
    flat = np.ascontiguousarray(tensor).reshape(-1)
    return flat.view(np.uint8).data if flat.size else b""


# ---------------------------------------------------------------------------------------------- JSON values


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    """An array from JSON values, flat or nested like the shape. Nothing is rounded, wrapped or guessed."""
    count = prod(shape)
    flat = _flatten(name, shape, data)
    if len(flat) != count:
        raise BadInput(f"input {name!r}: shape {list(shape)} needs {count} values, data has {len(flat)}")
    if datatype == "BF16":
        return _halves(name, flat).reshape(shape)
    kind = np.dtype(DTYPES[datatype]).kind
    return _CONVERT[kind](name, datatype, flat).reshape(shape)


def _flatten(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise BadInput(f"input {name!r}: data must be a list, got {_short(data)}")
    if not data or not isinstance(data[0], list):
        return data
    level = [data]
    for axis, size in enumerate(shape):
        if any(type(part) is not list or len(part) != size for part in level):
            raise BadInput(f"input {name!r}: nested data must have {size} entries along axis {axis} of {list(shape)}")
        level = list(chain.from_iterable(level))
    return level


def _booleans(name: str, datatype: str, flat: list[Any]) -> Tensor:
    _expect(name, datatype, flat, {bool, int}, "true or false")
    if not set(flat) <= {0, 1}:
        raise BadInput(f"input {name!r}: a BOOL is true, false, 1 or 0")
    return np.array(flat, bool)


def _integers(name: str, datatype: str, flat: list[Any]) -> Tensor:
    _expect(name, datatype, flat, {int}, "whole numbers")
    dtype = np.dtype(DTYPES[datatype])
    bounds = np.iinfo(dtype)
    # Compared as Python integers: NumPy 1.x wraps around in silence.
    if flat and (min(flat) < bounds.min or max(flat) > bounds.max):
        raise BadInput(f"input {name!r}: {datatype} holds {bounds.min} to {bounds.max}, data has values outside")
    return np.array(flat, dtype)


def _floats(name: str, datatype: str, flat: list[Any]) -> Tensor:
    _expect(name, datatype, flat, {int, float}, "numbers")
    try:
        with np.errstate(over="ignore"):
            values = np.array(flat, np.float64).astype(DTYPES[datatype])
    except OverflowError as error:
        raise BadInput(f"input {name!r}: a value does not fit {datatype}") from error
    if not np.isfinite(values).all():
        raise BadInput(f"input {name!r}: a value is beyond the range of {datatype}")
    return values


def _halves(name: str, flat: list[Any]) -> Tensor:
    values = from_floats(_floats(name, "FP32", flat))
    if not np.isfinite(to_floats(values)).all():
        raise BadInput(f"input {name!r}: a value is beyond the range of BF16")
    return values


def _strings(name: str, datatype: str, flat: list[Any]) -> Tensor:
    _check_count(name, len(flat))
    _expect(name, datatype, flat, {str}, "strings")
    values = np.empty(len(flat), object)
    try:
        values[:] = [text.encode() for text in flat]
    except UnicodeEncodeError as error:
        raise BadInput(f"input {name!r}: a string holds half a surrogate pair; send raw bytes as binary") from error
    return values


_CONVERT: Final[dict[str, Callable[[str, str, list[Any]], Tensor]]] = {
    "b": _booleans, "i": _integers, "u": _integers, "f": _floats, "O": _strings,
}  # fmt: skip


def to_json(name: str, tensor: Tensor) -> list[Any]:
    """Row-major flat list; BadInput where JSON cannot carry the values and the client must ask for binary."""
    if tensor.dtype.kind in "OSU":
        try:
            return [_as_bytes(element).decode() for element in tensor.flat]
        except UnicodeDecodeError as error:
            raise BadInput(f"output {name!r} is not UTF-8 text: ask for it with binary_data: true") from error
    if is_bf16(tensor):
        tensor = to_floats(tensor)
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise BadInput(f"output {name!r} holds NaN or infinity, which JSON lacks: ask for it with binary_data: true")
    values: list[Any] = tensor.reshape(-1).tolist()
    return values


def _expect(name: str, datatype: str, flat: Sequence[Any], allowed: set[type], wanted: str) -> None:
    wrong = set(map(type, flat)) - allowed
    if wrong:
        index = next(i for i, value in enumerate(flat) if type(value) in wrong)
        raise BadInput(f"input {name!r}: {datatype} takes {wanted}, value {index} is {_short(flat[index])}")


def _check_count(name: str, count: int) -> None:
    if count > MAX_BYTES_ELEMENTS:
        raise TooLarge(f"input {name!r}: {count} BYTES elements, at most {MAX_BYTES_ELEMENTS} are read")


def _as_bytes(element: Any) -> bytes:
    return element if isinstance(element, bytes) else str(element).encode()


def _short(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, str | int | float | bool) or value is None:
        return f"{value!r:.60}" if not isinstance(value, int) or abs(value) < 10**40 else "a huge number"
    return type(value).__name__
