"""Split run: one request on its way through the stages of a split model, lane after lane.

Each stage is a call of its own, so requests overlap: while one is on its second stage, the next runs its first. What a
stage made is held until nothing needs it any more; after a loss the request goes on from there, on whichever lanes hold
the same cut of the same file, or from the start on a placement that does not.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import field
from typing import Final

import numpy as np

from agent.errors import InferenceFailed, QeilError
from agent.ports import Clock, LaneReply, Tensor
from agent.records import record
from agent.schema.snapshot import EnergyProvenance
from agent.service.serving.routing_table import RouteEntry, StageRoute
from agent.service.serving.split_meter import SplitMeter

PROCESSORS: Final = frozenset({"CPUExecutionProvider", "XNNPACKExecutionProvider"})
"""Providers whose results no device can have spoilt."""

_WEAKER: dict[EnergyProvenance, int] = {"measured": 0, "modelled": 1, "unknown": 2}


@record
class Progress:
    """How far a request has come: stages done of one split, what is held for the next ones, what that took.

    given: the caller's inputs; tensors: made by stages and still needed; answers: outputs that are ready.
    """

    split: str
    given: dict[str, Tensor]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    answers: dict[str, Tensor] = field(default_factory=dict)
    done: int = 0
    execute_s: float = 0.0
    energy_j: float | None = 0.0
    provenance: EnergyProvenance = "measured"
    scale: float = 1.0
    """Of the request: see `ModelRoutes.scale`."""
    providers: set[str] = field(default_factory=set)
    """Of the stages done, perhaps on a placement that was lost since."""

    def took(self, reply: LaneReply, stage: StageRoute) -> None:
        """Add what a stage took; one unknown energy makes the sum unknown."""
        self.providers.add(stage.stage.load.runtime.provider)
        energy_j, provenance = reply.energy_j, reply.energy_provenance
        if energy_j is None:
            energy_j = stage.modelled_energy_j(reply.execute_s, self.scale)
            provenance = "unknown" if energy_j is None else "modelled"
        self.execute_s += reply.execute_s
        self.energy_j = None if self.energy_j is None or energy_j is None else self.energy_j + energy_j
        self.provenance = max(self.provenance, provenance, key=lambda p: _WEAKER[p])


Finished = Callable[[LaneReply], None]
Failed = Callable[[str, QeilError], None]
"""Called with the accelerator at fault."""


class SplitRun:
    """See module. Exactly one of `finished` and `failed` is called once, unless it is cancelled."""

    def __init__(
        self, route: RouteEntry, model: str, progress: Progress, outputs: tuple[str, ...] | None, deadline_s: float,
        clock: Clock, meter: SplitMeter, finished: Finished, failed: Failed,
    ) -> None:  # fmt: skip
        self.progress = progress
        self._route = route
        self._model = model
        self._outputs = outputs
        self._deadline_s = deadline_s
        self._clock = clock
        self._meter = meter
        self._finished = finished
        self._failed = failed
        self._call: Future[LaneReply] | None = None
        self._cancelled = False
        answering = [i for i, s in enumerate(route.stages) if self._asked(s)]
        self._end = max(answering, default=len(route.stages) - 1) + 1
        self._arrived_s = clock.monotonic_s()

    def start(self) -> None:
        """Submit the first stage that is not done; returns at once."""
        self._next()

    def cancel(self) -> None:
        """Nobody wants the answer: the call that waits is dropped, no further stage begins."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    def _asked(self, stage: StageRoute) -> list[str]:
        """Outputs of the model that this stage gives and somebody wants."""
        return [n for n in stage.stage.answers if self._outputs is None or n in self._outputs]

    def _next(self) -> None:
        index = self.progress.done
        stage = self._route.stages[index]
        have = {**self.progress.given, **self.progress.tensors}
        inputs = {name: have[name] for name in (*stage.stage.receives, *stage.stage.given)}
        wanted = tuple(dict.fromkeys((*stage.stage.sends, *self._asked(stage))))
        begun_s = self._arrived_s if stage.lane.queue_length() == 0 else None
        try:
            call = stage.lane.submit(stage.stage.load.model, inputs, wanted, self._deadline_s)
        except QeilError as error:
            self._failed(stage.stage.accelerator, error)
            return
        self._call = call
        if self._cancelled:
            call.cancel()
        call.add_done_callback(lambda done: self._answered(index, begun_s, done))

    def _answered(self, index: int, begun_s: float | None, done: Future[LaneReply]) -> None:
        if done.cancelled():
            return
        stage = self._route.stages[index]
        error = done.exception()
        if error is not None:
            if not isinstance(error, QeilError):
                error = InferenceFailed(f"{type(error).__name__}: {error}")
            self._failed(stage.stage.accelerator, error)
            return
        reply = done.result()
        self._arrived_s = self._clock.monotonic_s()
        self._measure(index, begun_s, reply)
        self._keep(index, reply)
        progress = self.progress
        if progress.done >= self._end:
            self._finished(LaneReply(progress.answers, progress.execute_s, progress.energy_j, progress.provenance))
        elif not self._cancelled:
            self._next()

    def _keep(self, index: int, reply: LaneReply) -> None:
        """Hold what later stages read, drop what none does any more.

        Copies: a view would keep a slot of its lane while the request waits for another, and two requests that wait
        for each other's slots would wait for ever.
        """
        stages, progress = self._route.stages, self.progress
        stage, asked, last = stages[index], self._asked(stages[index]), index + 1 >= self._end
        progress.took(reply, stage)
        made = {n: reply.outputs[n] if last else np.array(reply.outputs[n]) for n in (*stage.stage.sends, *asked)}
        progress.answers.update({name: made[name] for name in asked})
        needed = {name for later in stages[index + 1 :] for name in later.stage.receives}
        held = {**progress.tensors, **{name: made[name] for name in stage.stage.sends}}
        progress.tensors = {name: array for name, array in held.items() if name in needed}
        progress.done = index + 1

    def _measure(self, index: int, begun_s: float | None, reply: LaneReply) -> None:
        handover_s = None
        stage = self._route.stages[index].stage
        if begun_s is not None and index > 0:
            handover_s = max(0.0, self._arrived_s - begun_s - reply.execute_s)
            if stage.handover_s is not None:
                source = self._route.stages[index - 1].stage.accelerator
                self._meter.crossed(source, stage.accelerator, handover_s, stage.handover_s)
        self._meter.ran(self._model, self._route.accelerator, index, reply.execute_s, handover_s)


def refused_by_the_model(progress: Progress | None, route: RouteEntry) -> bool:
    """Whether a stage that refuses its input speaks for the whole model, so that no other placement would take it.

    So it is where the stage was given the caller's own input, or tensors that only processors have computed: what a
    device made before it may be wrong, and another placement then has to be asked.
    """
    return progress is None or not route.stages or progress.providers <= PROCESSORS


def resumable(progress: Progress | None, route: RouteEntry) -> bool:
    """Whether a request may go on where it was lost: the placement holds the same cut of the same file."""
    return progress is not None and progress.done > 0 and bool(route.stages) and route.split == progress.split
