"""Costing: what each stage of a workload takes on each accelerator; the one place that unpacks schema into physics.

Every approximation it has to make (a coefficient that the profile does not have, a precision that the accelerator does
not compute in) comes back as a note; what cannot be known at all comes back as None and is reported as unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.physics import energy as energy_model
from agent.physics import leakage, pressure, roofline
from agent.physics.operating_point import Scaling
from agent.placement import clocks, kernel_amounts
from agent.records import record
from agent.schema.base import Quantity
from agent.schema.device import Accelerator, DeviceProfile, Efficiency, MemoryDomain, OperatingPoint, Runtime
from agent.schema.workload import Family, Precision, Stage, Work, Workload

ASSUMED_SHARE = 0.3
"""Share of a peak assumed for a family and runtime that nobody has measured; noted wherever it is used."""
ASSUMED_BANDWIDTH_SHARE = 0.6
_MEASURED = "x86 CPUs measured: ONNX Runtime and LiteRT 7–18 µs, OpenVINO 31–49 µs; `qeil calibrate` replaces it"
ASSUMED_DISPATCH = Quantity(value=12e-6, provenance="assumed", rel_uncertainty=1.0, source=_MEASURED)
"""Launch of an inference, in seconds, where nobody measured it: without one a tiny model would seem to take no time."""
REFERENCE_TEMPERATURE_C = 45.0
"""Junction temperature used where the caller knows none."""

_PRODUCTS = ("conv", "gemm", "attention")
"""Families that are relatives of each other: all are products of matrices in the end."""

_COSTLY = ("conv", "depthwise", "gemm", "attention")

_WIDER: dict[Precision, tuple[Precision, ...]] = {
    "int4": ("int8", "fp16", "fp32"),
    "int8": ("fp16", "fp32"),
    "fp16": ("bf16", "fp32"),
    "bf16": ("fp16", "fp32"),
    "fp32": ("bf16", "fp16"),
}


@record(frozen=True)
class StageCost:
    """One stage on one accelerator. Energies are None where the profile lacks a coefficient."""

    time_s: float
    switching_j: float | None
    static_w: float | None
    dasi: float
    binding: str
    stretched_s: float
    launches_s: float = 0.0
    """Of the time, what launching its nodes takes."""
    memory_s: float = 0.0
    """Of the time, what its memory domain alone would ask for."""
    overlaps: bool = True
    """Whether moving bytes goes on while it computes; measured kernel times add up instead."""

    @property
    def energy_j(self) -> float | None:
        """Switching energy plus static power over the time."""
        if self.switching_j is None or self.static_w is None:
            return None
        return self.switching_j + self.static_w * self.time_s


@record(frozen=True)
class ModelCost:
    """A whole model on one accelerator: one dispatch, all stages in a row."""

    accelerator: str
    stages: tuple[StageCost, ...]
    time_s: float
    switching_j: float | None
    static_w: float | None
    underutilisation: float
    held_bytes: float
    notes: tuple[str, ...]
    over_cap: str | None = None
    """Why the part's power cap cannot be kept at any speed; times and joules are then those without it."""

    @property
    def energy_j(self) -> float | None:
        """Joules of one inference."""
        if self.switching_j is None or self.static_w is None:
            return None
        return self.switching_j + self.static_w * self.time_s


def choose_runtime(accelerator: Accelerator, format_: str, operators: Sequence[str] = ()) -> Runtime | str:
    """The first runtime that understands the model, or the reason why none does.

    A well-known workload (no file) may be planned on any runtime, also on a vendor's own that the agent does not drive.
    """
    fitting = [r for r in accelerator.runtimes if format_ in ("catalogue", r.format)]
    if not fitting:
        have = ", ".join(dict.fromkeys(r.backend for r in accelerator.runtimes)) or "none"
        return f"no runtime for {format_} models (has {have})"
    for runtime in fitting:
        missing = sorted(set(operators) & set(runtime.unsupported_operators))
        if not missing:
            return runtime
    return f"{fitting[0].provider} does not support {', '.join(missing)}"


def dispatch_of(runtime: Runtime) -> Quantity:
    """What launching one inference takes, in seconds: the runtime's own figure, else an assumed one."""
    return runtime.dispatch_overhead_s or ASSUMED_DISPATCH


def cannot_compute(workload: Workload, accelerator: Accelerator) -> str | None:
    """Why the accelerator cannot run the workload's arithmetic; None where it can.

    Narrower operands fit a wider datapath, never the other way round: a float model needs converting for an int8 chip.
    """
    for stage in workload.stages:
        for item in stage.work:
            usable = (item.precision, *_WIDER[item.precision])
            if item.family in _COSTLY and not any(p in accelerator.peak_flops_per_s for p in usable):
                known = ", ".join(accelerator.peak_flops_per_s)
                return (
                    f"computes in {known}; the model's {item.family} is {item.precision}, so it needs converting first"
                )
    return None


