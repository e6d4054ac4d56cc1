"""Scaling laws: power laws of latency and energy, and the coverage law C(S) = 1 − exp(−α·N^βN·S^βS).

Owns the fits with R², residuals and confidence intervals, and the verdict whether the data supports them. A fit that it
does not support is reported as such, with the reason, never dropped or dressed up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from agent.physics.arguments import Array, positive, share
from agent.physics.student_t import two_sided
from agent.records import record

Kind = Literal["power", "coverage"]


@record(frozen=True, slots=True, eq=False)
class ScalingLaw:
    """Fitted y = scale·Π x_i^β_i (power) or 1 − exp(−scale·Π x_i^β_i) (coverage)."""

    kind: Kind
    names: tuple[str, ...]
    scale: float
    scale_interval: tuple[float, float]
    exponents: Array
    """(k,), in the order of `names`."""
    exponent_intervals: Array
    """(k, 2), low and high."""
    r_squared: float
    """On ln y for the power law, on C itself for coverage."""
    residuals: Array
    """Observed minus fitted, in the quantity of `r_squared`."""
    degrees_of_freedom: int
    confidence: float


@record(frozen=True, slots=True, eq=False)
class FitReport:
    """A law where one could be computed, and the reason why the data does not support it where it does not."""

    law: ScalingLaw | None
    unsupported_because: str | None

    @property
    def supported(self) -> bool:
        """True where the data supports the law."""
        return self.unsupported_because is None


def evaluate_law(law: ScalingLaw, variables: Mapping[str, ArrayLike]) -> Array:
    """Return the law's value at `variables`, each > 0; ValueError where one is missing."""
    missing = [name for name in law.names if name not in variables]
    if missing:
        raise ValueError(f"variables lack {', '.join(missing)}")
    value: Array = np.asarray(law.scale)
    for name, exponent in zip(law.names, law.exponents, strict=True):
        value = value * np.power(positive(name, variables[name]), exponent)
    return value if law.kind == "power" else -np.expm1(-value)


def fit_power_law(
    variables: Mapping[str, ArrayLike], observed: ArrayLike, *, confidence: float = 0.95, min_r_squared: float = 0.8
) -> FitReport:
    """Fit ln y = ln a + Σ β_i·ln x_i by least squares, with Student-t intervals.

    variables: name → (m,) values > 0, for instance model size N and samples S; observed: (m,) latency_s or
    energy_j, > 0.
    Unsupported where there are too few points, variables that do not vary independently, R² < min_r_squared, or no
    exponent whose interval excludes 0. ValueError names an argument out of range or of the wrong length.
    """
    names, design = _design(variables, observed)
    log_y = np.log(positive("observed", observed))
    reason = _cannot_fit(design)
    if reason:
        return FitReport(None, reason)
    theta = np.asarray(np.linalg.lstsq(design, log_y, rcond=None)[0], dtype=np.float64)
    return _report("power", names, theta, design, log_y, design @ theta, confidence, min_r_squared)


def fit_coverage(
    variables: Mapping[str, ArrayLike], coverage: ArrayLike, *, confidence: float = 0.95, min_r_squared: float = 0.8
) -> FitReport:
    """Fit C = 1 − exp(−α·Π x_i^β_i) by nonlinear least squares on C, with asymptotic Student-t intervals.

    Points are taken as independent, with noise that may differ between them. Where all come from the same questions,
    they are not: leave out questions in turn and look at what the fit does.

    Started from the complementary log–log line of the points strictly between 0 and 1 and refined by
    Levenberg–Marquardt (Marquardt 1963, doi:10.1137/0111030). variables: name → (m,) values > 0 (samples S, model size
    N); a variable that is constant must be left out, it is α's. coverage: (m,) in [0, 1]. Verdict as `fit_power_law`.
    """
    names, design = _design(variables, coverage)
    observed = share("coverage", coverage)
    inside = (observed > 0) & (observed < 1)
    reason = _cannot_fit(design[inside])
    if reason:
        return FitReport(None, f"of the points with coverage strictly between 0 and 1: {reason}")
    hazard = -np.log1p(-observed[inside])
    start = np.asarray(np.linalg.lstsq(design[inside], np.log(hazard), rcond=None)[0], dtype=np.float64)
    theta = _refine(design, observed, start)
    hazard = np.exp(np.minimum(design @ theta, 700.0))
    fitted = -np.expm1(-hazard)
    jacobian = (hazard * np.exp(-hazard))[:, None] * design
    # Far below rounding's own limit: rows whose weight is a millionth of the others' carry no usable information.
    if np.linalg.matrix_rank(jacobian, tol=1e-6 * float(np.abs(jacobian).max())) < theta.size:
        return FitReport(None, "coverage is saturated almost everywhere, so its exponents cannot be told apart")
    return _report("coverage", names, theta, jacobian, observed, fitted, confidence, min_r_squared)


