"""Input guard: checks tensors against what the model declares, before any native code sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agent.records import record
from agent.schema.bfloat16 import BF16, finite, is_bf16, to_floats
from agent.schema.policy import Admission
from agent.schema.workload import TensorSpec

_NAMES: dict[str, str] = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object",
}  # fmt: skip
_DTYPES = {**{datatype: np.dtype(name) for datatype, name in _NAMES.items()}, "BF16": BF16}


@record(frozen=True)
class Verdict:
    """Whether the tensors may pass, and if not, one sentence that says what is wrong with which one."""

    allow: bool
    code: Literal["", "missing", "unknown", "datatype", "shape", "non_finite", "text"] = ""
    sentence: str = ""


_PASSED = Verdict(True)


def screen(inputs: Mapping[str, npt.NDArray[Any]], specs: Sequence[TensorSpec], rules: Admission) -> Verdict:
    """`check` as the policy wants it."""
    return check(inputs, specs, rules.reject_non_finite, rules.reject_empty)


def check(
    inputs: Mapping[str, npt.NDArray[Any]], specs: Sequence[TensorSpec], reject_non_finite: bool,
    reject_empty: bool = True,
) -> Verdict:  # fmt: skip
    """Names, datatypes, shapes (-1 is free) and, where the policy wants it, finite values and no empty tensors.

    A size of 0 that the model itself declares is always taken: it has no other form.
    """
    if len(inputs) != len(specs) or not _all_there(inputs, specs):
        known = {spec.name: spec for spec in specs}
        for name in inputs:
            if name not in known:
                near = get_close_matches(name, known, 1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                return Verdict(False, "unknown", f"the model has no input {name!r}{hint}; it takes {', '.join(known)}")
    for spec in specs:
        tensor = inputs.get(spec.name)
        if tensor is None:
            return Verdict(False, "missing", f"input {spec.name!r} is missing: {_describe(spec)}")
        verdict = _check_one(tensor, spec, reject_non_finite, reject_empty)
        if verdict is not _PASSED:
            return verdict
    return _PASSED


def _check_one(
    tensor: npt.NDArray[Any], spec: TensorSpec, reject_non_finite: bool, reject_empty: bool
) -> Verdict:  # fmt: skip
    wanted = _DTYPES.get(spec.datatype)
    if wanted is None or tensor.dtype != wanted or _other_bits(tensor, spec):  # a missing one would equal float64
        have = "bfloat16" if is_bf16(tensor) else tensor.dtype.name
        sentence = f"input {spec.name!r} has datatype {have}, expected {_describe(spec)}"
        return Verdict(False, "datatype", sentence)
    if tensor.shape != spec.shape and not _fits(tensor.shape, spec.shape):
        sentence = f"input {spec.name!r} has shape {list(tensor.shape)}, expected {_describe(spec)}"
        return Verdict(False, "shape", sentence)
    if reject_empty and 0 in tensor.shape and 0 not in spec.shape:
        sentence = (
            f"input {spec.name!r} has shape {list(tensor.shape)} and holds no value; some runtimes end over that, so "
            "each dimension must be 1 at least unless the policy says admission.reject_empty: false"
        )
        return Verdict(False, "shape", sentence)
    kind = tensor.dtype.kind
    if reject_non_finite and kind == "f" and not _finite(tensor):
        return _non_finite(spec.name, tensor)
    if reject_non_finite and kind == "u" and is_bf16(tensor) and not finite(tensor).all():
        return _non_finite(spec.name, to_floats(tensor))
    return _text(spec.name, tensor) if kind == "O" else _PASSED


def _all_there(inputs: Mapping[str, npt.NDArray[Any]], specs: Sequence[TensorSpec]) -> bool:
    for spec in specs:  # noqa: SIM110 - on the path of every request, where a generator costs more than it does
        if spec.name not in inputs:
            return False
    return True


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    if len(shape) != len(declared):
        return False
    for have, want in zip(shape, declared, strict=True):  # noqa: SIM110 - as above
        if want not in (-1, have):
            return False
    return True


def _other_bits(tensor: npt.NDArray[Any], spec: TensorSpec) -> bool:
    """Whether it is bfloat16 where whole numbers are wanted, or the other way round: numpy takes them for equal."""
    return tensor.dtype.kind == "u" and is_bf16(tensor) is not (spec.datatype == "BF16")


def _non_finite(name: str, tensor: npt.NDArray[Any]) -> Verdict:
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(tensor))[0])
    sentence = f"input {name!r} holds {tensor[index]} at index {list(index)}; only finite values are accepted"
    return Verdict(False, "non_finite", sentence)


def _text(name: str, tensor: npt.NDArray[Any]) -> Verdict:
    """Runtimes take strings as text only, although the protocol's BYTES may hold anything."""
    elements = [element for element in tensor.flat if isinstance(element, bytes)]
    if b"".join(elements).isascii():
        return _PASSED
    strange = next(((at, why) for at, e in enumerate(tensor.flat) if (why := _no_text(e)) is not None), None)
    if strange is None:
        return _PASSED
    sentence = (
        f"input {name!r}: element {strange[0]} is not UTF-8 text ({strange[1]}); "
        "runtimes take strings as text only: send UTF-8, or raw bytes to a model with a UINT8 input"
    )
    return Verdict(False, "text", sentence)


def _no_text(element: Any) -> str | None:
    try:
        if isinstance(element, bytes):
            element.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start} is 0x{element[error.start]:02x}"
    return None


def _finite(tensor: npt.NDArray[Any]) -> bool:
    """Whether all values are finite; looking for a zero byte takes a third of the time of numpy's `all`."""
    return b"\0" not in np.isfinite(tensor).tobytes()


def _describe(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"