def model_cost(
    workload: Workload,
    profile: DeviceProfile,
    accelerator: Accelerator,
    runtime: Runtime,
    temperature_c: float = REFERENCE_TEMPERATURE_C,
    point: OperatingPoint | None = None,
) -> ModelCost:
    """Cost of the whole workload as one dispatch on one accelerator."""
    domain = profile.memory_domain(accelerator.memory_domain)
    notes: list[str] = []
    held = sum(s.weight_bytes + s.idle_weight_bytes for s in workload.stages)
    held += max(s.arena_bytes for s in workload.stages)
    held += sum(s.kv_bytes for s in workload.stages)
    penalty = _penalty(held, domain, accelerator)
    in_cache = accelerator.cache_bytes is not None and held <= accelerator.cache_bytes.value
    spill = _spill_share(workload, accelerator)
    last = len(workload.stages) - 1
    scaling = clocks.scaling(accelerator, point)
    footprint = sum(s.weight_bytes for s in workload.stages)
    footprint += workload.stages[0].input_bytes + workload.stages[-1].output_bytes
    stages = tuple(
        _stage_cost(
            stage, domain, accelerator, runtime, temperature_c, point, penalty, in_cache, notes, spill=spill,
            footprint=footprint, scaling=scaling,
            io_tensors=(len(workload.inputs) if i == 0 else 0) + (len(workload.outputs) if i == last else 0),
            host_bytes=(stage.input_bytes if i == 0 else 0.0) + (stage.output_bytes if i == last else 0.0),
        )
        for i, stage in enumerate(workload.stages)
    )  # fmt: skip
    if point is not None and point.clock_share != 1.0 and accelerator.voltage_floor_clock_share is None:
        notes.append(f"{accelerator.name}: voltage floor unknown, energy per operation as at full clock")
    time_s = sum(s.time_s for s in stages) + dispatch_of(runtime).value
    if runtime.dispatch_overhead_s is None:
        notes.append(f"{accelerator.name}: dispatch overhead unknown, 12 µs (±100 %) assumed")
    known = [s.switching_j for s in stages if s.switching_j is not None]
    busy_s = sum(s.time_s for s in stages)
    used_s = sum(s.time_s * s.dasi for s in stages)
    return ModelCost(
        accelerator.name, stages, time_s, sum(known) if len(known) == len(stages) else None, stages[0].static_w,
        1.0 - used_s / busy_s if busy_s > 0 else 0.0, held, tuple(dict.fromkeys(notes)),
        _over_cap(accelerator, point, temperature_c),
    )  # fmt: skip


def _cap_w(accelerator: Accelerator, point: OperatingPoint | None) -> float | None:
    cap = point.power_cap_w if point is not None and point.power_cap_w is not None else accelerator.power_cap_w
    return None if cap is None else cap.value


def _over_cap(accelerator: Accelerator, point: OperatingPoint | None, temperature_c: float) -> str | None:
    cap_w, static_w = _cap_w(accelerator, point), _static_w(accelerator, temperature_c)
    if cap_w is None or cap_w > static_w:
        return None
    return (
        f"its power cap of {cap_w:g} W is not above the {static_w:.4g} W that it draws for being on at "
        f"{temperature_c:g} °C: no clock is low enough"
    )


