"""Held answers: keeps a lane's answers back until it has answered a known question after them.

One question is in flight per lane and model. A lane answers in the order in which it was asked, so it vouches for every
answer that arrives before its own. A lane that computes wrongly from some moment on therefore never gets an answer out;
one single wrong run between two right ones is not seen. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import field

from agent.ports import Lane
from agent.records import record
from agent.service.serving.canaries import Canaries, Finding
from agent.service.serving.routing_table import RouteEntry

Part = tuple[str, Lane, str]
"""(accelerator, its lane, the model's name there)."""


@record(frozen=True)
class Held:
    """One answer: what lets it go, and what happens instead (the cause is told)."""

    release: Callable[[], None]
    redo: Callable[[str], None]


@record
class _Shelf:
    waiting: list[Held] = field(default_factory=list)
    asking: bool = False
    """Whether a question is in flight."""
    number: int = 0
    """Of the newest question."""
    before: int | None = None
    """Answers that came before it was asked; None once its answer can only come in the lane's own order."""


class HeldAnswers:
    """See module. A lane that answers its question wrongly is ended at once, so that nothing is sent there any more."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self._lock = threading.Lock()
        self._shelves: dict[tuple[int, str], _Shelf] = {}

    def can_ask(self, accelerator: str, model: str) -> bool:
        """Whether there is a question whose answer this lane has given."""
        return self._canaries.has_answered(accelerator, model)

    def expect(self, accelerator: str, lane: Lane, model: str) -> None:
        """A request was handed to the lane: ask right behind it, so that its answer waits for nothing sent later."""
        if self.can_ask(accelerator, model):
            self._enter(accelerator, lane, model)

    def hold(self, accelerator: str, lane: Lane, model: str, held: Held) -> None:
        """Keep one answer of `model` on `lane` until it is vouched for."""
        self._enter(accelerator, lane, model, held)

    def _enter(self, accelerator: str, lane: Lane, model: str, *held: Held) -> None:
        """Put on the shelf, and ask unless a question is in flight."""
        with self._lock:
            shelf = self._shelves.setdefault((id(lane), model), _Shelf())
            shelf.waiting += held
            if shelf.asking:
                return
            shelf.asking = True
        self._ask(accelerator, lane, model, shelf)

    def _ask(self, accelerator: str, lane: Lane, model: str, shelf: _Shelf) -> None:
        with self._lock:
            shelf.number += 1
            number, shelf.before = shelf.number, len(shelf.waiting)
        self._canaries.ask(
            accelerator, lane, model, lambda finding: self._told(accelerator, lane, model, shelf, finding)
        )
        with (
            self._lock
        ):  # until here the question may be told of by this thread, while answers after it come by another
            if shelf.number == number:
                shelf.before = None

    def _told(self, accelerator: str, lane: Lane, model: str, shelf: _Shelf, finding: Finding) -> None:
        sound = finding.outcome in {"passed", "unchecked"}
        with self._lock:
            vouched = len(shelf.waiting) if shelf.before is None or not sound else shelf.before
            settled, shelf.waiting = shelf.waiting[:vouched], shelf.waiting[vouched:]
        if finding.outcome in {"wrong", "failed"}:
            lane.kill(finding.sentence)
        for held in settled:
            if sound:
                held.release()
            else:
                held.redo(finding.sentence)
        with self._lock:
            shelf.asking = bool(shelf.waiting)
            if not shelf.asking:
                self._shelves.pop((id(lane), model), None)
                return
        self._ask(accelerator, lane, model, shelf)


def parts_of(route: RouteEntry, model: str) -> list[Part]:
    """Everything that a placement runs."""
    stages = [(s.stage.accelerator, s.lane, s.stage.load.model) for s in route.stages]
    return stages or [(route.accelerator, route.lane, model)]


def part_of(route: RouteEntry, accelerator: str, model: str) -> Part:
    """The part of a placement that runs on an accelerator."""
    parts = parts_of(route, model)
    return next((part for part in parts if part[0] == accelerator), parts[0])
