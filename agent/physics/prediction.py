"""One prediction of a stage on an accelerator at an operating point: every formula of this package, composed once.

The only place that decides where the pressure penalty, leakage, cache, link and power cap enter, so that placement,
explanation and simulation cannot disagree. Arguments are arrays that broadcast: (stages, 1, 1) against
(accelerators, 1) against (operating points,).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from agent.physics import energy, leakage, roofline
from agent.physics.arguments import Array, nonnegative, positive, positive_or_unlimited
from agent.records import record


@record(frozen=True, slots=True, eq=False)
class StageLoad:
    """What a stage asks; all >= 0, scalars or arrays."""

    flops: ArrayLike
    weight_bytes: ArrayLike
    stream_bytes: ArrayLike
    """Activations in and out, and KV bytes read and written: never resident."""
    cycles: ArrayLike = 0.0
    """Unit-cycles of instruction issue; 0 where the stage is not known to be bound by it."""


@record(frozen=True, slots=True, eq=False)
class AcceleratorTerms:
    """What an accelerator offers at its reference operating point, efficiencies included; scalars or arrays."""

    peak_flops_per_s: ArrayLike
    bandwidth_bytes_per_s: ArrayLike
    j_per_flop: ArrayLike
    j_per_byte: ArrayLike
    base_power_w: ArrayLike
    """P_base: what being on costs beside leakage."""
    leakage_w: ArrayLike
    """Leakage at `leakage_reference_c`."""
    activation_ev: ArrayLike
    leakage_reference_c: ArrayLike = 25.0
    overhead_s: ArrayLike = 0.0
    power_cap_w: ArrayLike = math.inf
    issue_cycles_per_s: ArrayLike = math.inf
    """Units × clock."""
    cache_bytes: ArrayLike = 0.0
    cache_bytes_per_s: ArrayLike = math.inf
    sram_bytes: ArrayLike = math.inf
    """On-chip weight memory behind a link; infinite where the accelerator reads DRAM itself."""
    link_bytes_per_s: ArrayLike = math.inf


@record(frozen=True, slots=True, eq=False)
class Prediction:
    """Modelled time and energy with everything that led to them."""

    roofline: roofline.Roofline
    energy: energy.StageEnergy
    bytes_moved: Array
    """Memory bytes before the pressure penalty; weights that stay in cache excluded."""
    leakage_power_w: Array


def predict(
    load: StageLoad,
    terms: AcceleratorTerms,
    *,
    temperature_c: ArrayLike,
    penalty: ArrayLike = 1.0,
    coverage: ArrayLike = 1.0,
    partition_s: ArrayLike = 0.0,
) -> Prediction:
    """Return time, DASI, energy and Φ of `load` on `terms`.

    temperature_c: junction temperature during the stage, held for its duration; penalty: π of `pressure.penalty`;
    coverage, partition_s: see `roofline.partition_time` – energy is charged as if the accelerator ran all of it.
    Raises ValueError naming the argument that is out of range.
    """
    weights = nonnegative("weight_bytes", load.weight_bytes)
    resident = roofline.resident_bytes(weights, terms.cache_bytes)
    link_s = roofline.link_time(weights, terms.sram_bytes, terms.link_bytes_per_s)
    moved = weights - resident + nonnegative("stream_bytes", load.stream_bytes)
    pi = positive("penalty", penalty)
    times = roofline.attainable(
        load.flops,
        moved * pi,
        terms.peak_flops_per_s,
        terms.bandwidth_bytes_per_s,
        cache_s=np.divide(resident, positive_or_unlimited("cache_bytes_per_s", terms.cache_bytes_per_s)),
        issue_s=np.divide(
            nonnegative("cycles", load.cycles), positive_or_unlimited("issue_cycles_per_s", terms.issue_cycles_per_s)
        ),
        link_s=link_s,
        coverage=coverage,
        partition_s=partition_s,
        overhead_s=terms.overhead_s,
    )
    leak = leakage.leakage_power(temperature_c, terms.leakage_w, terms.activation_ev, terms.leakage_reference_c)
    spent = energy.stage_energy(
        energy.switching_energy(load.flops, moved, terms.j_per_flop, terms.j_per_byte, pi),
        times.time_s,
        nonnegative("base_power_w", terms.base_power_w) + leak,
        terms.power_cap_w,
    )
    return Prediction(times, spent, moved, leak)
