"""Clocks: what an operating point does to speed and joules, and at which clock work takes fewest joules."""

from __future__ import annotations

from agent.physics.coefficients import POWER_EXPONENT
from agent.physics.operating_point import (
    Scaling,
    best_energy_clock,
    operating_point_scaling,
    voltage_exponent,
    voltage_ratio,
)
from agent.schema.device import Accelerator, OperatingPoint

VOLTAGE_EXPONENT = float(voltage_exponent(POWER_EXPONENT["above_floor"].value))
"""s of V ∝ f^s above the voltage floor: 0.4, the middle of what rails of one family show."""
FULL = OperatingPoint(name="full")


def scaling(accelerator: Accelerator, point: OperatingPoint | None) -> Scaling:
    """Factors from the profile's full figures to an operating point; None: full.

    Where the voltage floor is unknown voltage is taken not to fall with the clock.
    """
    to = point or FULL
    floor = accelerator.voltage_floor_clock_share
    return operating_point_scaling(
        to.active_units_share, to.clock_share, to.memory_clock_share,
        reference_units=1.0, reference_clock_hz=1.0, reference_memory_clock_hz=1.0,
        floor_clock_hz=1.0 if floor is None else floor, voltage_exponent=VOLTAGE_EXPONENT,
    )  # fmt: skip


def thriftiest_share(accelerator: Accelerator, flops_per_s: float, j_per_flop: float, static_w: float) -> float | None:
    """Share of the top clock at which an operation takes fewest joules, at most 1; None: the voltage floor is unknown.

    flops_per_s, j_per_flop: at the top clock, of work that arithmetic binds. Below the floor slower only adds the
    joules of being on.
    """
    floor = accelerator.voltage_floor_clock_share
    if floor is None or flops_per_s <= 0 or j_per_flop <= 0:
        return None
    at_floor = j_per_flop / float(voltage_ratio(1.0, floor, VOLTAGE_EXPONENT)) ** 2
    best = best_energy_clock(at_floor, flops_per_s, static_w, floor_clock_hz=floor, voltage_exponent=VOLTAGE_EXPONENT)
    return min(1.0, float(best))
