"""Surroundings: a placement beside others at its memory, at another clock, and warm from its own heat.

What it takes by itself is the business of `costing`; here the same coefficients meet what is around it.
"""

from __future__ import annotations

import numpy as np

from agent.physics import leakage, pressure, roofline
from agent.physics.contention import concurrent_times, domain_bandwidth
from agent.physics.energy import energy_by_yield
from agent.placement import clocks, costing
from agent.placement.warming import Settled, settled
from agent.records import record
from agent.schema.device import Accelerator, DeviceProfile, OperatingPoint, Runtime
from agent.schema.workload import Work, Workload

_MOST_UNUSED = 0.5
"""Work that leaves more of the arithmetic idle is bound by something else than its clock."""


@record(frozen=True)
class Beside:
    """The placement while every other accelerator of its memory domain draws all it can, max–min fair."""

    domain: str
    others: tuple[str, ...]
    time_s: float
    bandwidth_alone_bytes_per_s: float
    bandwidth_bytes_per_s: float


@record(frozen=True)
class Thriftiest:
    """The clock with the fewest joules for work that arithmetic binds, and the placement at it."""

    clock_share: float
    time_s: float
    energy_j: float


@record(frozen=True)
class Surroundings:
    """See module; None where the profile says too little."""

    beside: Beside | None
    thriftiest: Thriftiest | None
    settled: Settled | None
    energy_by_yield_j: float | None
    """The second form of the energy equation, switching / Φ, counted anew: joules from operations, bytes and their
    coefficients, Φ as the share of switching in the power drawn. Only the time is that of the placement."""
    forms_apart: float | None
    """Relative difference of the two forms: rounding, unless one of them is wrong."""
    leakage_known: bool
    """Whether Φ has leakage of its own; else only the base power, at any temperature."""
    intensity_flops_per_byte: float | None
    """Operations per byte moved; None where nothing is moved."""
    ridge_flops_per_byte: float | None
    """Intensity from which arithmetic binds, at the achieved peak and bandwidth; None for work without operations."""


def surroundings(
    workload: Workload, profile: DeviceProfile, accelerator: Accelerator, runtime: Runtime, cost: costing.ModelCost,
    temperature_c: float,
) -> Surroundings:  # fmt: skip
    """Everything around one placement; cost: of the whole model there at that temperature."""
    second = _by_yield(workload, profile, accelerator, cost, temperature_c)
    apart = None if second is None or not cost.energy_j else abs(second / cost.energy_j - 1.0)
    return Surroundings(
        _beside(profile, accelerator, runtime, cost),
        _thriftiest(workload, profile, accelerator, runtime, cost, temperature_c),
        settled(profile, accelerator, cost), second, apart, accelerator.leakage is not None,
        *_intensities(workload, profile, accelerator, runtime),
    )  # fmt: skip


def _by_yield(
    workload: Workload, profile: DeviceProfile, accelerator: Accelerator, cost: costing.ModelCost, temperature_c: float
) -> float | None:
    """Switching / Φ from the profile's coefficients, beside `costing` and not from its joules; None where unknown."""
    if not cost.switching_j:
        return None
    operations_j = 0.0
    for work in (w for stage in workload.stages for w in stage.work if w.flops):
        precision = costing.priced_as(costing.computed_in(work.precision, accelerator), accelerator)
        assert precision is not None  # noqa: S101  (else its switching energy would be unknown)
        operations_j += work.flops * accelerator.energy_j_per_flop[precision].value
    domain = profile.memory_domain(accelerator.memory_domain)
    bytes_j = _crossing_bytes(workload, profile, accelerator) * domain.energy_j_per_byte.value
    switching_j = operations_j + bytes_j
    if not switching_j:
        return 0.0
    static_w = accelerator.base_power_w.value
    leak = accelerator.leakage
    if leak is not None:
        static_w += float(leakage.leakage_power(
            temperature_c, leak.power_w.value, leak.activation_energy_ev.value, leak.reference_c
        ))  # fmt: skip
    switching_w = switching_j / cost.time_s
    return float(energy_by_yield(switching_j, switching_w / (switching_w + static_w)))


def _crossing_bytes(workload: Workload, profile: DeviceProfile, accelerator: Accelerator) -> float:
    """Bytes through memory or the link in one pass, with the pressure penalty; without what stays in a cache."""
    stages = workload.stages
    weights = sum(s.weight_bytes for s in stages)
    cached = sum(s.kv_bytes for s in stages)
    held = weights + cached + sum(s.idle_weight_bytes for s in stages) + max(s.arena_bytes for s in stages)
    domain = profile.memory_domain(accelerator.memory_domain)
    full = pressure.cpq(held, 0.0, 0.0, domain.capacity_bytes.value, domain.reserved_bytes.value)
    penalty = float(pressure.penalty(
        min(1.0, float(full)), knee=accelerator.cpq_knee, slope=accelerator.cpq_kappa
    ))  # fmt: skip
    if accelerator.sram_bytes is not None:
        spilt = max(0.0, weights - accelerator.sram_bytes.value)
        return (spilt + cached) * penalty + stages[0].input_bytes + stages[-1].output_bytes
    cache_bytes = -1.0 if accelerator.cache_bytes is None else accelerator.cache_bytes.value
    if held <= cache_bytes:
        return 0.0
    streamed = sum(s.activation_bytes for s in stages if s.arena_bytes > cache_bytes)
    return (weights + cached + streamed) * penalty


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
