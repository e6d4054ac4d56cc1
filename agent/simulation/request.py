"""Request: what all passes of a request cost together, with the hand-over of the cache between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from agent.errors import PlacementError
from agent.placement.tables import Tables, transfer
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.workload import Workload
from agent.simulation.cases import Case
from agent.simulation.placing import Rows


@record(frozen=True)
class Cost:
    """Modelled joules and seconds."""

    energy_j: float
    latency_s: float

    @property
    def power_w(self) -> float:
        """Mean power of the accelerators at work."""
        return self.energy_j / self.latency_s if self.latency_s > 0 else 0.0


def pass_cost(tables: Tables, row: Rows) -> Cost:
    """Cost of one pass under an assignment."""
    energy_j, latency_s, _ = tables.problem.objectives(row)[0].tolist()
    return Cost(energy_j, latency_s)


def request_cost(
    case: Case, profile: DeviceProfile, policy: Policy, tables: Sequence[Tables], rows: Sequence[Rows]
) -> Cost:
    """Cost of all passes, decode once per generated token.

    Each pass has its own assignment. Weights that two passes want in different memory domains are held in both, and
    a KV cache that prefill leaves in another domain than decode reads it from crosses the link once.

    Raises:
        PlacementError: the passes fit one by one but not together.
    """
    energy_j = latency_s = 0.0
    for workload, table, row in zip(case.passes, tables, rows, strict=True):
        cost, times = pass_cost(table, row), case.repeats(workload.phase)
        energy_j += cost.energy_j * times
        latency_s += cost.latency_s * times
    names = [[table.problem.accelerators[a] for a in row] for table, row in zip(tables, rows, strict=True)]
    _check_memory(case, profile, policy, names)
    moved = _hand_over(case, profile, names)
    return Cost(energy_j + moved.energy_j, latency_s + moved.latency_s)


def _check_memory(case: Case, profile: DeviceProfile, policy: Policy, names: Sequence[Sequence[str]]) -> None:
    for domain in profile.memory_domains:
        home = {a.name for a in profile.accelerators if a.memory_domain == domain.name}
        weights, scratch = 0.0, 0.0
        spans = [_spans(w) for w in case.passes]
        for begin, end in _pieces(spans):
            if any(names[i][_stage_at(s, begin, end)] in home for i, s in enumerate(spans)):
                weights += end - begin
        held = max(_weights(w) for w in case.passes) * weights
        for workload, chosen in zip(case.passes, names, strict=True):
            mine = [s for s, name in zip(workload.stages, chosen, strict=True) if name in home]
            # One arena is used by stage after stage; the cache of each stays.
            arena = max((s.arena_bytes for s in mine), default=0.0)
            scratch = max(scratch, arena + sum(s.kv_bytes for s in mine))
        room = (domain.capacity_bytes.value - domain.reserved_bytes.value) * policy.memory.max_cpq
        if held + scratch > room:
            short = (held + scratch - room) / 1e9
            raise PlacementError(f"its passes do not fit {domain.name} together: {short:.3g} GB of memory short")


def _hand_over(case: Case, profile: DeviceProfile, names: Sequence[Sequence[str]]) -> Cost:
    by_phase = {w.phase: (w, chosen) for w, chosen in zip(case.passes, names, strict=True)}
    if not {"prefill", "decode"} <= by_phase.keys():
        return Cost(0.0, 0.0)
    (before, wrote), (after, reads) = by_phase["prefill"], by_phase["decode"]
    spans = (_spans(before), _spans(after))
    energy_j = latency_s = 0.0
    paths: set[tuple[str, str]] = set()
    for begin, end in _pieces(spans):
        at = _stage_at(spans[0], begin, end)
        source = profile.accelerator(wrote[at])
        target = profile.accelerator(reads[_stage_at(spans[1], begin, end)])
        if source.memory_domain == target.memory_domain:
            continue
        low, high = spans[0][at], spans[0][at + 1]
        # Half of what prefill reads and writes of the cache is what it leaves behind.
        cache_bytes = before.stages[at].kv_bytes / 2.0 * (end - begin) / (high - low)
        per_byte_s, fixed_s, per_byte_j = transfer(profile, source, target, [])
        path = (source.memory_domain, target.memory_domain)
        latency_s += cache_bytes * per_byte_s + (0.0 if path in paths else fixed_s)
        energy_j += cache_bytes * per_byte_j
        paths.add(path)
    return Cost(energy_j, latency_s)


def _weights(workload: Workload) -> float:
    return sum(s.weight_bytes + s.idle_weight_bytes for s in workload.stages)


def _spans(workload: Workload) -> list[float]:
    """Where each stage begins along the model's weights, as shares, and 1 at the end; each pass is cut differently."""
    sizes = np.cumsum([0.0, *(s.weight_bytes + s.idle_weight_bytes for s in workload.stages)])
    total = float(sizes[-1])
    if total == 0.0:
        sizes, total = np.arange(len(workload.stages) + 1, dtype=np.float64), float(len(workload.stages))
    shares: list[float] = (sizes / total).tolist()
    return shares


def _pieces(spans: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    cuts = sorted({cut for span in spans for cut in span})
    return [(a, b) for a, b in pairwise(cuts) if b - a > 1e-12]


def _stage_at(span: Sequence[float], begin: float, end: float) -> int:
    return min(int(np.searchsorted(span, (begin + end) / 2, side="right")) - 1, len(span) - 2)
