"""Operating points: what gating units and changing clocks does to peaks, bandwidth, dynamic power and leakage.

Power modes gate cores as well as clocks, and the memory clock is a separate knob. Owns the voltage–frequency curve with
its floor; owns no list of modes (profiles do).

P_dyn = a·C·V²·f (Weste & Harris, CMOS VLSI Design). V is flat below the voltage floor and rises as (f/f_floor)^s above
it, so the power exponent is 1 below the floor and 1 + 2s above; rails measured on Orin Nano give 0.8–0.9 below
918 MHz and 1.4–2.2 above, hence s of 0.2–0.6.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from agent.physics.arguments import Array, nonnegative, positive, share
from agent.records import record


@record(frozen=True, slots=True, eq=False)
class Scaling:
    """Factors on the quantities of the reference operating point; each is dimensionless and above 0."""

    peak: Array
    """On the compute peak and on the issue rate: units and clock."""
    bandwidth: Array
    """On the memory bandwidth: memory clock."""
    dynamic_power: Array
    """On the power of switching at full use: units · f · V²."""
    energy_per_op: Array
    """On the switching energy of one operation: V²."""
    leakage: Array
    """On the leakage power: V and the units that are not power-gated."""


def voltage_ratio(clock_hz: ArrayLike, floor_clock_hz: ArrayLike, voltage_exponent: ArrayLike) -> Array:
    """Return V/V_floor = max(1, f/f_floor)^s, continuous at the floor.

    clock_hz, floor_clock_hz: > 0; voltage_exponent: s >= 0 (0 for a fixed-voltage rail). ValueError names the culprit.
    """
    ratio = positive("clock_hz", clock_hz) / positive("floor_clock_hz", floor_clock_hz)
    return np.power(np.maximum(1.0, ratio), nonnegative("voltage_exponent", voltage_exponent))


def voltage_exponent(power_exponent: ArrayLike) -> Array:
    """Return s of V ∝ f^s from the rail-power exponent above the floor, p = 1 + 2s, p >= 1."""
    return nonnegative("power_exponent - 1", np.subtract(power_exponent, 1.0)) / 2.0


def operating_point_scaling(
    units: ArrayLike,
    clock_hz: ArrayLike,
    memory_clock_hz: ArrayLike,
    *,
    reference_units: ArrayLike,
    reference_clock_hz: ArrayLike,
    reference_memory_clock_hz: ArrayLike,
    floor_clock_hz: ArrayLike,
    voltage_exponent: ArrayLike,
    gated_leakage: ArrayLike = 0.0,
) -> Scaling:
    """Return the factors from the reference operating point to (units, clock, memory clock).

    units: active cores or clusters, > 0 (at most the reference for leakage to mean something, not enforced).
    floor_clock_hz: highest clock at the lowest voltage; voltage_exponent: s above it, see `voltage_ratio`.
    gated_leakage: share of its leakage that an inactive unit keeps, 0 (power-gated) to 1 (clock-gated only).
    Raises ValueError naming the argument that is out of range.
    """
    unit_ratio = positive("units", units) / positive("reference_units", reference_units)
    peak = unit_ratio * positive("clock_hz", clock_hz) / positive("reference_clock_hz", reference_clock_hz)
    bandwidth = np.divide(
        positive("memory_clock_hz", memory_clock_hz), positive("reference_memory_clock_hz", reference_memory_clock_hz)
    )
    volts = voltage_ratio(clock_hz, floor_clock_hz, voltage_exponent)
    volts = volts / voltage_ratio(reference_clock_hz, floor_clock_hz, voltage_exponent)
    squared = np.square(volts)
    kept = share("gated_leakage", gated_leakage) * np.maximum(0.0, 1.0 - unit_ratio)
    return Scaling(peak, bandwidth, peak * squared, squared, volts * (unit_ratio + kept))


def best_energy_clock(
    j_per_flop: ArrayLike,
    flops_per_cycle: ArrayLike,
    static_power_w: ArrayLike,
    *,
    floor_clock_hz: ArrayLike,
    voltage_exponent: ArrayLike,
) -> Array:
    """Return the clock [Hz] with the least energy per operation of a compute-bound stage; never below the floor.

    Above the floor E(f) = ε·(f/f_floor)^(2s) + P_static/(r·f), convex with its minimum at
    f = (P_static·f_floor^(2s) / (2·s·ε·r))^(1/(2s+1)); below the floor slower only adds static energy (De Vogeleer et
    al., "The Energy/Frequency Convexity Rule", 2013).
    j_per_flop: ε at the floor voltage, > 0; flops_per_cycle: r of the whole accelerator, > 0; voltage_exponent: > 0.
    """
    floor = positive("floor_clock_hz", floor_clock_hz)
    twice = 2.0 * positive("voltage_exponent", voltage_exponent)
    rate = positive("j_per_flop", j_per_flop) * positive("flops_per_cycle", flops_per_cycle)
    quotient = nonnegative("static_power_w", static_power_w) / (twice * rate * floor)
    return np.multiply(floor, np.maximum(1.0, np.power(quotient, 1.0 / (twice + 1.0))))
