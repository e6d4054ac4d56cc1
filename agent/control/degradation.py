"""Degradation: how much slower a model may get while some of its accelerators are away, and whether that bound holds.

With D equal accelerators of which D_healthy are left, the time per request at full load must not exceed
τ_optimal · D / D_healthy. Unequal ones work in proportion to their speeds, so the true factor is that of the speeds: it
is above the bound exactly where faster ones than the average were lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agent.records import record


@record(frozen=True)
class Degradation:
    """Factors on the time per request at full load; bound: D / D_healthy; factor: by the accelerators' own times."""

    total: int
    healthy: int
    bound: float
    factor: float

    @property
    def holds(self) -> bool:
        """Whether the loss costs no more than the bound allows."""
        return self.factor <= self.bound * (1.0 + 1e-9)


def degradation(times_s: Mapping[str, float], healthy: Collection[str]) -> Degradation | None:
    """What the absence of some accelerators costs.

    Args:
        times_s: time of one request on each accelerator that the model is kept on, above 0.
        healthy: those of them that serve now.

    Returns:
        None while all of them serve, or none: then there is no factor, but no service either.
    """
    left = [name for name in times_s if name in healthy]
    if not left or len(left) == len(times_s):
        return None
    speed = sum(1.0 / t for t in times_s.values())
    left_speed = sum(1.0 / times_s[name] for name in left)
    return Degradation(len(times_s), len(left), len(times_s) / len(left), speed / left_speed)
