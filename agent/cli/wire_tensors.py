"""Tensors of a command's request and of its answer, as the Open Inference Protocol carries them in binary.

Texts come back as text, bfloat16 as float32, which holds it exactly: what is shown to a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.errors import BadInput
from agent.schema.bfloat16 import from_floats, is_bf16, to_floats

Array = npt.NDArray[Any]

NUMPY: Final[Mapping[str, str]] = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
    "BF16": "float32", "BYTES": "object",
}  # fmt: skip
"""Protocol name → the numpy type in which a person gives and reads such values."""

_OIP: Final = {numpy: oip for oip, numpy in NUMPY.items() if oip not in {"BF16", "BYTES"}}


def typed(values: Any, datatype: str) -> Array:
    """Values as the type that a model declares."""
    array = np.array(values, NUMPY[datatype])
    return from_floats(array) if datatype == "BF16" else array


def encode(name: str, tensor: Array) -> tuple[dict[str, Any], bytes]:
    """(entry of the request's JSON, the bytes that follow it). Raises BadInput for a type that no model takes."""
    if tensor.dtype.kind in "OSU":
        datatype, raw = "BYTES", _packed(tensor)
    elif is_bf16(tensor):
        datatype, raw = "BF16", tensor.tobytes()
    elif tensor.dtype.name in _OIP:
        datatype, raw = _OIP[tensor.dtype.name], tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()
    else:
        raise BadInput(f"input {name!r}: no model takes {tensor.dtype.name}; known are {', '.join(_OIP)} and text")
    shape = list(tensor.shape)
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}, raw


def decode(entry: Mapping[str, Any], data: bytes, offset: int) -> tuple[Array, int]:
    """(tensor of one output, where the next one's bytes begin)."""
    datatype, shape = entry["datatype"], entry["shape"]
    size = entry.get("parameters", {}).get("binary_data_size")
    if size is None:
        return np.array(entry["data"], NUMPY[datatype]).reshape(shape), offset
    end = offset + size
    if datatype == "BYTES":
        return _unpacked(data[offset:end], int(np.prod(shape))).reshape(shape), end
    if datatype == "BF16":
        return to_floats(np.frombuffer(data, np.uint16, size // 2, offset)).reshape(shape), end
    dtype = np.dtype(NUMPY[datatype])
    return np.frombuffer(data, dtype, size // dtype.itemsize, offset).reshape(shape), end


def _packed(tensor: Array) -> bytes:
    texts = [text if isinstance(text, bytes) else str(text).encode() for text in tensor.flat]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _unpacked(data: bytes, count: int) -> Array:
    texts, at = np.empty(count, object), 0
    for index in range(count):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        texts[index] = data[at + 4 : end].decode(errors="replace")
        at = end
    return texts
