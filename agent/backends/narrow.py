"""Narrow: a provider that computes wide types in narrow ones says nothing of it; what may not run there is told here.

OpenVINO computes 64-bit integers in 32 bits and doubles in single precision: results beyond that are silently others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from agent.backends.formats import Array, Signature

PROVIDERS: Final = frozenset({"OpenVINOExecutionProvider"})
_INTEGERS: Final = frozenset({"INT64", "UINT64"})
_LOW, _HIGH = -(2**31), 2**31 - 1


def refusal(inputs: Sequence[Signature], outputs: Sequence[Signature]) -> str | None:
    """Why a model may not run there: it gives doubles back, or is about 64-bit integers alone.

    Others have them as indices, sizes and token ids, which fit; those of a request are looked at by `too_wide`.
    """
    if any(signature.datatype == "FP64" for signature in outputs):
        return "it computes FP64 in single precision, which is not what this model asks for"
    if outputs and all(signature.datatype in _INTEGERS for signature in (*inputs, *outputs)):
        return "it computes 64-bit integers in 32 bits, which is not what this model asks for"
    return None


def too_wide(feeds: Mapping[str, Array]) -> str | None:
    """The input with an integer that 32 bits do not hold; None for none."""
    for name, array in feeds.items():
        if array.dtype in (np.int64, np.uint64) and array.size and not _LOW <= array.min() <= array.max() <= _HIGH:
            return name
    return None
