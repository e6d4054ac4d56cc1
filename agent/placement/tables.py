"""Tables: from a workload, a profile and a policy to the cost tables of a placement problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agent.errors import PlacementError
from agent.placement import costing
from agent.placement.problem import Problem
from agent.schema.device import Accelerator, DeviceProfile, Link, Runtime
from agent.schema.policy import Policy
from agent.schema.workload import Stage, Workload

ASSUMED_LINK_BYTES_PER_S = 4.0e9
ASSUMED_LINK_OVERHEAD_S = 50e-6
ASSUMED_LINK_J_PER_BYTE = 60e-12
"""Used between memory domains whose link the profile does not describe; noted wherever used. 4 GB/s and 50 µs are a
PCIe 3 x4 copy with its synchronisation; 60 pJ/byte is one DRAM read and write (physics coefficients, LPDDR4)."""
SHARED_MEMORY_OVERHEAD_S = 20e-6
"""Hand-over between two accelerators on one memory: a fence and a wake-up, no copy."""


@dataclass(frozen=True)
class Tables:
    """The problem and what was left out or assumed while making it."""

    problem: Problem
    notes: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...]


def make_tables(
    workload: Workload, profile: DeviceProfile, policy: Policy, temperatures_c: Mapping[str, float] | None = None
) -> Tables:
    """Cost tables of every stage on every accelerator that could run it.

    Raises PlacementError where no accelerator is left, with each one's reason.
    """
    temperatures = temperatures_c or {}
    usable: list[tuple[Accelerator, Runtime]] = []
    costs: list[costing.ModelCost] = []
    excluded: list[tuple[str, str]] = []
    notes: list[str] = []
    operators = sorted({op for stage in workload.stages for op in stage.operators})
    for accelerator in profile.accelerators:
        why = forbidden(policy, workload.model, accelerator.name)
        why = why or costing.cannot_compute(workload, accelerator)
        runtime = why or costing.choose_runtime(accelerator, workload.format, operators)
        if isinstance(runtime, str):
            excluded.append((accelerator.name, runtime))
            continue
        temperature_c = temperatures.get(accelerator.name, costing.REFERENCE_TEMPERATURE_C)
        cost = costing.model_cost(workload, profile, accelerator, runtime, temperature_c)
        if cost.energy_j is None:
            excluded.append(
                (accelerator.name, "its energy per operation is unknown, so it cannot be compared in joules")
            )
            continue
        notes += cost.notes
        usable.append((accelerator, runtime))
        costs.append(cost)
    if not usable:
        raise PlacementError("; ".join(f"{name}: {reason}" for name, reason in excluded) or "the profile is empty")
    problem = _problem(workload, profile, policy, usable, costs, notes)
    return Tables(problem, tuple(dict.fromkeys(notes)), tuple(excluded))


def _problem(
    workload: Workload,
    profile: DeviceProfile,
    policy: Policy,
    usable: list[tuple[Accelerator, Runtime]],
    costs: list[costing.ModelCost],
    notes: list[str],
) -> Problem:
    stages, count = len(workload.stages), len(usable)
    overhead = np.array([r.dispatch_overhead_s.value if r.dispatch_overhead_s else 0.0 for _, r in usable])
    time = np.array([[c.stages[s].time_s for c in costs] for s in range(stages)])
    static = np.array([c.static_w or 0.0 for c in costs])
    energy = np.array([[c.stages[s].energy_j or 0.0 for c in costs] for s in range(stages)])
    used = np.array([[c.stages[s].time_s * c.stages[s].dasi for c in costs] for s in range(stages)])
    latency_transfer = np.zeros((max(0, stages - 1), count, count))
    energy_transfer = np.zeros_like(latency_transfer)
    for a in range(count):
        for b in range(count):
            if a != b:
                per_byte_s, fixed_s, per_byte_j = transfer(profile, usable[a][0], usable[b][0], notes)
                sizes = np.array([s.output_bytes for s in workload.stages[:-1]])
                latency_transfer[:, a, b] = sizes * per_byte_s + fixed_s + overhead[b]
                energy_transfer[:, a, b] = sizes * per_byte_j + static[b] * overhead[b]
    time[0] += overhead
    energy[0] += static * overhead
    domains = sorted({a.memory_domain for a, _ in usable})
    return Problem(
        latency=time, energy=energy, busy_util_num=np.minimum(used, time), busy_den=time,
        transfer_latency=latency_transfer, transfer_energy=energy_transfer,
        memory=np.array([[_held(s)] * count for s in workload.stages]),
        capacity=np.array([_capacity(profile, name, policy) for name in domains]),
        allowed=np.ones((stages, count), dtype=bool),
        memory_domain=np.array([domains.index(a.memory_domain) for a, _ in usable]),
        accelerators=tuple(a.name for a, _ in usable), stages=tuple(s.name for s in workload.stages),
    )  # fmt: skip


def _held(stage: Stage) -> float:
    return stage.weight_bytes + stage.idle_weight_bytes + stage.arena_bytes + stage.kv_bytes


def _capacity(profile: DeviceProfile, domain: str, policy: Policy) -> float:
    memory = profile.memory_domain(domain)
    return (memory.capacity_bytes.value - memory.reserved_bytes.value) * policy.memory.max_cpq


def transfer(
    profile: DeviceProfile, source: Accelerator, target: Accelerator, notes: list[str]
) -> tuple[float, float, float]:
    """(s/byte, fixed s, J/byte) between two accelerators; a link that had to be assumed is added to `notes`."""
    if source.memory_domain == target.memory_domain:
        return 0.0, SHARED_MEMORY_OVERHEAD_S, 0.0
    link = _link(profile, source, target)
    if link is None:
        notes.append(f"link {source.memory_domain}–{target.memory_domain} is not in the profile, 4 GB/s assumed")
        return 1.0 / ASSUMED_LINK_BYTES_PER_S, ASSUMED_LINK_OVERHEAD_S, ASSUMED_LINK_J_PER_BYTE
    return 1.0 / link.bandwidth_bytes_per_s.value, link.overhead_s.value, link.energy_j_per_byte.value


def _link(profile: DeviceProfile, source: Accelerator, target: Accelerator) -> Link | None:
    ends = ({source.name, source.memory_domain}, {target.name, target.memory_domain})
    for link in profile.links:
        first, second = link.between
        if (first in ends[0] and second in ends[1]) or (first in ends[1] and second in ends[0]):
            return link
    return None


def forbidden(policy: Policy, model: str, accelerator: str) -> str | None:
    """Why the policy keeps the model off the accelerator; None where it does not."""
    if any(rule.model in ("*", model) and rule.accelerator == accelerator for rule in policy.forbidden):
        return "forbidden by the policy"
    pins = [rule.accelerator for rule in policy.pinned if rule.model in ("*", model)]
    if pins and accelerator not in pins:
        return f"the policy pins the model to {', '.join(pins)}"
    return None
