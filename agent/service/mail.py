"""What is mailed to the supervisor: facts and wishes, each one immutable."""

from __future__ import annotations

import threading
from dataclasses import field

from agent.ports import Reading
from agent.records import record
from agent.service.serving.lane_keeper import LaneDiedEvent, LoadDoneEvent
from agent.service.serving.serving_state import InForce


@record(frozen=True)
class SamplesEvent:
    """All sensors as read at one moment."""

    readings: tuple[Reading, ...]


@record(frozen=True)
class PlanEvent:
    """A new policy, a new set of models, or both, planned and ready to be brought up."""

    wanted: InForce
    why: str
    taken: threading.Event = field(default_factory=threading.Event, compare=False)
    """Set once the supervisor has it."""


@record(frozen=True)
class PolicyRejectedEvent:
    """An edit that could not be used."""

    cause: str


@record(frozen=True)
class ConditionEvent:
    """Another part of the agent states or clears a lasting problem (cause None: cleared)."""

    type: str
    cause: str | None
    consequence: str = ""
    mend: str = ""


@record(frozen=True)
class SuspectEvent:
    """The dispatcher saw an error that speaks against a lane."""

    accelerator: str
    cause: str


@record(frozen=True)
class DrainEvent:
    """No new requests, finish what runs; `on` False takes them again."""

    on: bool = True


@record(frozen=True)
class RestartLaneEvent:
    """End a lane's process so that a new one begins."""

    accelerator: str
    cause: str


@record(frozen=True)
class WakeEvent:
    """Something has happened that a tick is to look at now."""


Event = (
    LaneDiedEvent | LoadDoneEvent | SamplesEvent | PlanEvent | PolicyRejectedEvent | ConditionEvent | SuspectEvent
    | DrainEvent | RestartLaneEvent | WakeEvent
)  # fmt: skip
