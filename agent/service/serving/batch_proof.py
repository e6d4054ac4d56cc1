"""Batch proofs: does a model, as a lane has loaded it, answer a batch as it answers each of its requests alone?

Asked once per load, with the first request that was answered and the same one turned round: two calls more. A model
that mixes its rows, or whose first axis is none of requests, is never batched there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Final, Literal

import numpy as np
import structlog

from agent.control import batch, canary
from agent.errors import InferenceFailed, QeilError
from agent.ports import Clock, InferenceRequest, Lane, LaneReply, Tensor, Tensors

_log = structlog.get_logger("batching")

PROBE_S: Final = 5.0
"""Longest time for each of the two calls; where they take longer the next answer is tried."""

State = Literal["asking", "proven", "refused"]


class Proofs:
    """Thread-safe, never blocks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._states: dict[tuple[int, str], tuple[Lane, State, str]] = {}
        """By lane and name there, with the cause; the lane itself, so that no other takes its identity meanwhile."""

    def proven(self, lane: Lane, name: str) -> bool:
        """Whether that model may be batched there."""
        return self._state(lane, name) == "proven"

    def refused(self, lane: Lane, name: str) -> bool:
        """Whether it was seen that it may not."""
        return self._state(lane, name) == "refused"

    def refusals(self) -> dict[tuple[str, str], str]:
        """Why the models of lanes that run may not be batched there, by accelerator and name."""
        with self._lock:
            found = [(lane, name, why) for (_, name), (lane, state, why) in self._states.items() if state == "refused"]
        return {(lane.spec.accelerator, name): why for lane, name, why in found if lane.alive()}

    def refuse(self, lane: Lane, name: str, cause: str) -> None:
        """Never batch it there, and say so."""
        self._set(lane, name, "refused", cause)
        _log.warning(
            "off", model=name, lane=lane.spec.accelerator, cause=cause, consequence="its requests run one by one",
            mend="take batching out of the model's settings",
        )  # fmt: skip

    def learn(self, lane: Lane, name: str, request: InferenceRequest, reply: LaneReply) -> None:
        """A request was answered alone: ask with it, unless that is under way or over."""
        with self._lock:
            if (id(lane), name) in self._states:
                return
            for key in [k for k, (known, *_) in self._states.items() if not known.alive()]:
                del self._states[key]
            self._states[id(lane), name] = (lane, "asking", "")
        try:
            turned = batch.turned(request.inputs)
            both = batch.join([request.inputs, turned])
            alone = {n: np.array(t) for n, t in reply.outputs.items()}
        except MemoryError:
            self.refuse(lane, name, "there is no memory for a batch")
            return
        rows = len(next(iter(turned.values())))
        ask = partial(self._ask, lane, name, request.outputs)

        def second(other: LaneReply) -> None:
            others = {n: np.array(t) for n, t in other.outputs.items()}
            ask(both, lambda found: self._compare(lane, name, rows, (alone, others), found))

        ask(turned, second)

    def _ask(
        self, lane: Lane, name: str, outputs: tuple[str, ...] | None, inputs: Tensors, then: Callable[[LaneReply], None]
    ) -> None:
        def done(future: Future[LaneReply]) -> None:
            error = future.exception()
            if error is None:
                then(future.result())
            else:
                self._failed(lane, name, error)

        try:
            future = lane.submit(name, inputs, outputs, self._clock.monotonic_s() + PROBE_S)
        except QeilError as error:
            self._failed(lane, name, error)
            return
        future.add_done_callback(done)

    def _failed(self, lane: Lane, name: str, error: BaseException) -> None:
        if isinstance(error, InferenceFailed):
            self.refuse(lane, name, f"a batch fails: {error.message}")
            return
        with self._lock:
            self._states.pop((id(lane), name), None)

    def _compare(
        self, lane: Lane, name: str, rows: int, alone: tuple[dict[str, Tensor], dict[str, Tensor]], found: LaneReply
    ) -> None:
        parts = batch.cut(found.outputs, [rows, rows])
        if parts is None:
            self.refuse(lane, name, "an output's first axis does not follow the inputs'")
            return
        differences = [canary.judge(expected, got, False) for expected, got in zip(alone, parts, strict=True)]
        cause = next((d for d in differences if d is not None), None)
        if cause is None:
            self._set(lane, name, "proven")
        else:
            self.refuse(lane, name, f"together its requests are answered otherwise: {cause}")

    def _state(self, lane: Lane, name: str) -> State | None:
        found = self._states.get((id(lane), name))
        return None if found is None else found[1]

    def _set(self, lane: Lane, name: str, state: State, cause: str = "") -> None:
        with self._lock:
            self._states[id(lane), name] = (lane, state, cause)
