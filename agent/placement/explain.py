"""Explain: one placement taken apart – from a second or a joule back to coefficients and where they come from."""

from __future__ import annotations

from agent.placement import costing
from agent.placement.knobs import KeyPath, Knob, knobs
from agent.placement.surroundings import Surroundings, surroundings
from agent.records import record
from agent.schema.device import Accelerator, DeviceProfile, Runtime
from agent.schema.workload import Workload

_STEP = 0.01
"""Relative change of a coefficient by which its effect is found."""
_BYTES = ("memory", "cache", "link")
"""Ceilings of what is moved; the others are of what is computed."""
_LINEAR = ("energy per", "power of being on", "leakage")


@record(frozen=True)
class Coefficient:
    """One number that went into the answer.

    place: key in the profile; stands: whether it is there, or was assumed by the model. energy_j: joules of the answer
    that are this coefficient times what it multiplies; None for a speed. energy_per_percent and latency_per_percent:
    relative change of joules and of seconds for one percent more of it, by costing anew.
    """

    name: str
    value: float
    unit: str
    provenance: str
    source: str
    place: KeyPath
    stands: bool
    energy_j: float | None
    energy_per_percent: float | None
    latency_per_percent: float


@record(frozen=True)
class Explanation:
    """One placement: where its time and energy go, and what they rest on."""

    accelerator: str
    provider: str
    time_s: float
    energy_j: float | None
    compute_bound_s: float
    memory_bound_s: float
    launches_s: float
    """Launching the nodes of the graph, beside what they compute and move."""
    overhead_s: float
    switching_j: float | None
    static_j: float | None
    thermal_yield: float | None
    """Φ: share of the energy that switches; None where a coefficient is unknown."""
    dasi: float
    """Share of the attainable compute peak in use, weighted by time."""
    coefficients: tuple[Coefficient, ...]
    notes: tuple[str, ...]
    surroundings: Surroundings


def explain(
    workload: Workload,
    profile: DeviceProfile,
    accelerator: Accelerator,
    runtime: Runtime,
    temperature_c: float = costing.REFERENCE_TEMPERATURE_C,
) -> Explanation:
    """Take the cost of a whole model on one accelerator apart."""
    cost = costing.model_cost(workload, profile, accelerator, runtime, temperature_c)
    parts_s = [(s.binding in _BYTES, s.time_s - s.launches_s) for s in cost.stages]
    launches_s = sum(s.launches_s for s in cost.stages)
    stages_s = sum(s.time_s for s in cost.stages)
    static_j = None if cost.static_w is None else cost.static_w * cost.time_s
    thermal_yield = None
    if cost.switching_j is not None and cost.energy_j:
        thermal_yield = cost.switching_j / cost.energy_j
    rows = tuple(
        _coefficient(knob, cost, recost(workload, profile, accelerator, runtime, knob, 1.0 + _STEP, temperature_c))
        for knob in knobs(workload, profile, accelerator, runtime)
    )
    return Explanation(
        accelerator=accelerator.name, provider=runtime.provider, time_s=cost.time_s, energy_j=cost.energy_j,
        compute_bound_s=sum(part_s for moved, part_s in parts_s if not moved),
        memory_bound_s=sum(part_s for moved, part_s in parts_s if moved), launches_s=launches_s,
        overhead_s=cost.time_s - stages_s,
        switching_j=cost.switching_j, static_j=static_j, thermal_yield=thermal_yield,
        dasi=1.0 - cost.underutilisation, coefficients=rows, notes=cost.notes,
        surroundings=surroundings(workload, profile, accelerator, runtime, cost, temperature_c),
    )  # fmt: skip


def recost(
    workload: Workload, profile: DeviceProfile, accelerator: Accelerator, runtime: Runtime, knob: Knob, factor: float,
    temperature_c: float,
) -> costing.ModelCost:  # fmt: skip
    """The cost of the whole model there with one coefficient multiplied."""
    changed = knob.scaled(profile, factor)
    again = changed.accelerator(accelerator.name)
    runtime = again.runtimes[accelerator.runtimes.index(runtime)]
    return costing.model_cost(workload, changed, again, runtime, temperature_c)


def _coefficient(knob: Knob, cost: costing.ModelCost, more: costing.ModelCost) -> Coefficient:
    energy_j = per_percent = None
    if cost.energy_j and more.energy_j is not None:
        per_percent = more.energy_j / cost.energy_j - 1.0
        if knob.name.startswith(_LINEAR):
            energy_j = (more.energy_j - cost.energy_j) / _STEP
    return Coefficient(
        knob.name, knob.quantity.value, knob.unit, knob.quantity.provenance, knob.quantity.source, knob.place,
        knob.stands, energy_j, per_percent, more.time_s / cost.time_s - 1.0,
    )  # fmt: skip
