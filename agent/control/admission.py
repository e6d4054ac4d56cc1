"""Admission: whether a request may enter now, and if not, when it is worth coming back."""

from __future__ import annotations

from typing import Literal

from agent.records import record
from agent.schema.policy import Admission
from agent.schema.snapshot import Mode


@record(frozen=True)
class Load:
    """What the agent carries at this moment."""

    mode: Mode
    in_flight: int
    capacity_share: float
    """Largest share among the lanes that could serve the model; 0: none may run."""
    recent_service_s: float
    """Mean time of recent answers, for an honest Retry-After."""
    back_s: float = 0.0
    """Time until a lane that may run the model is expected to serve; 0 while one does, or nobody knows."""


@record(frozen=True)
class Decision:
    """Admit, or refuse with a reason and a time to retry after."""

    admit: bool
    reason: Literal["", "draining", "no_capacity", "busy"] = ""
    sentence: str = ""
    retry_after_s: float = 0.0


_ADMITTED = Decision(True)


def decide(load: Load, limits: Admission) -> Decision:
    """Refuse while draining, without capacity, or above the (derated) bound on concurrent requests."""
    if load.mode == "draining":
        return Decision(False, "draining", "the agent is shutting down", 5.0)
    if load.capacity_share <= 0:
        return Decision(False, "no_capacity", "no accelerator may run this model at the moment", max(1.0, load.back_s))
    bound = max(1, int(limits.max_concurrent_requests * min(1.0, load.capacity_share)))
    if load.in_flight >= bound:
        wait_s = max(0.1, load.back_s + load.recent_service_s * load.in_flight / bound)
        sentence = f"{load.in_flight} requests are in flight (admission.max_concurrent_requests allows {bound} now)"
        return Decision(False, "busy", sentence, wait_s)
    return _ADMITTED


def deadline_s(asked_s: float | None, limits: Admission) -> float:
    """Time a request is given: what it asked for, bounded by the policy, or the policy's default."""
    if asked_s is None:
        return limits.default_deadline_s
    return min(asked_s, limits.max_deadline_s)
