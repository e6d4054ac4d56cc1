"""The unified energy equation in both of its forms, thermal yield Φ, and what a power cap does to time.

    E = (ε_c·F + ε_m·B·π) + (P_base + P_leak(T))·t  =  (ε_c·F + ε_m·B·π) / Φ

Switching energy plus the energy of being on; Φ is the share that switches. Energy roofline: Choi, Bedard, Fowler,
Vuduc, IPDPS 2013, doi:10.1109/IPDPS.2013.77. Owns no coefficients, no time model and no temperature model.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.physics.arguments import Array, nonnegative, positive, positive_or_unlimited, positive_share
from agent.records import record


@record(frozen=True, slots=True, eq=False)
class StageEnergy:
    """Energy of stages on accelerators; arrays of one shape."""

    switching_j: Array
    """ε_c·F + ε_m·B·π."""
    static_j: Array
    """(P_base + P_leak)·t."""
    energy_j: Array
    thermal_yield: Array
    """Φ = switching/energy in (0, 1]; 0 only where nothing switches or the cap can never be met."""
    time_s: Array
    """Time after stretching by the power cap."""
    mean_power_w: Array
    stretch_s: Array
    """Seconds that the power cap added; 0 where it does not bind, infinite where it can never be met."""

    @property
    def capped(self) -> NDArray[np.bool_]:
        """True where the power cap stretched the time."""
        return np.asarray(self.stretch_s > 0)

    @property
    def cap_can_be_met(self) -> NDArray[np.bool_]:
        """False where static power alone reaches the cap: no clock is low enough, energy and time are infinite."""
        return np.isfinite(self.time_s)


def switching_energy(
    flops: ArrayLike, bytes_moved: ArrayLike, j_per_flop: ArrayLike, j_per_byte: ArrayLike, penalty: ArrayLike = 1.0
) -> Array:
    """Return ε_c·F + ε_m·B·π [J]. All >= 0; penalty: π of `pressure.penalty`, > 0. ValueError names the culprit."""
    compute = nonnegative("j_per_flop", j_per_flop) * nonnegative("flops", flops)
    memory = nonnegative("j_per_byte", j_per_byte) * nonnegative("bytes_moved", bytes_moved)
    return np.add(compute, memory * positive("penalty", penalty))


def blended_j_per_flop(flops: ArrayLike, j_per_flop: ArrayLike) -> Array:
    """Return ΣεF/ΣF over the last axis [J/flop]: the one ε_c of a mixture of precisions.

    A stage without operations gets the largest of its coefficients, which its energy never uses.
    """
    work, cost = np.broadcast_arrays(nonnegative("flops", flops), nonnegative("j_per_flop", j_per_flop))
    total = np.sum(work, axis=-1)
    busy = total > 0
    mean: Array = np.where(busy, np.sum(work * cost, axis=-1) / np.where(busy, total, 1.0), np.max(cost, axis=-1))
    return mean


def stage_energy(
    switching_j: ArrayLike, time_s: ArrayLike, static_power_w: ArrayLike, power_cap_w: ArrayLike = math.inf
) -> StageEnergy:
    """Return energy, Φ, mean power and the time that the power cap allows.

    Where E/t would exceed the cap, t is stretched to switching/(cap − static) – DVFS or power capping seen from
    outside – and `stretch_s` says by how much. Switching energy is kept, so this is an upper bound: a lower clock would
    also lower the voltage. Static power at or above the cap leaves no room: time and energy are infinite, Φ is 0.

    switching_j: >= 0, see `switching_energy`; time_s: >= 0 and > 0 where energy is spent; static_power_w: P_base +
    P_leak at the stage's temperature, >= 0; power_cap_w: > 0, infinity for none. ValueError names the
    argument out of range.
    """
    switching, wanted, static, cap = np.broadcast_arrays(
        nonnegative("switching_j", switching_j),
        nonnegative("time_s", time_s),
        nonnegative("static_power_w", static_power_w),
        positive_or_unlimited("power_cap_w", power_cap_w),
    )
    running = wanted > 0
    if np.any((switching > 0) & ~running):
        raise ValueError("time_s must be > 0 where switching_j is: energy takes time")
    room = cap - static
    possible = room > 0
    time = np.maximum(wanted, np.where(possible, switching / np.where(possible, room, 1.0), np.inf))
    energy = switching + static * time
    spent = energy > 0
    return StageEnergy(
        switching_j=switching,
        static_j=static * time,
        energy_j=energy,
        thermal_yield=np.where(spent, switching / np.where(spent, energy, 1.0), 1.0),
        time_s=time,
        mean_power_w=static + np.where(running, switching / np.where(running, time, 1.0), 0.0),
        stretch_s=time - wanted,
    )


def energy_by_yield(switching_j: ArrayLike, thermal_yield: ArrayLike) -> Array:
    """Return the second form of the unified equation, E = (ε_c·F + ε_m·B·π)/Φ [J], Φ in (0, 1].

    Equal to `stage_energy(...).energy_j` to rounding wherever something switches; ValueError for Φ = 0, because a stage
    that switches nothing has no energy in this form.
    """
    return np.divide(nonnegative("switching_j", switching_j), positive_share("thermal_yield", thermal_yield))
