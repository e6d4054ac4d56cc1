"""Candidates: which accelerators may run a model, at what cost, and why the others may not.

Also the order of whole-model placements, which is what the agent serves: `qeil plan`, `qeil explain` and the agent all
ask here, so that they agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.errors import PlacementError
from agent.physics import pressure
from agent.placement import costing
from agent.placement.ranking import Option, rank
from agent.placement.state import State, meant
from agent.records import record
from agent.schema.device import Accelerator, DeviceProfile, MemoryDomain, OperatingPoint, Runtime
from agent.schema.policy import Policy
from agent.schema.workload import Workload

Reasons = list[tuple[str, str]]
"""Accelerator and why it is left out."""


@record(frozen=True)
class Candidate:
    """A whole model on one accelerator."""

    accelerator: Accelerator
    runtime: Runtime
    cost: costing.ModelCost


def candidates(
    workload: Workload,
    profile: DeviceProfile,
    policy: Policy,
    state: State | None = None,
    points: Mapping[str, OperatingPoint] | None = None,
) -> tuple[list[Candidate], Reasons]:
    """Accelerators that may and can run the workload, in the profile's order, and why the others cannot.

    points: operating point by accelerator; absent: the profile's full figures.
    Raises PlacementError where the policy pins the model to accelerators that this board does not have.
    """
    now = state or State()
    check_pins(policy, workload.model, profile)
    operators = sorted({op for stage in workload.stages for op in stage.operators})
    found: list[Candidate] = []
    rejected: Reasons = []
    for accelerator in profile.accelerators:
        name = accelerator.name
        why = "it does not answer" if name in now.lost else forbidden(policy, workload.model, name)
        why = why or costing.cannot_compute(workload, accelerator)
        runtime = why or costing.choose_runtime(accelerator, workload.format, operators)
        if isinstance(runtime, str):
            rejected.append((name, runtime))
            continue
        temperature_c = now.temperatures_c.get(name, costing.REFERENCE_TEMPERATURE_C)
        point = (points or {}).get(name)
        cost = costing.model_cost(workload, profile, accelerator, runtime, temperature_c, point)
        if cost.over_cap is not None:
            rejected.append((name, cost.over_cap))
            continue
        found.append(Candidate(accelerator, runtime, cost))
    return found, rejected


def whole_models(
    workload: Workload, profile: DeviceProfile, policy: Policy, state: State | None = None
) -> tuple[list[Candidate], Reasons]:
    """The placements of the whole model on one accelerator that the policy admits, best first, and why not the others.

    This is what the agent serves: the first one, and those after it when it fails.
    """
    found, rejected = candidates(workload, profile, policy, state)
    ranked, refused = admit(found, profile, policy, state)
    return ranked, rejected + refused


def admit(
    found: Sequence[Candidate], profile: DeviceProfile, policy: Policy, state: State | None = None
) -> tuple[list[Candidate], Reasons]:
    """Those that keep the policy's limits, best first, and what each of the others breaks.

    A placement that takes longer than a request may by default stands behind all that do not: a client may still grant
    it the time.
    """
    admitted: list[Candidate] = []
    refused: Reasons = []
    for candidate in found:
        problem = violates(candidate, policy, profile, state)
        if problem is None:
            admitted.append(candidate)
        else:
            refused.append((candidate.accelerator.name, problem))
    by_name = {c.accelerator.name: c for c in admitted}
    order = rank(options(admitted), policy.objective, policy.admission.default_deadline_s)
    return [by_name[o.name] for o in order], refused


def as_measured(found: Sequence[Candidate], times_s: Mapping[str, float], policy: Policy) -> list[Candidate]:
    """The candidates best first by the times measured, by accelerator, and the joules that follow from them.

    One that was not measured is taken to err as those that were do (geometric mean): that the whole board is slower
    than predicted decides nothing. The candidates themselves keep their predictions.
    """
    errors = {
        c.accelerator.name: times_s[c.accelerator.name] / c.cost.time_s
        for c in found
        if times_s.get(c.accelerator.name, 0.0) > 0 and c.cost.time_s > 0
    }
    if not errors:
        return list(found)
    usual = math.exp(math.fsum(map(math.log, errors.values())) / len(errors))
    corrected = [
        replace(c, cost=replace(c.cost, time_s=c.cost.time_s * errors.get(c.accelerator.name, usual))) for c in found
    ]
    by_name = {c.accelerator.name: c for c in corrected}
    order = rank(options(corrected), policy.objective, policy.admission.default_deadline_s)
    return [by_name[o.name] for o in order]


def options(found: Sequence[Candidate]) -> list[Option]:
    """The objectives of whole-model placements, to rank."""
    return [Option(c.accelerator.name, c.cost.energy_j, c.cost.time_s, c.cost.underutilisation) for c in found]


def violates(candidate: Candidate, policy: Policy, profile: DeviceProfile, state: State | None = None) -> str | None:
    """Which limit of the policy the whole model on that accelerator breaks; None where it keeps all."""
    cost = candidate.cost
    if cost.over_cap is not None:
        return cost.over_cap
    domain = profile.memory_domain(candidate.accelerator.memory_domain)
    room = domain.capacity_bytes.value - domain.reserved_bytes.value
    if cost.held_bytes > room_bytes(profile, domain.name, policy, state):
        taken = room - (state or State()).free_bytes.get(domain.name, room)
        ratio = (cost.held_bytes + max(0.0, taken)) / room
        allowed = f"(memory.max_cpq allows {policy.memory.max_cpq:.0%})"
        return f"needs {ratio:.0%} of {domain.name} {allowed}{_from_swap(cost.held_bytes, domain, room - taken)}"
    if policy.power_cap_w is not None and cost.energy_j is not None and cost.time_s > 0:
        mean_w = cost.energy_j / cost.time_s
        if mean_w > policy.power_cap_w:
            alone = f", {cost.static_w:.4g} W of it for being on" if cost.static_w else ""
            return f"draws {mean_w:.1f} W modelled{alone} (power_cap_w allows {policy.power_cap_w:g} W)"
    return None


def _from_swap(held_bytes: float, domain: MemoryDomain, free_bytes: float) -> str:
    """What reading the excess from the backing store would add to every pass, where the profile names one."""
    store = domain.backing_bytes_per_s
    if store is None or not 0 < free_bytes < held_bytes:
        return ""
    return f"; swap would add {float(pressure.swap_time(held_bytes, free_bytes, store.value)):.3g} s to every pass"


def room_bytes(profile: DeviceProfile, domain: str, policy: Policy, state: State | None = None) -> float:
    """Bytes of a domain that a placement may hold: max_cpq of what is not reserved, less what others hold now."""
    memory = profile.memory_domain(domain)
    room = memory.capacity_bytes.value - memory.reserved_bytes.value
    free = (state or State()).free_bytes.get(domain, room)
    return max(0.0, room * policy.memory.max_cpq - max(0.0, room - free))


def check_left(workload: Workload, profile: DeviceProfile, policy: Policy, state: State) -> None:
    """PlacementError where all accelerators that might run the workload are lost, with what keeps out the others."""
    if not state.lost:
        return
    found, rejected = candidates(workload, profile, policy, replace(state, lost=frozenset()))
    names = [c.accelerator.name for c in found]
    if names and not set(names) - state.lost:
        others = "".join(f"; {name}: {why}" for name, why in rejected)
        raise PlacementError(
            f"nothing is left to run {workload.model} on: {' and '.join(names)} of {profile.name} "
            f"{'is' if len(names) == 1 else 'are'} lost{others}",
            constraint="lost",
        )


def forbidden(policy: Policy, model: str, accelerator: str) -> str | None:
    """Why the policy keeps the model off the accelerator; None where it does not."""
    if any(rule.model in ("*", model) and rule.accelerator == accelerator for rule in policy.forbidden):
        return "forbidden by the policy"
    pins = [rule.accelerator for rule in policy.pinned if rule.model in ("*", model)]
    if pins and accelerator not in pins:
        return f"the policy pins the model to {', '.join(pins)}"
    return None


def check_pins(policy: Policy, model: str, profile: DeviceProfile) -> None:
    """PlacementError where a pin of the model names only accelerators that the board does not have."""
    pins = [rule.accelerator for rule in policy.pinned if rule.model in ("*", model)]
    known = [a.name for a in profile.accelerators]
    if pins and not set(pins) & set(known):
        raise PlacementError(
            f"the policy pins the model to {', '.join(pins)}; {profile.name} has only {', '.join(known)}"
            + meant(pins[0], known),
            constraint="pinned",
        )