def _design(variables: Mapping[str, ArrayLike], observed: ArrayLike) -> tuple[tuple[str, ...], Array]:
    points = np.shape(observed)
    if len(points) != 1:
        raise ValueError(f"the observed values must be one-dimensional; got shape {points}")
    columns = [np.ones(points)]
    for name, values in variables.items():
        column = positive(name, values)
        if column.shape != points:
            raise ValueError(f"{name} must have one value per observation; got shape {column.shape}, need {points}")
        columns.append(np.log(column))
    return tuple(variables), np.column_stack(columns)


def _cannot_fit(design: Array) -> str | None:
    points, unknowns = design.shape
    if points <= unknowns:
        return f"{points} points cannot determine {unknowns} parameters with their uncertainty"
    if np.linalg.matrix_rank(design) < unknowns:
        return "the variables do not vary independently of each other"
    return None


def _refine(design: Array, observed: Array, start: Array) -> Array:
    theta, damping = start, 1e-3
    squared, residual, jacobian = _coverage_residual(design, observed, theta)
    # A fixed number of steps: each is microseconds, and a converged one changes nothing.
    for _ in range(100):
        normal = jacobian.T @ jacobian
        gradient = jacobian.T @ residual
        damped = normal + damping * np.diag(np.diagonal(normal) + 1e-12)
        shift = np.linalg.lstsq(damped, gradient, rcond=None)[0]
        trial = _coverage_residual(design, observed, theta + shift)
        if trial[0] <= squared:
            theta = theta + shift
            squared, residual, jacobian = trial
            damping = max(damping / 10.0, 1e-12)
        else:
            damping = min(damping * 10.0, 1e12)
    return theta


def _coverage_residual(design: Array, observed: Array, theta: Array) -> tuple[float, Array, Array]:
    hazard = np.exp(np.clip(design @ theta, -700.0, 700.0))
    residual = observed + np.expm1(-hazard)
    jacobian = (hazard * np.exp(-hazard))[:, None] * design
    return float(residual @ residual), residual, jacobian


def _report(
    kind: Kind,
    names: tuple[str, ...],
    theta: Array,
    jacobian: Array,
    observed: Array,
    fitted: Array,
    confidence: float,
    min_r_squared: float,
) -> FitReport:
    residuals = observed - fitted
    spare = observed.size - theta.size
    squared = float(residuals @ residuals)
    centred = observed - observed.mean()
    total = float(centred @ centred)
    inverse = np.linalg.inv(jacobian.T @ jacobian)
    variances = squared / spare * np.diagonal(inverse)
    if kind == "coverage":
        variances = np.maximum(variances, _uneven(jacobian, inverse, residuals))
    reach = two_sided(confidence, spare) * np.sqrt(variances)
    low, high = theta - reach, theta + reach
    law = ScalingLaw(
        kind=kind,
        names=names,
        scale=float(np.exp(theta[0])),
        scale_interval=(float(np.exp(low[0])), float(np.exp(min(high[0], 700.0)))),
        exponents=theta[1:],
        exponent_intervals=np.column_stack([low[1:], high[1:]]),
        # Without spread there is nothing to explain, so nothing is explained.
        r_squared=1.0 - squared / total if total > 1e-24 * max(1.0, float(observed @ observed)) else 0.0,
        residuals=residuals,
        degrees_of_freedom=spare,
        confidence=confidence,
    )
    return FitReport(law, _doubt(law, min_r_squared))


def _uneven(jacobian: Array, inverse: Array, residuals: Array) -> Array:
    """Variances of the parameters where the noise of the points differs, as that of shares near 0, ½ and 1 does.

    HC3 (MacKinnon & White 1985, doi:10.1016/0304-4076(85)90158-7); the larger of these and the plain ones keeps the
    intervals honest for few points too.
    """
    leverage = np.einsum("ij,jk,ik->i", jacobian, inverse, jacobian)
    scaled = residuals / np.maximum(1e-6, 1.0 - leverage)
    return np.asarray(np.diagonal(inverse @ (jacobian.T * scaled**2) @ jacobian @ inverse), dtype=np.float64)


def _doubt(law: ScalingLaw, min_r_squared: float) -> str | None:
    if law.r_squared < min_r_squared:
        return f"R² is {law.r_squared:.2f}, below {min_r_squared:.2f}"
    if np.all((law.exponent_intervals[:, 0] <= 0) & (law.exponent_intervals[:, 1] >= 0)):
        return f"no exponent differs from 0 at {law.confidence:.0%} confidence"
    return None
