"""Power coefficients from measured joules: energy per operation, per byte, and the watts of being on.

E_i − P_idle·t_i = Σ_p ε_p·F_ip + ε_m·B_i + P_base·t_i for every measured load i, the energy model of `energy` with idle
power already separated; every coefficient is ≥ 0 because no load gives energy back. Weighted by 1/E so that relative
errors count (energy roofline: Choi, Bedard, Fowler, Vuduc, IPDPS 2013, doi:10.1109/IPDPS.2013.77; non-negative least
squares: Lawson, Hanson 1974, ch. 23, here by trying every support, exact for the few columns there are).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from agent.physics.arguments import Array
from agent.records import record

MAX_COLUMNS = 10
"""2^10 supports are tried at most; more precisions than that do not exist on one accelerator."""
MIN_FREEDOM = 1
"""Loads needed beyond the coefficients; without one there is no residual to tell the noise from."""


@record(frozen=True, slots=True)
class FittedPower:
    """One coefficient [J/operation, J/byte or W] with its relative standard error; infinite where it came out 0."""

    name: str
    value: float
    rel_uncertainty: float


@record(frozen=True, slots=True)
class PowerFit:
    """All coefficients, and how far the fit is off its own measurements (root mean square of the relative error)."""

    coefficients: tuple[FittedPower, ...]
    rel_residual: float
    doubt: str | None
    """Why these coefficients must not be used; None where they may."""


def fit_power(names: Sequence[str], amounts: Array, joules: Sequence[float], max_rel_residual: float = 0.2) -> PowerFit:
    """Fit non-negative coefficients.

    Args:
        names: one per column, for example ("int8", "fp32", "bytes", "seconds").
        amounts: [loads, columns] operations, bytes and seconds of each load, finite and ≥ 0.
        joules: [loads] energy above idle, finite; a load at or below 0 J was not told apart from idle.
        max_rel_residual: above this the fit is in doubt.

    Raises ValueError for shapes that do not match or amounts that are negative or not finite.
    """
    table, energy = np.asarray(amounts, dtype=np.float64), np.asarray(joules, dtype=np.float64)
    if table.ndim != 2 or table.shape != (len(energy), len(names)) or len(names) > MAX_COLUMNS:
        raise ValueError(
            f"amounts must be [loads, columns] = [{len(energy)}, {len(names)}], at most {MAX_COLUMNS} columns"
        )
    if not (np.isfinite(table).all() and (table >= 0).all() and np.isfinite(energy).all()):
        raise ValueError("amounts must be finite and not negative, joules finite")
    if (energy <= 0).any():
        return PowerFit((), float("inf"), "a load took no more energy than idle: the sensor does not see it")
    if len(energy) < len(names) + MIN_FREEDOM:
        return PowerFit((), float("inf"), f"{len(energy)} loads for {len(names)} coefficients are too few")
    design = table / energy[:, None]
    scale = np.linalg.norm(design, axis=0)
    if (scale == 0).any():
        missing = names[int(np.argmin(scale))]
        return PowerFit((), float("inf"), f"no load has any {missing}")
    design = design / scale
    best, support = _nonnegative(design)
    residual = design @ best - 1.0
    freedom = len(energy) - len(support)
    rel_residual = float(np.sqrt(residual @ residual / freedom))
    errors = _standard_errors(design, support, rel_residual)
    fitted = tuple(
        FittedPower(name, float(best[i] / scale[i]), float(errors[i] / best[i]) if best[i] > 0 else float("inf"))
        for i, name in enumerate(names)
    )
    doubt = None
    if rel_residual > max_rel_residual:
        doubt = f"the model misses its own measurements by {rel_residual:.0%}"
    return PowerFit(fitted, rel_residual, doubt)


def _nonnegative(design: Array) -> tuple[Array, tuple[int, ...]]:
    """Least squares of design·x = 1 with x ≥ 0: the best of all supports whose free solution is positive."""
    loads, columns = design.shape
    best, lowest = np.zeros(columns), float(loads)
    chosen: tuple[int, ...] = ()
    for size in range(1, columns + 1):
        for support in combinations(range(columns), size):
            part, _, rank, _ = np.linalg.lstsq(design[:, support], np.ones(loads), rcond=1e-9)
            if rank < size or (part <= 0).any():
                continue
            left = design[:, support] @ part - 1.0
            error = float(left @ left)
            if error >= lowest:
                continue
            best, chosen, lowest = np.zeros(columns), support, error
            best[list(support)] = part
    return best, chosen


def _standard_errors(design: Array, support: tuple[int, ...], sigma: float) -> Array:
    errors = np.full(design.shape[1], np.inf)
    part = design[:, support]
    errors[list(support)] = np.sqrt(np.diag(np.linalg.pinv(part.T @ part))) * sigma
    return errors
