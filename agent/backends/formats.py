"""Datatypes: the names of the Open Inference Protocol and the arrays that carry them.

Two datatypes have no numpy type of their own. BF16 travels as its 16 bits in a `uint16` that says so; BYTES is an
object array of `str` or `bytes`, packed as the protocol packs it: a 32-bit little-endian length before each element.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agent.errors import InferenceFailed, InputRefused
from agent.schema.bfloat16 import BF16

Array = npt.NDArray[Any]

STORAGE: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_), "UINT8": np.dtype(np.uint8), "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32), "UINT64": np.dtype(np.uint64), "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16), "INT32": np.dtype(np.int32), "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16), "FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64),
    "BF16": BF16, "BYTES": np.dtype(np.object_),
}  # fmt: skip
"""Protocol name → the numpy type that carries it."""

_NAMES: Mapping[np.dtype[Any], str] = {dtype: name for name, dtype in STORAGE.items() if name != "BF16"}


class Signature(NamedTuple):
    """Name, datatype and shape (-1 where free) of a model's input or output, without the cost of a schema."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def nbytes(self) -> int:
        """Bytes with every free dimension taken as one; 0 for BYTES, whose size only the values tell."""
        if self.datatype == "BYTES":
            return 0
        count = 1
        for size in self.shape:
            count *= max(1, size)
        return count * STORAGE[self.datatype].itemsize

    def zeros(self) -> Array:
        """An input of zeros (empty strings for BYTES) with every free dimension taken as one."""
        shape = tuple(size if size >= 0 else 1 for size in self.shape)
        if self.datatype == "BYTES":
            return np.full(shape, "", dtype=np.object_)
        return np.zeros(shape, STORAGE[self.datatype])


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, those that came before with a number: x, x → x, x_1. Unlike ports need names of their own."""
    given, taken = set(names), set[str]()
    made: list[str] = []
    for name in names:
        free = name if name not in taken else next(n for i in count(1) if (n := f"{name}_{i}") not in given | taken)
        taken.add(free)
        made.append(free)
    return tuple(made)


def datatype_of(name: str, array: Array) -> str:
    """Protocol name of an array's type (BF16 cannot be told from UINT16). Raises InferenceFailed for any other."""
    try:
        return _NAMES[array.dtype]
    except KeyError:
        raise InferenceFailed(f"tensor {name!r} has datatype {array.dtype}, which no model accepts") from None


def check_feeds(model: str, feeds: Mapping[str, Array], inputs: Iterable[Signature]) -> None:
    """Refuse missing and unknown names, wrong datatypes and wrong shapes with one sentence (InferenceFailed)."""
    known = {signature.name: signature for signature in inputs}
    for name in feeds:
        if name not in known:
            raise InferenceFailed(f"{model} has no input {name!r} (it has {', '.join(known)})")
    for name, wanted in known.items():
        array = feeds.get(name)
        if array is None:
            raise InferenceFailed(f"{model}: input {name!r} is missing")
        if array.dtype != STORAGE[wanted.datatype]:
            raise InferenceFailed(f"{model}: input {name!r} must be {wanted.datatype}, not {array.dtype}")
        if not fits(array.shape, wanted.shape):
            raise InferenceFailed(f"{model}: input {name!r} must have shape {spell(wanted.shape)}, not {array.shape}")


def check_outputs(model: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse output names that the model does not have with one sentence (InferenceFailed)."""
    for name in names:
        if name not in known:
            raise InferenceFailed(f"{model} has no output {name!r} (it has {', '.join(known)})")


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape agrees with a declared one; -1 accepts any size."""
    return len(shape) == len(wanted) and all(w < 0 or s == w for s, w in zip(shape, wanted, strict=True))


def spell(shape: tuple[int, ...]) -> str:
    """A declared shape for people; free sizes are `*`."""
    return "[" + ", ".join("*" if size < 0 else str(size) for size in shape) + "]"


def pack_bytes(name: str, array: Array) -> Array:
    """Pack an object array of `str`/`bytes` as length-prefixed UTF-8. Raises InferenceFailed for other elements."""
    parts: list[bytes] = []
    for element in array.ravel():
        data = element.encode() if isinstance(element, str) else element
        if not isinstance(data, bytes):
            raise InferenceFailed(f"tensor {name!r}: BYTES elements are str or bytes, not {type(element).__name__}")
        parts += (len(data).to_bytes(4, "little"), data)
    return np.frombuffer(b"".join(parts), np.uint8)


def _text(name: str, index: int, element: Any) -> Any:
    try:
        return element.decode() if isinstance(element, bytes) else element
    except UnicodeDecodeError as error:
        raise InputRefused(f"tensor {name!r}: element {index} is not UTF-8 text") from error


def text_of(name: str, array: Array) -> Array:
    """The elements as `str`, which is what runtimes take. Raises InputRefused for any that is not UTF-8 text."""
    text = np.empty(array.size, np.object_)
    text[:] = [_text(name, index, element) for index, element in enumerate(array.flat)]
    return text.reshape(array.shape)


def unpack_bytes(name: str, packed: Array, shape: tuple[int, ...]) -> Array:
    """Undo `pack_bytes`; elements are `str`. Raises InferenceFailed for a wrong count or text that is not UTF-8."""
    data = packed.tobytes()
    elements: list[str] = []
    at = 0
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        try:
            elements.append(data[at + 4 : end].decode())
        except UnicodeDecodeError as error:
            raise InferenceFailed(f"tensor {name!r}: element {len(elements)} is not UTF-8 text") from error
        at = end
    count = int(np.prod(shape, dtype=np.int64))
    if at != len(data) or len(elements) != count:
        raise InferenceFailed(f"tensor {name!r}: {len(data)} bytes do not hold {count} strings")
    array = np.empty(count, np.object_)
    array[:] = elements
    return array.reshape(shape)
