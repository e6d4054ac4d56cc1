"""Times of kernels from measured models: what a launch, an operation and a byte take on one runtime.

t_i = Σ_j c_j · A_ij for every measured model i with the amounts A_ij of work of kind j, and c_j ≥ 0 because no work
gives time back. Weighted by 1/t so that relative errors count, re-weighted by Huber's rule so that one disturbed
measurement does not bend the rest (Holland & Welsch 1977, doi:10.1080/03610927708827533). Non-negative least squares:
Lawson & Hanson 1974, ch. 23. Additive, where a roofline takes the largest: kernels of one model are bound by different
things, and the sum is at most twice the largest of two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.physics.arguments import Array
from agent.records import record

HUBER = 0.15
"""Relative error beyond which a measurement loses weight."""
ROUNDS = 6
MAX_STEPS = 500
"""Of the active-set method; each adds or drops a column, so a problem of some thirty columns is far below."""


@record(frozen=True, slots=True)
class KernelFit:
    """coefficients: seconds per unit, [columns], ≥ 0; errors: predicted over measured minus 1, [models]."""

    coefficients: Array
    errors: Array

    @property
    def rel_residual(self) -> float:
        """Median absolute relative error on the fit's own measurements, as a standard deviation."""
        return float(np.median(np.abs(self.errors)) * 1.4826)


def fit_kernels(amounts: Array, seconds: Sequence[float], call_s: float = 0.0) -> KernelFit:
    """Fit non-negative times.

    amounts: [models, columns], finite and ≥ 0; seconds: [models], > 0 and finite, a call of `call_s` included in each.
    A column that is 0 everywhere gets 0.
    Raises ValueError for shapes that do not match and for values out of range.
    """
    table, times = np.asarray(amounts, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != times.size or times.size == 0:
        raise ValueError(f"amounts must be [models, columns] for {times.size} measured models, got {table.shape}")
    if not (np.isfinite(table).all() and (table >= 0).all()):
        raise ValueError("amounts must be finite and not negative")
    if not (np.isfinite(times).all() and (times > 0).all()):
        raise ValueError("seconds must be finite and positive")
    scale = table.max(axis=0, initial=0.0)
    scale[scale == 0.0] = 1.0
    relative = table / scale / times[:, None]
    target = 1.0 - call_s / times
    weight = np.ones(times.size)
    solution = np.zeros(table.shape[1])
    for _ in range(ROUNDS):
        solution = nonnegative_least_squares(relative * weight[:, None], target * weight)
        errors = relative @ solution - target
        weight = np.sqrt(HUBER / np.maximum(np.abs(errors), HUBER))
    return KernelFit(solution / scale, relative @ solution - target)


def nonnegative_least_squares(matrix: Array, target: Array) -> Array:
    """argmin ‖matrix · x − target‖ for x ≥ 0, [columns]. Raises ValueError where it does not converge."""
    columns = matrix.shape[1]
    passive = np.zeros(columns, dtype=bool)
    x = np.zeros(columns)
    tolerance = 1e-10 * max(1.0, float(np.abs(matrix.T @ target).max(initial=0.0)))
    for _ in range(MAX_STEPS):
        gradient = matrix.T @ (target - matrix @ x)
        gradient[passive] = -np.inf
        best = int(np.argmax(gradient)) if columns else 0
        if columns == 0 or gradient[best] <= tolerance:
            return x
        passive[best] = True
        x = _inside(matrix, target, passive, x)
    raise ValueError(f"the fit did not converge in {MAX_STEPS} steps")


def _inside(matrix: Array, target: Array, passive: NDArray[np.bool_], x: Array) -> Array:
    """Least squares on the passive columns; those that would become negative leave them (changed in place)."""
    while True:
        free = np.zeros_like(x)
        free[passive] = np.linalg.lstsq(matrix[:, passive], target, rcond=None)[0]
        negative = passive & (free <= 0.0)
        if not negative.any():
            return free
        step = float(np.min(x[negative] / np.maximum(x[negative] - free[negative], 1e-300)))
        x = x + step * (free - x)
        passive &= x > 1e-14
        x[~passive] = 0.0
