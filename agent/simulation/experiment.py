"""Experiment: what a scenario says beyond the cost of a request – heat, faults, models that do not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.simulation.cases import Case
from agent.simulation.comparison import REQUEST, BoardResult, Progress
from agent.simulation.endurance import endurance
from agent.simulation.recovery import recovery
from agent.simulation.references import Resolved


def experiment(resolved: Resolved, boards: Sequence[BoardResult], progress: Progress) -> dict[str, Any] | None:
    """None for a scenario without `operation`."""
    operation = resolved.scenario.operation
    if operation is None:
        return None
    placement = operation.endurance.placement
    heat = []
    for board in boards:
        progress(f"{board.profile.name}: heat", 0, 0)
        heat += endurance(resolved, board)
    return {
        "placement": placement, "published": operation.published.model_dump(mode="json"), "endurance": heat,
        "recovery": recovery(resolved.policy.recovery),
        "measured": operation.measured.model_dump(mode="json") | {"provenance": "measured"}
        if operation.measured else None,
        "without": [row for board in boards for row in _without(board, placement, resolved.policy)],
    }  # fmt: skip


def _without(board: BoardResult, placement: str, policy: Policy) -> list[dict[str, Any]]:
    """Models without that placement on the board, and why; with bytes where memory is the reason."""
    found = []
    for case in board.cases:
        why = case.why.get((REQUEST, placement))
        if why is None:
            continue
        # The reason names the pass and what is short; sizes say the same of the model.
        short = "of memory short" in why
        found.append({
            "board": board.profile.name, "model": case.case.label, "why": why,
            "needed_bytes": _needed_bytes(case.case) if short else None,
            "room_bytes": _room_bytes(board.profile, policy) if short else None,
        })  # fmt: skip
    return found


def _needed_bytes(case: Case) -> float:
    """Weights, cache and the largest arena of the pass that needs most."""
    return max(
        sum(s.weight_bytes + s.idle_weight_bytes + s.kv_bytes for s in w.stages) + max(s.arena_bytes for s in w.stages)
        for w in case.passes
    )


def _room_bytes(profile: DeviceProfile, policy: Policy) -> float:
    """What all memories together have for models."""
    return sum(
        (d.capacity_bytes.value - d.reserved_bytes.value) * policy.memory.max_cpq for d in profile.memory_domains
    )
