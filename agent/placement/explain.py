"""Explain: from a second or joule of a placement back to coefficients and sources, and what would flip the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.placement import costing
from agent.placement.preference import terms
from agent.placement.ranking import Option, objectives, rank
from agent.schema.base import Quantity
from agent.schema.device import Accelerator, DeviceProfile, Runtime
from agent.schema.policy import Objective, Weights
from agent.schema.workload import Family, Precision, Workload


@dataclass(frozen=True)
class Coefficient:
    """One number that went into the answer."""

    name: str
    value: float
    unit: str
    provenance: str
    source: str


@dataclass(frozen=True)
class Explanation:
    """One placement: where its time and energy go, and what they rest on."""

    accelerator: str
    provider: str
    time_s: float
    energy_j: float | None
    compute_bound_s: float
    memory_bound_s: float
    overhead_s: float
    switching_j: float | None
    static_j: float | None
    thermal_yield: float | None
    """Φ: share of the energy that switches; None where a coefficient is unknown."""
    dasi: float
    """Share of the attainable compute peak in use, weighted by time."""
    coefficients: tuple[Coefficient, ...]
    notes: tuple[str, ...]


def explain(
    workload: Workload,
    profile: DeviceProfile,
    accelerator: Accelerator,
    runtime: Runtime,
    temperature_c: float = costing.REFERENCE_TEMPERATURE_C,
) -> Explanation:
    """Take the cost of a whole model on one accelerator apart."""
    cost = costing.model_cost(workload, profile, accelerator, runtime, temperature_c)
    bound_s = {name: sum(s.time_s for s in cost.stages if s.binding == name) for name in ("compute", "memory", "cache")}
    stages_s = sum(s.time_s for s in cost.stages)
    static_j = None if cost.static_w is None else cost.static_w * cost.time_s
    thermal_yield = None
    if cost.switching_j is not None and cost.energy_j:
        thermal_yield = cost.switching_j / cost.energy_j
    return Explanation(
        accelerator=accelerator.name, provider=runtime.provider, time_s=cost.time_s, energy_j=cost.energy_j,
        compute_bound_s=bound_s["compute"], memory_bound_s=bound_s["memory"] + bound_s["cache"],
        overhead_s=cost.time_s - stages_s,
        switching_j=cost.switching_j, static_j=static_j, thermal_yield=thermal_yield,
        dasi=1.0 - cost.underutilisation, coefficients=_coefficients(workload, profile, accelerator, runtime),
        notes=cost.notes,
    )  # fmt: skip


def _coefficients(
    workload: Workload, profile: DeviceProfile, accelerator: Accelerator, runtime: Runtime
) -> tuple[Coefficient, ...]:
    domain = profile.memory_domain(accelerator.memory_domain)
    used = sorted({(w.family, w.precision) for s in workload.stages for w in s.work if w.flops > 0})
    rows = [
        _row(f"peak {precision}", accelerator.peak_flops_per_s[precision], "operations/s")
        for precision in sorted({p for _, p in used})
        if precision in accelerator.peak_flops_per_s
    ]
    rows += [_row(f"share of it by {f} in {p}", share, "of peak") for f, p, share in _shares(runtime, used)]
    rows.append(_row(f"bandwidth of {domain.name}", domain.bandwidth_bytes_per_s, "bytes/s"))
    optional = (
        ("share of it", runtime.bandwidth_efficiency, "of peak"),
        ("bandwidth in cache", runtime.cache_bytes_per_s, "bytes/s"),
        ("dispatch", runtime.dispatch_overhead_s, "s per inference"),
        ("node", runtime.node_overhead_s, "s per graph node"),
    )
    rows += [_row(name, quantity, unit) for name, quantity, unit in optional if quantity is not None]
    rows += [
        _row(f"energy per operation in {precision}", quantity, "J")
        for precision, quantity in accelerator.energy_j_per_flop.items()
        if any(p == precision for _, p in used)
    ]
    rows.append(_row(f"energy per byte of {domain.name}", domain.energy_j_per_byte, "J"))
    rows.append(_row("power of being on", accelerator.base_power_w, "W"))
    if accelerator.leakage is not None:
        rows.append(_row(f"leakage at {accelerator.leakage.reference_c:g} °C", accelerator.leakage.power_w, "W"))
    return tuple(rows)


def _shares(runtime: Runtime, used: Sequence[tuple[Family, Precision]]) -> list[tuple[str, str, Quantity]]:
    return [(e.family, e.precision, e.share) for e in runtime.compute_efficiency if (e.family, e.precision) in used]


def _row(name: str, quantity: Quantity, unit: str) -> Coefficient:
    return Coefficient(name, quantity.value, unit, quantity.provenance, quantity.source)


def flip(options: Sequence[Option], objective: Objective) -> str:
    """What would make the runner-up the first choice, as one sentence."""
    ranked = rank(options, objective)
    if len(ranked) < 2:
        return "it is the only placement that may run the model"
    first, second = ranked[0], ranked[1]
    if objective.method != "weights" or objective.weights is None:
        return f"runner-up is {second.name}; the policy's {objective.method} objective prefers {first.name}"
    if first.energy_j is None or second.energy_j is None:
        return f"runner-up is {second.name}; energy is unknown, so latency alone decides"
    if second.energy_j >= first.energy_j and second.latency_s >= first.latency_s:
        return f"runner-up is {second.name}, worse in energy and in latency: no weights would choose it"
    return _break_even(first, second, objective.weights)


def _break_even(first: Option, second: Option, weights: Weights) -> str:
    rows = terms(objectives([first, second]))
    gain_energy, gain_latency, gain_use = (rows[0] - rows[1]).tolist()
    if gain_energy > 0:
        needed = -(weights.latency * gain_latency + weights.underutilisation * gain_use) / gain_energy
        return (
            f"runner-up is {second.name}; it would be chosen from weights.energy {needed:.3g} (now {weights.energy:g})"
        )
    needed = -(weights.energy * gain_energy + weights.underutilisation * gain_use) / gain_latency
    return f"runner-up is {second.name}; it would be chosen from weights.latency {needed:.3g} (now {weights.latency:g})"
