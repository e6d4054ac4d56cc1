"""Surroundings: a placement beside others at its memory, at another clock, and warm from its own heat.

What it takes by itself is the business of `costing`; here the same coefficients meet what is around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.physics import roofline
from agent.physics.contention import concurrent_times, domain_bandwidth
from agent.physics.energy import energy_by_yield
from agent.placement import clocks, costing
from agent.placement.warming import Settled, settled
from agent.schema.device import Accelerator, DeviceProfile, OperatingPoint, Runtime
from agent.schema.workload import Work, Workload

_MOST_UNUSED = 0.5
"""Work that leaves more of the arithmetic idle is bound by something else than its clock."""


@dataclass(frozen=True)
class Beside:
    """The placement while every other accelerator of its memory domain draws all it can, max–min fair."""

    domain: str
    others: tuple[str, ...]
    time_s: float
    bandwidth_alone_bytes_per_s: float
    bandwidth_bytes_per_s: float


@dataclass(frozen=True)
class Thriftiest:
    """The clock with the fewest joules for work that arithmetic binds, and the placement at it."""

    clock_share: float
    time_s: float
    energy_j: float


@dataclass(frozen=True)
class Surroundings:
    """See module; None where the profile says too little."""

    beside: Beside | None
    thriftiest: Thriftiest | None
    settled: Settled | None
    energy_by_yield_j: float | None
    """The second form of the energy equation, switching / Φ."""
    forms_apart: float | None
    """Relative difference of the two forms: rounding."""
    intensity_flops_per_byte: float | None
    """Operations per byte moved; None where nothing is moved."""
    ridge_flops_per_byte: float | None
    """Intensity from which arithmetic binds, at the achieved peak and bandwidth; None for work without operations."""


def surroundings(
    workload: Workload, profile: DeviceProfile, accelerator: Accelerator, runtime: Runtime, cost: costing.ModelCost,
    temperature_c: float,
) -> Surroundings:  # fmt: skip
    """Everything around one placement; cost: of the whole model there at that temperature."""
    second = apart = None
    if cost.energy_j and cost.switching_j:
        second = float(energy_by_yield(cost.switching_j, cost.switching_j / cost.energy_j))
        apart = abs(second / cost.energy_j - 1.0)
    return Surroundings(
        _beside(profile, accelerator, runtime, cost),
        _thriftiest(workload, profile, accelerator, runtime, cost, temperature_c),
        settled(profile, accelerator, cost), second, apart,
        *_intensities(workload, profile, accelerator, runtime),
    )  # fmt: skip


def _intensities(
    workload: Workload, profile: DeviceProfile, accelerator: Accelerator, runtime: Runtime
) -> tuple[float | None, float | None]:
    moved = sum(s.weight_bytes + s.activation_bytes + s.kv_bytes for s in workload.stages)
    work = [w for stage in workload.stages for w in stage.work if w.flops]
    flops = [w.flops for w in work]
    intensity = float(roofline.operational_intensity(sum(flops), moved)) if moved else None
    if not work:
        return intensity, None
    peaks = [_achieved(w, accelerator, runtime) for w in work]
    beta = profile.memory_domain(accelerator.memory_domain).bandwidth_bytes_per_s.value
    bandwidth = roofline.effective(beta, _share(accelerator, runtime))
    return intensity, float(roofline.ridge_point(roofline.blended_peak(flops, peaks), bandwidth))


def _achieved(work: Work, accelerator: Accelerator, runtime: Runtime) -> float:
    precision = costing.computed_in(work.precision, accelerator)
    known = costing.efficiency_of(work.family, precision, runtime)
    share = costing.ASSUMED_SHARE if known is None else known.share.value
    return float(roofline.effective(accelerator.peak_flops_per_s[precision].value, min(1.0, share)))


def _beside(profile: DeviceProfile, own: Accelerator, runtime: Runtime, cost: costing.ModelCost) -> Beside | None:
    """None where nothing else draws from its memory; the same silicon under another name is itself."""
    sharing = [a for a in profile.accelerators if a.memory_domain == own.memory_domain]
    by_silicon = {a.silicon or a.name: a for a in sorted(sharing, key=_drawn)}
    others = [a for silicon, a in by_silicon.items() if silicon != (own.silicon or own.name)]
    if not others:
        return None
    domain = profile.memory_domain(own.memory_domain)
    beta = domain.bandwidth_bytes_per_s.value
    drawn = np.array([_share(own, runtime), *map(_drawn, others)])
    granted = domain_bandwidth(drawn * beta, np.zeros(drawn.size, dtype=np.intp), beta)
    computing_s = np.array([s.time_s - s.launches_s if s.overlaps else 0.0 for s in cost.stages])
    memory_s = np.array([s.memory_s for s in cost.stages])
    compute_s = np.zeros((memory_s.size, drawn.size))
    compute_s[:, 0] = computing_s
    moved = np.broadcast_to(drawn * beta, compute_s.shape).copy()  # the others: as much in a second as they can
    moved[:, 0] *= memory_s
    beside_s = concurrent_times(compute_s, moved, beta, drawn)[:, 0]
    alone_s = np.where([s.overlaps for s in cost.stages], computing_s, memory_s)
    return Beside(
        domain.name, tuple(a.name for a in others), cost.time_s + float(np.sum(np.maximum(0.0, beside_s - alone_s))),
        float(drawn[0] * beta), float(granted[0]),
    )  # fmt: skip


def _share(accelerator: Accelerator, runtime: Runtime) -> float:
    # A calibration may measure more than the figure that the profile assumes of an unknown machine's memory.
    return min(1.0, costing.bandwidth_share(accelerator, runtime))


def _drawn(accelerator: Accelerator) -> float:
    """Share of its domain's bandwidth that it draws at most, through any of its runtimes."""
    shares = [_share(accelerator, runtime) for runtime in accelerator.runtimes]
    return max(shares, default=costing.ASSUMED_BANDWIDTH_SHARE)


def _thriftiest(
    workload: Workload, profile: DeviceProfile, accelerator: Accelerator, runtime: Runtime, cost: costing.ModelCost,
    temperature_c: float,
) -> Thriftiest | None:  # fmt: skip
    flops = sum(work.flops for stage in workload.stages for work in stage.work)
    busy_s = sum(s.time_s * s.dasi for s in cost.stages)
    if not flops or cost.underutilisation > _MOST_UNUSED or busy_s <= 0 or cost.static_w is None:
        return None
    priced = [costing.priced_as(costing.computed_in(w.precision, accelerator), accelerator)
              for stage in workload.stages for w in stage.work if w.flops]  # fmt: skip
    if None in priced:
        return None
    costs = [accelerator.energy_j_per_flop[p].value for p in priced if p is not None]
    share = clocks.thriftiest_share(accelerator, flops / busy_s, sum(costs) / len(costs), cost.static_w)
    if share is None:
        return None
    point = OperatingPoint(name="thriftiest", clock_share=share)
    there = costing.model_cost(workload, profile, accelerator, runtime, temperature_c, point)
    return None if there.energy_j is None else Thriftiest(share, there.time_s, there.energy_j)
