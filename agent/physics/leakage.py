"""Leakage: static power that grows with temperature, and whether heat and leakage settle or run away.

Owns the temperature law, its doubling temperature, and the electro-thermal fixed point. Owns no coefficients.

Sub-threshold current ∝ T²·exp(−E_a/(k_B·T)) at fixed voltage: Liao, He, Lepak, IEEE TCAD 24(7) 2005,
doi:10.1109/TCAD.2005.850860. E_a is effective: the threshold voltage and its −0.5…−1 mV/K slope are folded in.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.physics.arguments import Array, celsius, nonnegative, positive
from agent.records import record

BOLTZMANN_EV_PER_K = 8.617333262e-5
"""Boltzmann constant, CODATA 2018 (exact)."""
ZERO_CELSIUS_K = 273.15


@record(frozen=True, slots=True, eq=False)
class FixedPoint:
    """Where T = T_a + R·(P_dyn + P_leak(T)) settles."""

    temperature_c: Array
    """The stable solution; infinite where there is none."""
    leakage_power_w: Array
    """Leakage at that temperature; infinite where there is no solution."""
    loop_gain: Array
    """R·dP_leak/dT at the solution: below 1 where stable, and the closer to 1 the nearer to runaway."""
    stable: NDArray[np.bool_]


def leakage_power(
    temperature_c: ArrayLike, reference_power_w: ArrayLike, activation_ev: ArrayLike, reference_c: ArrayLike = 25.0
) -> Array:
    """Return P_leak(T) = P_ref·(T/T_ref)²·exp[(E_a/k_B)·(1/T_ref − 1/T)] in watts, T in kelvin inside.

    temperature_c, reference_c: junction temperatures above absolute zero; reference_power_w: P_ref >= 0;
    activation_ev: effective E_a >= 0 (priors 0.03–0.25 eV). Raises ValueError naming the argument out of range.
    """
    kelvin = celsius("temperature_c", temperature_c) + ZERO_CELSIUS_K
    reference_k = positive("reference_c in kelvin", celsius("reference_c", reference_c) + ZERO_CELSIUS_K)
    scale = nonnegative("activation_ev", activation_ev) / BOLTZMANN_EV_PER_K
    kelvin = positive("temperature_c in kelvin", kelvin)
    growth: Array = np.square(kelvin / reference_k) * np.exp(scale * (1.0 / reference_k - 1.0 / kelvin))
    return np.multiply(nonnegative("reference_power_w", reference_power_w), growth)


def leakage_slope(
    temperature_c: ArrayLike, reference_power_w: ArrayLike, activation_ev: ArrayLike, reference_c: ArrayLike = 25.0
) -> Array:
    """Return dP_leak/dT = P_leak(T)·(2/T + E_a/(k_B·T²)) [W/K]; arguments as in `leakage_power`."""
    power = leakage_power(temperature_c, reference_power_w, activation_ev, reference_c)
    kelvin = np.asarray(temperature_c, dtype=np.float64) + ZERO_CELSIUS_K
    scale = np.asarray(activation_ev, dtype=np.float64) / BOLTZMANN_EV_PER_K
    return power * (2.0 / kelvin + scale / np.square(kelvin))


def doubling_from_activation(activation_ev: ArrayLike, reference_c: ArrayLike = 25.0) -> Array:
    """Return the temperature rise [°C] above the reference that doubles leakage.

    FinFET: 20–75 °C per doubling; 10 °C is folklore from old bulk processes.
    Solves 2u + a·(1 − e^−u) = ln 2 for u = ln(T1/T0), a = E_a/(k_B·T0), by Newton from 0. The left side is concave and
    rising, so the iterates climb to the root and cannot overshoot it.
    """
    start = celsius("reference_c", reference_c) + ZERO_CELSIUS_K
    a = nonnegative("activation_ev", activation_ev) / (BOLTZMANN_EV_PER_K * start)
    u = np.zeros(np.broadcast_shapes(np.shape(a), np.shape(start)))
    for _ in range(24):
        u = u + (math.log(2.0) - 2.0 * u + a * np.expm1(-u)) / (2.0 + a * np.exp(-u))
    return np.asarray(start * np.expm1(u))


def fixed_point(
    ambient_c: ArrayLike,
    resistance_c_per_w: ArrayLike,
    dynamic_power_w: ArrayLike,
    reference_power_w: ArrayLike,
    activation_ev: ArrayLike,
    reference_c: ArrayLike = 25.0,
) -> FixedPoint:
    """Return where temperature and leakage settle, and whether they do: stable iff R·dP_leak/dT < 1 there.

    P_leak(T) is convex, so T − T_a − R·(P_dyn + P_leak(T)) is concave: of its at most two zeros the lower is the stable
    one, and Newton from the coldest possible temperature climbs to it (stability: Bhat et al., arXiv:1904.09814). A
    start beyond the point of gain 1 is runaway. What Newton cannot settle in 80 steps is called unstable: it lies
    within rounding of the runaway limit.

    ambient_c; resistance_c_per_w: R >= 0; dynamic_power_w: >= 0, everything but leakage; the rest as `leakage_power`.
    """
    ambient = celsius("ambient_c", ambient_c)
    resistance = nonnegative("resistance_c_per_w", resistance_c_per_w)
    dynamic = nonnegative("dynamic_power_w", dynamic_power_w)
    cold = ambient + resistance * dynamic
    shape = np.broadcast_shapes(*(np.shape(x) for x in (cold, reference_power_w, activation_ev, reference_c)))
    temperature = np.array(np.broadcast_to(cold, shape))
    climbing = np.ones(shape, dtype=np.bool_)
    settled = np.zeros(shape, dtype=np.bool_)
    for _ in range(80):
        residual = (
            temperature - cold - resistance * leakage_power(temperature, reference_power_w, activation_ev, reference_c)
        )
        gain = resistance * leakage_slope(temperature, reference_power_w, activation_ev, reference_c)
        climbing = climbing & (gain < 1.0) & ~settled
        settled = settled | (climbing & (np.abs(residual) <= 1e-10 * np.maximum(1.0, np.abs(temperature))))
        room = np.where(climbing, 1.0 - gain, 1.0)
        temperature = np.where(climbing & ~settled, temperature - residual / room, temperature)
    leak = leakage_power(temperature, reference_power_w, activation_ev, reference_c)
    gain = resistance * leakage_slope(temperature, reference_power_w, activation_ev, reference_c)
    return FixedPoint(
        temperature_c=np.where(settled, temperature, np.inf),
        leakage_power_w=np.where(settled, leak, np.inf),
        loop_gain=np.where(settled, gain, np.inf),
        stable=settled,
    )
