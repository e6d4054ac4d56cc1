"""Student's t: its distribution function and quantile, for confidence intervals without scipy.

Through the regularised incomplete beta function by Lentz's continued fraction (DLMF 8.17.22; Press et al., Numerical
Recipes §6.4).
"""

from __future__ import annotations

import math


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b); a, b > 0, x in [0, 1], else ValueError."""
    if not (a > 0 and b > 0):
        raise ValueError(f"a and b must be > 0; got {a:g} and {b:g}")
    if not 0 <= x <= 1:
        raise ValueError(f"x must be in [0, 1]; got {x:g}")
    if x in {0.0, 1.0}:
        return x
    # The fraction converges fast only below the mean; above it the symmetry I_x(a, b) = 1 − I_1−x(b, a) helps.
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / a / _beta_fraction(a, b, x)


def _beta_fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for i in range(1, 2000):
        m = i // 2
        if i % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / ((1.0 + term * d) or tiny)
        c = (1.0 + term / c) or tiny
        value *= c * d
        if abs(c * d - 1.0) < 2e-15:
            return value
    raise ValueError(f"a and b are too large for the fraction to converge: {a:g} and {b:g}")


def cdf(t: float, degrees_of_freedom: float) -> float:
    """Return P(T <= t) for `degrees_of_freedom` > 0."""
    if not degrees_of_freedom > 0:
        raise ValueError(f"degrees_of_freedom must be > 0; got {degrees_of_freedom:g}")
    total = degrees_of_freedom + t * t
    if abs(t) < 1:
        # Near the centre the complement of the tail would cancel.
        return 0.5 + math.copysign(0.5 * incomplete_beta(0.5, 0.5 * degrees_of_freedom, t * t / total), t)
    tail = 0.5 * incomplete_beta(0.5 * degrees_of_freedom, 0.5, degrees_of_freedom / total)
    return 1.0 - tail if t > 0 else tail


def quantile(probability: float, degrees_of_freedom: float) -> float:
    """Return t with P(T <= t) = probability, by bisection to rounding; probability in (0, 1)."""
    if not 0 < probability < 1:
        raise ValueError(f"probability must be in (0, 1); got {probability:g}")
    if probability < 0.5:
        return -quantile(1.0 - probability, degrees_of_freedom)
    high = 1.0
    while cdf(high, degrees_of_freedom) < probability:
        high *= 2.0
    low, middle = 0.0, 0.5 * high
    while low < middle < high:
        if cdf(middle, degrees_of_freedom) < probability:
            low = middle
        else:
            high = middle
        middle = 0.5 * (low + high)
    return middle


def two_sided(confidence: float, degrees_of_freedom: float) -> float:
    """Return the half-width of a two-sided interval in standard errors; confidence in (0, 1), e.g. 0.95."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1); got {confidence:g}")
    return quantile(0.5 * (1.0 + confidence), degrees_of_freedom)
