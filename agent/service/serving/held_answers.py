"""Held answers: keeps a lane's answers back until it has answered a known question after them.

One question is in flight per lane and model; it vouches for every answer that arrived before it was asked. A lane that
computes wrongly from some moment on therefore never gets an answer out; one single wrong run between two right ones is
not seen. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.ports import Lane
from agent.service.serving.canaries import Canaries, Finding
from agent.service.serving.routing_table import RouteEntry

Part = tuple[str, Lane, str]
"""(accelerator, its lane, the model's name there)."""


@dataclass(frozen=True)
class Held:
    """One answer: what lets it go, and what happens instead (the cause is told)."""

    release: Callable[[], None]
    redo: Callable[[str], None]


@dataclass
class _Shelf:
    waiting: list[Held] = field(default_factory=list)
    asked_for: list[Held] | None = None
    """Answers that the question in flight vouches for; None while there is none."""


class HeldAnswers:
    """See module. A lane that answers its question wrongly is ended at once, so that nothing is sent there any more."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self._lock = threading.Lock()
        self._shelves: dict[tuple[int, str], _Shelf] = {}

    def can_ask(self, accelerator: str, model: str) -> bool:
        """Whether there is a question whose answer this lane has given."""
        return self._canaries.has_answered(accelerator, model)

    def hold(self, accelerator: str, lane: Lane, model: str, held: Held) -> None:
        """Keep one answer of `model` on `lane` until it is vouched for."""
        key = (id(lane), model)
        with self._lock:
            shelf = self._shelves.setdefault(key, _Shelf())
            shelf.waiting.append(held)
        self._ask(accelerator, lane, model, shelf)

    def _ask(self, accelerator: str, lane: Lane, model: str, shelf: _Shelf) -> None:
        with self._lock:
            if shelf.asked_for is not None:
                return
            if not shelf.waiting:
                self._shelves.pop((id(lane), model), None)
                return
            shelf.asked_for, shelf.waiting = shelf.waiting, []
        self._canaries.ask(
            accelerator, lane, model, lambda finding: self._told(accelerator, lane, model, shelf, finding)
        )

    def _told(self, accelerator: str, lane: Lane, model: str, shelf: _Shelf, finding: Finding) -> None:
        sound = finding.outcome in {"passed", "unchecked"}
        with self._lock:
            settled, shelf.asked_for = shelf.asked_for or [], None
            if not sound:
                settled, shelf.waiting = [*settled, *shelf.waiting], []
        if finding.outcome in {"wrong", "failed"}:
            lane.kill(finding.sentence)
        for held in settled:
            if sound:
                held.release()
            else:
                held.redo(finding.sentence)
        self._ask(accelerator, lane, model, shelf)


def parts_of(route: RouteEntry, model: str) -> list[Part]:
    """Everything that a placement runs."""
    stages = [(s.stage.accelerator, s.lane, s.stage.load.model) for s in route.stages]
    return stages or [(route.accelerator, route.lane, model)]


def part_of(route: RouteEntry, accelerator: str, model: str) -> Part:
    """The part of a placement that runs on an accelerator."""
    parts = parts_of(route, model)
    return next((part for part in parts if part[0] == accelerator), parts[0])