def _stage_cost(
    stage: Stage,
    domain: MemoryDomain,
    accelerator: Accelerator,
    runtime: Runtime,
    temperature_c: float,
    point: OperatingPoint | None,
    penalty: float,
    in_cache: bool,
    notes: list[str],
    *,
    spill: float | None,
    footprint: float,
    io_tensors: int,
    host_bytes: float,
    scaling: Scaling,
) -> StageCost:
    clock = (point or clocks.FULL).clock_share
    peaks, j_per_flop = _coefficients(stage.work, accelerator, runtime, notes)
    flops = np.array([w.flops for w in stage.work] or [0.0])
    peak = float(roofline.blended_peak(flops, np.array(peaks or [1.0]))) * float(scaling.peak)
    bandwidth = (
        domain.bandwidth_bytes_per_s.value * float(scaling.bandwidth) * bandwidth_share(accelerator, runtime, notes)
    )
    linked = 0.0
    measured = _measured(stage, accelerator, runtime, footprint, (host_bytes, io_tensors), notes)
    if spill is None:
        moved = (stage.weight_bytes + stage.activation_bytes + stage.kv_bytes) * penalty
        traffic, cached = _split_traffic(stage, moved, penalty, in_cache, accelerator)
        host_bytes = 0.0
    else:
        traffic, cached = 0.0, 0.0
        linked = (stage.weight_bytes * spill + stage.kv_bytes) * penalty
    node_s = runtime.node_overhead_s.value * stage.nodes if runtime.node_overhead_s else 0.0
    total = float(flops.sum())
    cache_s = cached / runtime.cache_bytes_per_s.value if runtime.cache_bytes_per_s else 0.0
    if total + traffic + linked + host_bytes + cache_s + node_s == 0.0:
        return StageCost(0.0, 0.0, _static_w(accelerator, temperature_c), 1.0, "compute", 0.0)
    crossing_s = roofline.partition_time(
        total, traffic, coverage=1.0, host_peak_flops_per_s=peak, host_bandwidth_bytes_per_s=bandwidth, boundaries=1.0,
        boundary_bytes=host_bytes, boundary_bytes_per_s=bandwidth,
    )  # fmt: skip
    roof = roofline.attainable(
        total, traffic, peak, bandwidth, cache_s=cache_s, link_s=linked / bandwidth, partition_s=crossing_s,
        overhead_s=node_s,
    )  # fmt: skip
    time_s, dasi, binding, memory_s = float(roof.time_s), float(roof.dasi), str(roof.binding), float(roof.memory_s)
    if measured is not None:
        memory_s = measured.memory_s * penalty / float(scaling.bandwidth)
        node_s = measured.launches_s / clock
        time_s = measured.arithmetic_s / float(scaling.peak) + memory_s + node_s
        dasi, binding = min(1.0, dasi * float(roof.time_s) / time_s) if time_s > 0 else dasi, measured.binding
    static_w = _static_w(accelerator, temperature_c)
    switching_j: float | None = None
    stretched_s = 0.0
    if all(c is not None for c in j_per_flop):
        costs = np.array([c for c in j_per_flop if c is not None] or [0.0]) * float(scaling.energy_per_op)
        blended = float(energy_model.blended_j_per_flop(flops, costs))
        crossing = traffic + linked + host_bytes
        switching_j = float(energy_model.switching_energy(total, crossing, blended, domain.energy_j_per_byte.value))
        cap_w = _cap_w(accelerator, point)
        if cap_w is not None and cap_w > static_w and time_s > 0:
            capped = energy_model.stage_energy(switching_j, time_s, static_w, cap_w)
            stretched_s = float(capped.stretch_s)
            time_s = float(capped.time_s)
    return StageCost(
        time_s, switching_j, static_w, dasi, binding, stretched_s, min(node_s, time_s), memory_s, measured is None
    )


def _measured(
    stage: Stage,
    accelerator: Accelerator,
    runtime: Runtime,
    footprint_bytes: float,
    io: tuple[float, int],
    notes: list[str],
) -> kernel_amounts.KernelSeconds | None:
    """The stage's time from kernels measured on this runtime; None where its graph or a kind of kernel is unknown."""
    times = runtime.kernel_times
    if times is None or not stage.kernels:
        return None
    found = kernel_amounts.amounts(stage.kernels, footprint_bytes, kernel_amounts.caches_of(times), io)
    parts = kernel_amounts.seconds(times, found)
    if isinstance(parts, str):
        notes.append(
            f"{accelerator.name}: {parts} never measured on {runtime.provider}, share of the peak used instead"
        )
        return None
    notes += [f"{accelerator.name}: {line} in measured kernel times" for line in parts.substitutes]
    return parts


def _spill_share(workload: Workload, accelerator: Accelerator) -> float | None:
    """Share of the weights that crosses the link in every inference; None where the accelerator is not behind one."""
    if accelerator.sram_bytes is None:
        return None
    weights = sum(s.weight_bytes for s in workload.stages)
    excess = float(roofline.link_time(weights, accelerator.sram_bytes.value, 1.0))
    return excess / weights if weights > 0 else 0.0


def _split_traffic(
    stage: Stage, moved: float, penalty: float, in_cache: bool, accelerator: Accelerator
) -> tuple[float, float]:
    """Bytes through memory and bytes through the cache.

    Everything stays in the cache where the whole model fits; otherwise the activations do where the largest set of
    them alive at one time fits. Weights are then read once per inference from memory.
    """
    if in_cache:
        return 0.0, moved
    cache = accelerator.cache_bytes
    if cache is not None and stage.arena_bytes <= cache.value:
        return moved - stage.activation_bytes * penalty, stage.activation_bytes * penalty
    return moved, 0.0


