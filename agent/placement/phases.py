"""Phases: prefill and decode of one request as one problem, in which each stage has an accelerator for either phase.

A choice is a pair (accelerator of prefill, accelerator of decode); decode counts once for each generated token. What
prefill leaves in the KV cache crosses the link, stage by stage, where the two differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from agent.errors import PlacementError
from agent.placement.memory import Held, Memory, memory_of
from agent.placement.pace import Pace
from agent.placement.problem import MAX_ACCELERATORS, Floats, Ints, Problem
from agent.placement.state import State
from agent.placement.tables import Tables, memory_tables, transfer
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.workload import Stage, Work, Workload

MAX_STAGES = 24


def aligned(prefill: Workload, decode: Workload, most: int = MAX_STAGES) -> tuple[Workload, Workload]:
    """Both phases cut at the same places: where both have a stage of that name, at most `most` of about equal weight.

    Raises PlacementError where the phases share no stage, because they are not of one chain of layers.
    """
    names = [s.name for s in decode.stages]
    cuts: list[tuple[int, int]] = [(0, 0)]
    shared = prefill.stages[0].name == names[0]
    for at, stage in enumerate(prefill.stages):
        if at and stage.name in names[cuts[-1][1] + 1 :]:
            cuts.append((at, names.index(stage.name)))
            shared = True
    if not shared:
        raise PlacementError(f"{prefill.model}: prefill and decode are different layers; plan them one by one")
    weights = np.cumsum([s.weight_bytes + 1.0 for s in decode.stages])
    wanted = np.linspace(0.0, float(weights[-1]), most + 1)[:-1]
    begins = np.array([0.0, *(weights[d - 1] for _, d in cuts[1:])])
    kept = sorted({int(np.abs(begins - w).argmin()) for w in wanted})
    chosen = [cuts[i] for i in kept]
    return _merged(prefill, [c[0] for c in chosen]), _merged(decode, [c[1] for c in chosen])


def _merged(workload: Workload, begins: Sequence[int]) -> Workload:
    bounds = [*begins, len(workload.stages)]
    stages = tuple(merge_stages(workload.stages[a:b]) for a, b in pairwise(bounds))
    return workload.model_copy(update={"stages": stages})


def merge_stages(stages: Sequence[Stage]) -> Stage:
    """Consecutive stages as one."""
    work: dict[tuple[str, str], Work] = {}
    for item in (w for s in stages for w in s.work):
        old = work.get((item.family, item.precision))
        total = item.flops + (old.flops if old else 0.0)
        work[item.family, item.precision] = item.model_copy(update={"flops": total})
    return stages[0].model_copy(
        update={
            "work": tuple(work.values()),
            "output_bytes": stages[-1].output_bytes,
            "output_tensors": stages[-1].output_tensors,
            "arena_bytes": max(s.arena_bytes for s in stages),
            "operators": tuple(sorted({o for s in stages for o in s.operators})),
            **{
                name: sum(getattr(s, name) for s in stages)
                for name in ("weight_bytes", "idle_weight_bytes", "activation_bytes", "kv_bytes", "nodes")
            },
            **{name: tuple(k for s in stages for k in getattr(s, name)) for name in _LISTS if hasattr(stages[0], name)},
        }
    )


_LISTS = ("kernels",)
"""Lists of a stage whose items stay what they are when stages are merged."""


def request_tables(
    prefill: tuple[Workload, Tables],
    decode: tuple[Workload, Tables],
    tokens: int,
    profile: DeviceProfile,
    policy: Policy,
    state: State | None = None,
) -> Tables:
    """Tables of a whole request: one prefill, then `tokens` decode steps; workloads `aligned`.

    Raises PlacementError where the pairs are more than a problem takes, or a stage fits nowhere in both phases.
    """
    first, then = prefill[1], decode[1]
    a_names, b_names = first.problem.accelerators, then.problem.accelerators
    pairs = [(a, b) for a in range(len(a_names)) for b in range(len(b_names))]
    if len(pairs) > MAX_ACCELERATORS:
        raise PlacementError(
            f"{len(a_names)} × {len(b_names)} pairs of accelerators, at most {MAX_ACCELERATORS} can be searched: "
            "forbid some in the policy, or plan the phases one by one"
        )
    a, b = (np.array(column) for column in zip(*pairs, strict=True))
    notes = [*first.notes, *then.notes]
    hand_s, hand_j = _hand_over(prefill[0], a_names, b_names, pairs, profile, notes)
    p, d = first.problem, then.problem
    memory = _memory(prefill, decode, pairs, profile, policy, state or State())
    held = memory.held(memory.room())
    if not held.allowed.any(axis=1).all():
        raise memory.error()
    if not held.allowed.any(axis=0).all() and len(memory.domains) > 1:
        notes.append("phases on accelerators of two memories, neither of which holds the whole model, are not searched")
    ab = np.ix_(np.arange(p.stage_count - 1), a, a), np.ix_(np.arange(p.stage_count - 1), b, b)
    problem = Problem(
        latency=p.latency[:, a] + tokens * d.latency[:, b] + hand_s,
        energy=p.energy[:, a] + tokens * d.energy[:, b] + hand_j,
        busy_util_num=p.busy_util_num[:, a] + tokens * d.busy_util_num[:, b],
        busy_den=p.busy_den[:, a] + tokens * d.busy_den[:, b],
        transfer_latency=p.transfer_latency[ab[0]] + tokens * d.transfer_latency[ab[1]],
        transfer_energy=p.transfer_energy[ab[0]] + tokens * d.transfer_energy[ab[1]],
        memory=held.memory, capacity=held.capacity, allowed=held.allowed, memory_domain=held.domain,
        accelerators=tuple(pair_name(a_names[i], b_names[j]) for i, j in pairs), stages=p.stages,
    )  # fmt: skip
    notes += ["a request is one prefill and its decode steps, all at the context of the middle one"]
    return Tables(
        problem, tuple(dict.fromkeys(notes)), _excluded(first, then), _pace(first, then, a, b, tokens, hand_s),
        tuple((a_names[i], b_names[j]) for i, j in pairs),
        tuple(pair_name(first.silicon[i], then.silicon[j]) for i, j in pairs), memory,
    )  # fmt: skip


def pair_name(prefill: str, decode: str) -> str:
    """`gpu` for both phases there, else `gpu>npu`."""
    return prefill if prefill == decode else f"{prefill}>{decode}"


def _excluded(first: Tables, then: Tables) -> tuple[tuple[str, str], ...]:
    found = []
    for tables, other, phase in ((first, then, "prefill"), (then, first, "decode")):
        for name, why in tables.excluded:
            everywhere = name not in other.problem.accelerators
            if not everywhere or phase == "prefill":
                found.append((name, why if everywhere else f"{phase}: {why}"))
    return tuple(found)


def _hand_over(
    prefill: Workload, a_names: Sequence[str], b_names: Sequence[str], pairs: Sequence[tuple[int, int]],
    profile: DeviceProfile, notes: list[str],
) -> tuple[Floats, Floats]:  # fmt: skip
    """Seconds and joules [L, pairs] of moving what prefill wrote: half of what it read and wrote of the cache."""
    written = np.array([s.kv_bytes / 2.0 for s in prefill.stages])
    seconds, joules = np.zeros((len(written), len(pairs))), np.zeros((len(written), len(pairs)))
    for at, (i, j) in enumerate(pairs):
        if a_names[i] != b_names[j]:
            source, target = profile.accelerator(a_names[i]), profile.accelerator(b_names[j])
            per_byte_s, fixed_s, per_byte_j = transfer(profile, source, target, notes)
            seconds[:, at] = np.where(written > 0.0, written * per_byte_s + fixed_s, 0.0)
            joules[:, at] = written * per_byte_j
    return seconds, joules


def _memory(
    prefill: tuple[Workload, Tables], decode: tuple[Workload, Tables], pairs: Sequence[tuple[int, int]],
    profile: DeviceProfile, policy: Policy, state: State,
) -> Memory:  # fmt: skip
    """Memory of pairs. Within one domain both phases share weights and cache.

    A pair across domains keeps them in both, but a problem counts a stage in one domain only. It is counted in the one
    that does not hold the whole model: in the other it then fits whatever else is there. Where neither holds the whole
    model the pair is left out.
    """
    ends = [(prefill[1].problem.accelerators[i], decode[1].problem.accelerators[j]) for i, j in pairs]
    homes = [tuple(profile.accelerator(name).memory_domain for name in pair) for pair in ends]
    domains = tuple(sorted({home for pair in homes for home in pair}))
    stages = list(zip(prefill[0].stages, decode[0].stages, strict=True))
    kept = np.array([max(_weights(p), _weights(d)) + max(p.kv_bytes, d.kv_bytes) for p, d in stages])
    arena = np.array([max(p.arena_bytes, d.arena_bytes) for p, d in stages])
    total = float(kept.sum() + arena.max())

    def held(room: Floats) -> Held:
        whole = dict(zip(domains, (total <= room).tolist(), strict=True))
        counted = [here if whole[there] else there for here, there in homes]
        used = tuple(sorted(set(counted)))
        domain = np.array([used.index(name) for name in counted])
        rooms = np.array([room[domains.index(name)] for name in used])
        found = memory_tables(kept, arena, domain, rooms, used)
        barred = np.array([here != there and not (whole[here] or whole[there]) for here, there in homes])
        return replace(found, allowed=found.allowed & ~barred)

    return memory_of(profile, policy, state.free_bytes, domains, held, np.append(kept + arena, total))


def _weights(stage: Stage) -> float:
    return stage.weight_bytes + stage.idle_weight_bytes


def _pace(first: Tables, then: Tables, a: Ints, b: Ints, tokens: int, hand_s: Floats) -> Pace:
    units = tuple(dict.fromkeys((*first.pace.units, *then.pace.units)))
    stages = first.problem.stage_count
    busy = np.zeros((stages, len(a), len(units)))
    crossing = np.zeros((max(0, stages - 1), len(a), len(a), len(units)))
    for tables, chosen, times in ((first, a, 1), (then, b, tokens)):
        for at, unit in enumerate(tables.pace.units):
            busy[:, :, units.index(unit)] += times * tables.pace.busy[:, chosen, at]
            crossed = tables.pace.crossing[:, :, :, at][:, chosen][:, :, chosen]
            crossing[:, :, :, units.index(unit)] += times * crossed
    for pair, target in enumerate(b):
        busy[:, pair, units.index(then.silicon[target])] += hand_s[:, pair]
    return Pace(busy, crossing, units)
