"""Calls that a lane accepted and has not answered, in the order of their arrival."""

from __future__ import annotations

import math
from collections import OrderedDict
from concurrent.futures import Future

from agent.backends.layouts import TensorArea
from agent.backends.segments import Lease
from agent.errors import DeadlineExceeded, Overloaded
from agent.ports import LaneReply, Tensors


class Call:
    """One run of one model."""

    __slots__ = ("area", "deadline_s", "future", "inputs", "lease", "model", "number", "outputs")

    def __init__(
        self, number: int, model: str, inputs: Tensors, outputs: tuple[str, ...] | None, deadline_s: float,
        future: Future[LaneReply] | None = None,
    ) -> None:  # fmt: skip
        self.number = number
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.deadline_s = deadline_s
        self.future: Future[LaneReply] = Future() if future is None else future
        self.lease: Lease | None = None
        """Its slot, once sent."""
        self.area: TensorArea | None = None
        """Where its outputs come back, once sent."""


class CallQueue:
    """Waiting and sent calls together never exceed `limit`. Not thread-safe: the lane's lock guards it."""

    def __init__(self, accelerator: str, limit: int) -> None:
        self._accelerator = accelerator
        self._limit = limit
        self.waiting: OrderedDict[int, Call] = OrderedDict()
        self.sent: dict[int, Call] = {}

    def __len__(self) -> int:
        return len(self.waiting) + len(self.sent)

    def check_room(self) -> None:
        """Raises Overloaded at the bound."""
        if len(self.waiting) + len(self.sent) >= self._limit:
            raise Overloaded(f"{self._accelerator} has {len(self)} calls queued (limit {self._limit})")

    def add(self, call: Call) -> None:
        """Accept a call at the end. Raises Overloaded at the bound."""
        self.check_room()
        self.waiting[call.number] = call

    def drop(self, number: int) -> None:
        """The caller gave up: forget the call, or mark it for the process that already has it."""
        call = self.sent.get(number)
        if call is None:
            self.waiting.pop(number, None)
        elif call.lease is not None:
            call.lease.cancel()

    def awaits(self, model: str) -> bool:
        """Whether a call for that model waits."""
        return any(call.model == model for call in self.waiting.values())

    def first(self) -> Call | None:
        """The call that waits longest."""
        return next(iter(self.waiting.values()), None)

    def overdue(self, now_s: float) -> tuple[list[Call], float]:
        """Calls whose deadline passed and whose future is open, and the next deadline (infinity if none).

        Waiting ones are forgotten; sent ones keep their place and slot until the process answers.
        """
        late: list[Call] = []
        next_s = math.inf
        for call in (*self.waiting.values(), *self.sent.values()):
            if call.future.done():
                continue
            if call.deadline_s <= now_s:
                late.append(call)
            else:
                next_s = min(next_s, call.deadline_s)
        for call in late:
            self.drop(call.number)
        return late, next_s

    def take_all(self) -> list[Call]:
        """Forget every call."""
        calls = [*self.sent.values(), *self.waiting.values()]
        self.sent.clear()
        self.waiting.clear()
        return calls


def too_late(call: Call, accelerator: str) -> DeadlineExceeded:
    """The error of an overdue call."""
    return DeadlineExceeded(f"{call.model} on {accelerator} did not answer before the request's deadline")
