"""Adversarial screen: squeeze the input, run it again, and see whether the answer stays (Xu, Evans and Qi 2018).

Feature squeezing (NDSS 2018, arXiv:1704.01155): fewer bits a value and a small median filter remove what a small
deliberate change adds and leave an honest picture as it is; where the answers to both differ much, the input was made
to sit on an edge. For pictures of rank 4 with values that vary; other inputs are not screened. An attacker who knows
the squeezers and may change more can pass them (He et al. 2017, arXiv:1706.04701).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Layout = Literal["NCHW", "NHWC"]
BITS = 5
WINDOW = 2
_MOST_CHANNELS = 4


def layout_of(tensor: Array) -> Layout | None:
    """Where the channels of a picture are; None where the tensor is none."""
    if tensor.ndim != 4 or tensor.dtype.kind != "f" or min(tensor.shape) < 1:
        return None
    if tensor.shape[3] <= _MOST_CHANNELS < tensor.shape[1]:
        return "NHWC"
    if tensor.shape[1] <= _MOST_CHANNELS < tensor.shape[3]:
        return "NCHW"
    return None


def fewer_bits(tensor: Array, bits: int = BITS) -> Array:
    """Values rounded to 2**bits steps between the smallest and the largest one."""
    low, high = float(tensor.min()), float(tensor.max())
    if not high > low:
        same: Array = tensor.copy()
        return same
    steps = float(2**bits - 1)
    scaled = np.rint((tensor - low) / (high - low) * steps)
    rounded: Array = (scaled / steps * (high - low) + low).astype(tensor.dtype)
    return rounded


def smoothed(tensor: Array, layout: Layout, window: int = WINDOW) -> Array:
    """Each value replaced by the median of a square of `window` × `window` neighbours, edges repeated."""
    rows, columns = (2, 3) if layout == "NCHW" else (1, 2)
    before, after = (window - 1) // 2, window // 2
    pad = [(0, 0)] * 4
    pad[rows] = pad[columns] = (before, after)
    wide = np.pad(tensor, pad, mode="edge")
    height, width = tensor.shape[rows], tensor.shape[columns]
    shifted = []
    for down in range(window):
        for right in range(window):
            cut = [slice(None)] * 4
            cut[rows], cut[columns] = slice(down, down + height), slice(right, right + width)
            shifted.append(wide[tuple(cut)])
    middle: Array = np.median(np.stack(shifted), axis=0).astype(tensor.dtype)
    return middle


def squeezed(inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    """The inputs squeezed in both ways; nothing where no picture is among them."""
    found = {name: layout_of(tensor) for name, tensor in inputs.items()}
    pictures = {name: layout for name, layout in found.items() if layout is not None}
    if not pictures:
        return []
    bits = {name: fewer_bits(t) if name in pictures else t for name, t in inputs.items()}
    smooth = {name: smoothed(t, pictures[name]) if name in pictures else t for name, t in inputs.items()}
    return [bits, smooth]


def disagreement(first: Mapping[str, Array], other: Mapping[str, Array]) -> float | None:
    """How far two answers lie apart, 0 to 2: the largest L1 distance of their probabilities over outputs and rows.

    An output that is no distribution is made one by softmax over its last axis. None without floating-point outputs.
    """
    gaps = []
    for name, a in first.items():
        b = other.get(name)
        if b is None or a.dtype.kind != "f" or a.shape != b.shape or a.ndim == 0 or a.size == 0:
            continue
        p, q = probabilities(a), probabilities(b)
        gaps.append(float(np.abs(p - q).sum(axis=-1).max()))
    return max(gaps, default=None)


def probabilities(values: Array) -> npt.NDArray[np.float64]:
    """Rows that are distributions as they are, others through softmax."""
    rows = values.astype(np.float64).reshape(-1, values.shape[-1])
    if bool((rows >= 0).all()) and np.allclose(rows.sum(axis=-1), 1.0, atol=1e-2):
        return rows
    shifted = np.exp(rows - rows.max(axis=-1, keepdims=True))
    summed: npt.NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return summed
