"""Tables: from a workload, a profile and a policy to the cost tables of a placement problem."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from agent.errors import PlacementError
from agent.placement import costing
from agent.placement.candidates import Candidate, candidates
from agent.placement.memory import Held, Memory, memory_of
from agent.placement.pace import Pace, pace_of
from agent.placement.problem import Floats, Ints, Problem
from agent.placement.state import State
from agent.records import record
from agent.schema.device import Accelerator, DeviceProfile, Link, OperatingPoint
from agent.schema.policy import Policy
from agent.schema.workload import Workload

ASSUMED_LINK_BYTES_PER_S = 4.0e9
ASSUMED_LINK_OVERHEAD_S = 50e-6
ASSUMED_LINK_J_PER_BYTE = 60e-12
"""Used between memory domains whose link the profile does not describe; noted wherever used. 4 GB/s and 50 µs are a
PCIe 3 x4 copy with its synchronisation; 60 pJ/byte is one DRAM read and write (physics coefficients, LPDDR4)."""
WHOLE_SHARE, WHOLE_NODES = 0.4, 8
"""Share of the work and number of nodes from which a stage that could not be cut is mentioned."""
SHARED_MEMORY_OVERHEAD_S = 20e-6
"""Hand-over between two accelerators on one memory: a fence and a wake-up, no copy."""


@record(frozen=True)
class Tables:
    """The problem, how fast its units can take requests one after another, and what was left out or assumed.

    places: accelerators behind each choice of the problem, one for each phase it is about. silicon: physical unit
    behind each choice; choices of one unit cannot work at the same time. memory: what the capacities come from.
    """

    problem: Problem
    notes: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...]
    pace: Pace
    places: tuple[tuple[str, ...], ...]
    silicon: tuple[str, ...]
    memory: Memory | None = None

    def short(self, lost: Collection[str] = ()) -> PlacementError | None:
        """Why nothing fits in memory, without some accelerators, in what its owner can grant; None: not known here."""
        if self.memory is None:
            return None
        usable = np.array([not set(p) & set(lost) for p in self.places])
        return self.memory.error(np.repeat(usable[None, :], self.problem.stage_count, axis=0))


def make_tables(
    workload: Workload,
    profile: DeviceProfile,
    policy: Policy,
    temperatures_c: Mapping[str, float] | None = None,
    *,
    state: State | None = None,
    points: Mapping[str, OperatingPoint] | None = None,
) -> Tables:
    """Cost tables of every stage on every accelerator that could run it.

    temperatures_c: junctions, short for a state with nothing else. state: the board now; lost accelerators are left
    out, free memory bounds the capacities, queues delay the entry to an accelerator. points: operating points by
    accelerator; absent: the profile's full figures.

    Raises:
        PlacementError: no accelerator is left, with each one's reason.
        ValueError: the state names something that the profile does not have, or holds no sensible number.
    """
    now = state or State(temperatures_c=temperatures_c or {})
    now.check(profile)
    found, excluded = candidates(workload, profile, policy, now, points)
    usable: list[Candidate] = []
    notes: list[str] = []
    for candidate in found:
        if candidate.cost.energy_j is None:
            why = "its energy per operation is unknown, so it cannot be compared in joules"
            excluded.append((candidate.accelerator.name, why))
            continue
        notes += candidate.cost.notes
        usable.append(candidate)
    if not usable:
        raise PlacementError("; ".join(f"{name}: {reason}" for name, reason in excluded) or "the profile is empty")
    problem, waits, memory = _problem(workload, profile, policy, now, usable, notes)
    silicon = tuple(c.accelerator.silicon or c.accelerator.name for c in usable)
    bound = np.array([[c.cost.stages[s].binding == "memory" for c in usable] for s in range(len(workload.stages))])
    domains = tuple(c.accelerator.memory_domain for c in usable)
    notes += _chain_notes(workload)
    shared = np.array([domains.count(domain) > 1 for domain in domains])
    if bound[:, shared].any():
        notes.append("period: stages bound by one memory's bandwidth take turns, so it is an upper bound")
    # A queue is waited for once, not by every request of a stream.
    entering = np.where(np.eye(len(usable), dtype=bool), 0.0, waits[1:, None, :])
    pace = pace_of(
        np.maximum(0.0, problem.latency - np.eye(len(waits), 1) * waits[0]),
        np.maximum(0.0, problem.transfer_latency - entering), silicon, domains, bound,
    )  # fmt: skip
    places = tuple((name,) for name in problem.accelerators)
    return Tables(problem, tuple(dict.fromkeys(notes)), tuple(excluded), pace, places, silicon, memory)


def _problem(
    workload: Workload,
    profile: DeviceProfile,
    policy: Policy,
    state: State,
    usable: list[Candidate],
    notes: list[str],
) -> tuple[Problem, Floats, Memory]:
    """The problem, what of its latencies is work that waits now [L, D], and what its capacities come from."""
    stages, count = len(workload.stages), len(usable)
    overhead = np.array([costing.dispatch_of(c.runtime).value for c in usable])
    time = np.array([[c.cost.stages[s].time_s for c in usable] for s in range(stages)])
    static = np.array([c.cost.static_w or 0.0 for c in usable])
    energy = np.array([[c.cost.stages[s].energy_j or 0.0 for c in usable] for s in range(stages)])
    # Without the dispatch, as the whole-model cost has it; a stage of nothing must not make utilisation 0/0.
    busy = np.maximum(time, 1e-12)
    used = busy * np.array([[c.cost.stages[s].dasi for c in usable] for s in range(stages)])
    latency_transfer = np.zeros((max(0, stages - 1), count, count))
    energy_transfer = np.zeros_like(latency_transfer)
    sizes = np.array([s.output_bytes for s in workload.stages[:-1]])
    for a in range(count):
        for b in range(count):
            if a != b:
                per_byte_s, fixed_s, per_byte_j = transfer(profile, usable[a].accelerator, usable[b].accelerator, notes)
                latency_transfer[:, a, b] = sizes * per_byte_s + fixed_s + overhead[b]
                energy_transfer[:, a, b] = sizes * per_byte_j + static[b] * overhead[b]
    waits = _waits(state, usable, time, notes)
    time[0] += overhead + waits[0]
    energy[0] += static * overhead
    latency_transfer += np.where(np.eye(count, dtype=bool), 0.0, waits[1:, None, :])
    source = _memory(workload, profile, policy, state, usable)
    held = filled(source.held(source.room()))
    problem = Problem(
        latency=time, energy=energy, busy_util_num=np.minimum(used, busy), busy_den=busy,
        transfer_latency=latency_transfer, transfer_energy=energy_transfer,
        memory=held.memory, capacity=held.capacity, allowed=held.allowed, memory_domain=held.domain,
        accelerators=tuple(c.accelerator.name for c in usable), stages=tuple(s.name for s in workload.stages),
    )  # fmt: skip
    return problem, waits, source


def _memory(
    workload: Workload, profile: DeviceProfile, policy: Policy, state: State, usable: list[Candidate]
) -> Memory:
    domains = tuple(sorted({c.accelerator.memory_domain for c in usable}))
    domain = np.array([domains.index(c.accelerator.memory_domain) for c in usable])
    kept = np.array([s.weight_bytes + s.idle_weight_bytes + s.kv_bytes for s in workload.stages])
    arena = np.array([s.arena_bytes for s in workload.stages])

    def held(room: Floats) -> Held:
        return memory_tables(kept, arena, domain, room, domains)

    return memory_of(profile, policy, state.free_bytes, domains, held, kept + arena)


def _waits(state: State, usable: list[Candidate], time: Floats, notes: list[str]) -> Floats:
    """Seconds that work waiting for an accelerator delays the stage that enters it, at most, [stages, accelerators].

    The queue has shrunk by at least the shortest time in which the stages before could have run. Whoever comes back to
    an accelerator pays again, so the sum is an upper bound.
    """
    queue = np.array([state.queue_s.get(c.accelerator.name, 0.0) for c in usable])
    if queue.any():
        notes.append("work that waits for an accelerator delays each entry to it; latencies are upper bounds")
    before = np.concatenate([[0.0], np.cumsum(time.min(axis=1))[:-1]])
    left: Floats = np.maximum(0.0, queue[None, :] - before[:, None])
    return left


def _chain_notes(workload: Workload) -> list[str]:
    """What the chain of stages leaves out of a graph with branches."""
    several = [s.name for s in workload.stages[:-1] if s.output_tensors > 1]
    notes = []
    if several:
        notes.append(
            f"{len(several)} boundaries are crossed by several tensors, from {several[0]} on: branches run one after "
            "another in the graph's order, and a tensor crosses with every change of accelerator until it is used"
        )
    flops = sum(s.flops for s in workload.stages)
    heavy = [s for s in workload.stages if s.nodes > WHOLE_NODES and s.flops > WHOLE_SHARE * flops]
    if len(workload.stages) > 1:
        notes += [f"branches of {s.name} are one stage, with {s.flops / flops:.0%} of the work" for s in heavy]
    return notes


def memory_tables(kept: Floats, arena: Floats, domain: Ints, room: Floats, names: tuple[str, ...]) -> Held:
    """What a stage keeps [L, D], what of each domain may be kept [M], and which pairs may be used [L, D].

    Weights and KV cache of the stages add up. Activations do not: stages run one after another and reuse one arena, so
    a domain sets aside the largest arena among the stages that it may run. This is exact where a domain runs the stage
    with that arena, as it does with the whole model, and a bound above what is needed where it does not: nothing is
    admitted that does not fit, and nothing is refused that fits a domain as a whole. A stage that does not fit a domain
    even alone may not run there, and its arena is not set aside.

    kept, arena: bytes of each stage [L]; domain: of each choice [D]; room: bytes of each domain [M], below 0 where
    others hold more than they may; names: of the domains [M].
    """
    alone = (kept + arena)[:, None] <= room[None, :]
    aside = np.where(alone, arena[:, None], 0.0).max(axis=0)
    each = np.repeat(kept[:, None], len(domain), axis=1)
    return Held(each, np.maximum(0.0, room - aside), alone[:, domain], domain, names)


def filled(held: Held) -> Held:
    """The same with every pair of a stage that fits nowhere, at more bytes than there are: a problem needs a choice
    for each stage, and memory is what refuses it."""
    stranded = np.asarray(~held.allowed.any(axis=1))
    if not stranded.any():
        return held
    memory = held.memory.copy()
    memory[stranded] = np.maximum(memory[stranded], 2.0 * held.capacity.max() + 1.0)
    return replace(held, memory=memory, allowed=held.allowed | stranded[:, None])


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
