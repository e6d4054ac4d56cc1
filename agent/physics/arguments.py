"""What every formula asks of its arguments: finite, in range, and named in the error when they are not.

The checks cost one minimum and one maximum per array, so they stay on in the hottest call. A NaN fails every one of
them, because comparisons with NaN are false.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]
"""Result of every formula; a scalar call gives a zero-dimensional result that `float()` accepts."""

_SMALLEST = math.ulp(0.0)
_LARGEST = math.nextafter(math.inf, 0.0)


def _within(name: str, value: ArrayLike, low: float, high: float, rule: str) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim == 0:  # most calls of a plan are about one number, of which the two cost ten times as much
        right = low <= array.item() <= high
    else:
        right = array.size == 0 or bool(array.min() >= low and array.max() <= high)
    if not right:
        flat = array.ravel()
        first = int(np.argmin((flat >= low) & (flat <= high)))
        where = f" at index {first}" if array.ndim else ""
        raise ValueError(f"{name} must be {rule}; got {flat[first]:g}{where}")
    return array


def finite(name: str, value: ArrayLike) -> Array:
    """Return `value` as float64; ValueError names `name` where it is NaN or infinite."""
    return _within(name, value, -_LARGEST, _LARGEST, "finite")


def nonnegative(name: str, value: ArrayLike) -> Array:
    """Return `value` as float64; ValueError names `name` where it is not finite or is below 0."""
    return _within(name, value, 0.0, _LARGEST, "finite and >= 0")


def positive(name: str, value: ArrayLike) -> Array:
    """Return `value` as float64; ValueError names `name` where it is not finite or not above 0."""
    return _within(name, value, _SMALLEST, _LARGEST, "finite and > 0")


def positive_or_unlimited(name: str, value: ArrayLike) -> Array:
    """Return `value` as float64, where infinity means "no limit"; ValueError names `name` where it is not above 0."""
    return _within(name, value, _SMALLEST, math.inf, "> 0")


def nonnegative_or_unlimited(name: str, value: ArrayLike) -> Array:
    """Return `value` as float64, where infinity means "no limit"; ValueError names `name` where it is below 0."""
    return _within(name, value, 0.0, math.inf, ">= 0")


def share(name: str, value: ArrayLike) -> Array:
    """Return `value` as float64; ValueError names `name` where it is outside [0, 1]."""
    return _within(name, value, 0.0, 1.0, "in [0, 1]")


def positive_share(name: str, value: ArrayLike) -> Array:
    """Return `value` as float64; ValueError names `name` where it is outside (0, 1]."""
    return _within(name, value, _SMALLEST, 1.0, "in (0, 1]")


def celsius(name: str, value: ArrayLike) -> Array:
    """Return `value` as float64; ValueError names `name` where it is not finite or below absolute zero."""
    return _within(name, value, -273.15, _LARGEST, "a temperature above absolute zero")
