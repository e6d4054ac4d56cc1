"""Lifecycle: the agent's mode, derived from facts; the strictest fact wins."""

from __future__ import annotations

from agent.records import record
from agent.schema.snapshot import Mode


@record(frozen=True)
class Facts:
    """What decides the mode."""

    draining: bool
    thread_died: bool
    models_total: int
    models_pending: int
    """Still loading for the first time."""
    models_unserved: int
    """Settled, but no placement can run them now."""
    lanes_down: int
    thermally_limited: int
    """Accelerators derated or halted because a zone is hot, not for want of a sensor."""


def mode(facts: Facts) -> Mode:
    """fault > draining > starting > throttled > degraded > ready."""
    if facts.thread_died:
        return "fault"
    if facts.draining:
        return "draining"
    if facts.models_pending:
        return "starting"
    if facts.thermally_limited:
        return "throttled"
    if facts.models_unserved or facts.lanes_down:
        return "degraded"
    return "ready"