def _coefficients(
    work: Sequence[Work], accelerator: Accelerator, runtime: Runtime, notes: list[str]
) -> tuple[list[float], list[float | None]]:
    peaks, costs = [], []
    for item in work:
        precision = _computed_in(item.precision, accelerator, notes)
        share = _share(item.family, precision, accelerator, runtime, notes)
        peaks.append(accelerator.peak_flops_per_s[precision].value * share)
        priced = priced_as(precision, accelerator)
        if priced is None:
            notes.append(f"{accelerator.name}: energy per operation in {precision} unknown, so joules are unknown")
        elif priced != precision:
            notes.append(f"{accelerator.name}: energy per operation in {precision} unknown, that in {priced} used")
        costs.append(None if priced is None else accelerator.energy_j_per_flop[priced].value)
    return peaks, costs


def priced_as(precision: Precision, accelerator: Accelerator) -> Precision | None:
    """The precision whose energy per operation counts: its own, else the next wider one that the profile knows.

    A wider operation takes more joules, so what stands in is an upper bound.
    """
    known = accelerator.energy_j_per_flop
    wider = () if precision == "fp32" else _WIDER[precision]
    return next((p for p in (precision, *wider) if p in known), None)


def computed_in(precision: Precision, accelerator: Accelerator) -> Precision:
    """The precision an accelerator computes a kind of operands in: their own, the next wider one, or any it has."""
    for usable in (precision, *_WIDER[precision]):
        if usable in accelerator.peak_flops_per_s:
            return usable
    return next(iter(accelerator.peak_flops_per_s))


def efficiency_of(family: Family, precision: Precision, runtime: Runtime) -> Efficiency | None:
    """The profile's efficiency that stands for a family: its own or its nearest relative's; None: one is assumed."""
    table = {(e.family, e.precision): e for e in runtime.compute_efficiency}
    if (family, precision) in table:
        return table[family, precision]
    relatives = [e for (f, _), e in table.items() if f == family]
    if not relatives and family in _PRODUCTS:
        relatives = [e for (f, p), e in table.items() if f in _PRODUCTS and p == precision]
    return relatives[0] if relatives else None


def _computed_in(precision: Precision, accelerator: Accelerator, notes: list[str]) -> Precision:
    usable = computed_in(precision, accelerator)
    if usable != precision:
        notes.append(f"{accelerator.name}: no {precision} peak in the profile, {usable} used")
    return usable


def _share(family: Family, precision: Precision, accelerator: Accelerator, runtime: Runtime, notes: list[str]) -> float:
    found = efficiency_of(family, precision, runtime)
    if found is not None and (found.family, found.precision) == (family, precision):
        return found.share.value
    share = ASSUMED_SHARE if found is None else found.share.value
    origin = "an assumption" if found is None else "its nearest relative"
    notes.append(f"{accelerator.name}: efficiency of {family} in {precision} unknown, {share:.2f} from {origin}")
    return share


def bandwidth_share(accelerator: Accelerator, runtime: Runtime, notes: list[str] | None = None) -> float:
    """Share of its domain's bandwidth that it draws through a runtime; what had to be assumed goes to `notes`."""
    said = [] if notes is None else notes
    if runtime.bandwidth_efficiency is not None:
        return runtime.bandwidth_efficiency.value
    if accelerator.sram_bytes is not None:
        said.append(f"{accelerator.name}: achieved link bandwidth unknown, the published rate of the link used")
        return 1.0
    said.append(f"{accelerator.name}: achieved bandwidth unknown, {ASSUMED_BANDWIDTH_SHARE:.0%} of peak assumed")
    return ASSUMED_BANDWIDTH_SHARE


def _static_w(accelerator: Accelerator, temperature_c: float) -> float:
    base_w = accelerator.base_power_w.value
    leak = accelerator.leakage
    if leak is None:
        return base_w
    leak_w = leakage.leakage_power(temperature_c, leak.power_w.value, leak.activation_energy_ev.value, leak.reference_c)
    return base_w + float(leak_w)


def _penalty(held_bytes: float, domain: MemoryDomain, accelerator: Accelerator) -> float:
    ratio = occupancy(held_bytes, domain)
    return float(pressure.penalty(min(ratio, 1.0), knee=accelerator.cpq_knee, slope=accelerator.cpq_kappa))


def occupancy(held_bytes: float, domain: MemoryDomain) -> float:
    """CPQ of holding so many bytes in a domain; above 1 it does not fit."""
    return float(pressure.cpq(held_bytes, 0.0, 0.0, domain.capacity_bytes.value, domain.reserved_bytes.value))
