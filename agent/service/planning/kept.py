"""Kept: how much of a plan is kept loaded, and what a model takes there."""

from __future__ import annotations

from agent.schema.workload import Workload

KEPT = {"cold": 1, "warm": 2, "all": 1_000}
"""Placements of a model that are kept loaded, by the policy's standby."""
APART_BYTES = 4 * 1024**3
"""Of all weights that are kept apart, unless the settings say else; the models in force alone have some."""


def workload_bytes(workload: Workload) -> float:
    """Weights, cache and largest arena of a whole model."""
    kept = sum(s.weight_bytes + s.idle_weight_bytes + s.kv_bytes for s in workload.stages)
    return kept + max(s.arena_bytes for s in workload.stages)
