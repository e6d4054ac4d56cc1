"""Job: one request under way, owned by the dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from agent.backends.promise import Promise
from agent.errors import QeilError
from agent.ports import InferenceAnswer, InferenceRequest, Lane
from agent.records import record
from agent.service.serving.held_answers import Part
from agent.service.serving.routing_table import RoutingTable
from agent.service.serving.split_run import Progress


@record(eq=False)
class Job:
    """See module."""

    request: InferenceRequest
    future: Promise[InferenceAnswer]
    ticket: int
    started_s: float
    deadline_s: float
    table: RoutingTable  # by which the present attempt was routed
    scale: float = 1.0
    """Elements of its inputs in units of the planned ones, where dimensions are open."""
    tried: set[str] = field(default_factory=set)
    replays: int = 0
    last_error: QeilError | None = None
    progress: Progress | None = None
    """Of a split model: what its stages made so far."""
    starved: dict[str, Lane] = field(default_factory=dict)
    """Lanes that had no memory for it, by accelerator."""
    ended_lanes: int = 0
    """Lanes whose process ended while it was run there."""
    accused: Part | None = None
    """Whom the last error speaks against."""
    asked_again: bool = False
    """Its lane passed its canary after it had refused this request, which was then asked once more."""
    give_up: Callable[[], object] | None = None
    """Drops the call that is under way, for a client that has gone."""
