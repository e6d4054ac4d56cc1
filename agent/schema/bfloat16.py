"""bfloat16, of which numpy has no type: its 16 bits as whole numbers that say what they are.

The upper half of a float32, so widening is exact. Numpy takes the type for equal to uint16; `is_bf16` tells them apart.
Joining arrays forgets it, cutting and copying them does not.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

NAME: Final = "BF16"
"""As the Open Inference Protocol spells it."""
BF16: Final[np.dtype[Any]] = np.dtype(np.uint16, metadata={"datatype": NAME})

_INFINITE: Final = 0x7F80
"""All bits of the exponent: infinity, or NaN with any bit after them."""


def is_bf16(tensor: npt.NDArray[Any]) -> bool:
    """Whether an array holds the bits of bfloat16."""
    metadata = tensor.dtype.metadata
    return metadata is not None and metadata.get("datatype") == NAME


def to_floats(tensor: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Bits as float32, exactly."""
    wide: npt.NDArray[np.float32] = (tensor.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide


def from_floats(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Numbers as bits, to the nearest (ties to even); NaN stays NaN, and what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        wide = np.ascontiguousarray(values, np.float32)
    bits = wide.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    half = np.where(np.isnan(wide), np.uint32(0x7FC0), rounded).astype(np.uint16)
    return np.frombuffer(half.tobytes(), BF16).reshape(np.shape(values))


def finite(tensor: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of the bits stand for finite numbers."""
    found: npt.NDArray[np.bool_] = (tensor & np.uint16(_INFINITE)) != _INFINITE
    return found
