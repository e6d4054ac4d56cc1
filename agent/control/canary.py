"""Numerical canary: a known input and how far an answer to it may lie from the known answer.

An accelerator that computes wrongly in silence answers in time, in shape and without an error; only a value that is
known beforehand shows it. Owns the inputs and the comparison; who is asked when is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.schema.bfloat16 import is_bf16, to_floats
from agent.schema.workload import TensorSpec

Array = npt.NDArray[Any]

SAME_UNIT = 1e-3
"""Largest deviation of an accelerator from its own earlier answer: only the order of its additions may differ."""
OTHER_UNIT = 0.25
"""Largest deviation from another accelerator's answer: bf16 and int8 arithmetic of a sound one stay far below it."""
BF16_STEP = 2.0**-7
"""Between two neighbours of bfloat16, as a share of their value, at most."""
MAX_ELEMENTS = 4_000_000
"""Inputs larger than this are not made: they would cost more than the doubt is worth."""

_FLOATS = {"FP16": "float16", "FP32": "float32", "FP64": "float64"}
_WHOLES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
}  # fmt: skip


def make_inputs(specs: Sequence[TensorSpec], seed: int) -> dict[str, Array] | None:
    """The same inputs for the same specs and seed; None where none can be made (texts, bfloat16 bits, too large).

    Floats lie in [0, 1), whole numbers are 0 or 1, because they may be indices; free sizes are 1.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for spec in specs:
        shape = tuple(1 if size < 0 else size for size in spec.shape)
        if int(np.prod(shape, dtype=np.int64)) > MAX_ELEMENTS:
            return None
        if spec.datatype in _FLOATS:
            made[spec.name] = rng.random(shape).astype(_FLOATS[spec.datatype])
        elif spec.datatype in _WHOLES:
            made[spec.name] = rng.integers(0, 2, shape).astype(_WHOLES[spec.datatype])
        else:
            return None
    return made or None


def deviation(expected: Array, got: Array) -> float:
    """Largest difference of two numeric arrays as a share of the largest magnitude expected; inf for another shape.

    NaN where NaN was expected is no difference; anywhere else it is infinite.
    """
    expected, got = _numbers(expected), _numbers(got)
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return float("inf")
    if expected.dtype.kind not in "fiub" or not expected.size:
        return 0.0 if np.array_equal(expected, got) else float("inf")
    a, b = expected.astype(np.float64), got.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if bool(same.all()):
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        gap = float(np.abs(a[~same] - b[~same]).max())
    if not np.isfinite(gap):
        return float("inf")
    finite = np.abs(a[np.isfinite(a)])
    scale = float(finite.max()) if finite.size else 0.0
    return gap / max(scale, 1e-6)


def judge(expected: Mapping[str, Array], got: Mapping[str, Array], other_unit: bool) -> str | None:
    """What is wrong with an answer, in words, or None.

    Compared with another accelerator, whole numbers do not count: a rounding may tip a class or a quantised value.
    """
    bound = OTHER_UNIT if other_unit else SAME_UNIT
    for name, kept in expected.items():
        known, answer = _numbers(kept), got.get(name)
        if answer is None:
            return f"output {name!r} is missing"
        if other_unit and known.dtype.kind != "f" and known.shape == answer.shape:
            continue
        off = deviation(known, answer)
        slack = 0.0 if other_unit or kept.dtype.kind not in "iu" else _one_step(kept)
        if off > max(bound, slack):
            return f"output {name!r} is off by {off:.2g} of its largest value (allowed {max(bound, slack):.2g})"
    return None


def _numbers(array: Array) -> Array:
    """What bits of bfloat16 stand for: as whole numbers 0 and -0 would lie as far apart as can be."""
    return to_floats(array) if is_bf16(array) else array


def _one_step(known: Array) -> float:
    """One unit as a share of the largest number, where so few bits are left that a rounding shows: 8, and bfloat16."""
    if is_bf16(known):
        return BF16_STEP
    if known.dtype.itemsize > 1 or not known.size:
        return 0.0
    return 1.0 / max(float(np.abs(known.astype(np.float64)).max()), 1e-6)
