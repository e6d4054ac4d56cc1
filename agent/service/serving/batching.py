"""Batching: requests of one model and form that wait for the same lane run as one call and are cut apart again.

While such a call is under way, what comes waits for its end and goes together in the next one; a lone request on an
idle lane waits only where `wait_ms` says so. A call that fails for what is in it is run again request by request.
A lane batches a model once it was seen there that a batch answers as its requests alone do (`batch_proof`).
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import field
from functools import partial

from agent.backends.io import settle
from agent.backends.promise import Promise
from agent.control import batch
from agent.errors import DeadlineExceeded, InferenceFailed, LaneOutOfMemory, QeilError
from agent.ports import Clock, InferenceRequest, Lane, LaneReply, LoadReport, Tensor, Tensors
from agent.records import record
from agent.schema.settings import BatchingOptions
from agent.service.serving.alarm import Alarm
from agent.service.serving.batch_proof import Proofs


@record(eq=False)
class _Member:
    """One request."""

    request: InferenceRequest
    rows: int
    deadline_s: float
    until_s: float
    """It may be kept waiting for company until then."""
    promise: Promise[LaneReply] = field(init=False)
    group: _Group | None = None
    """Where it waits."""
    call: _Call | None = None
    """That it is in."""


@record(eq=False)
class _Call:
    """One call of a lane."""

    members: list[_Member]
    future: Future[LaneReply] | None = None
    starting: bool = True
    ended: bool = False


@record(eq=False)
class _Group:
    """Requests of one form for one model on one lane."""

    lane: Lane
    name: str
    setting: BatchingOptions
    key: tuple[int, str, object]
    waiting: list[_Member] = field(default_factory=list)
    running: _Call | None = None


class Batches:
    """Thread-safe, never blocks. What it returns behaves as a lane's own future does."""

    def __init__(
        self, clock: Clock, settings: Mapping[str, BatchingOptions], remind: Callable[[float], None] | None = None
    ) -> None:
        """`settings` by the model's name, others are never batched; `remind(at_s)` has `due` called then."""
        self._clock, self._settings = clock, dict(settings)
        self._lock = threading.RLock()
        self._groups: dict[tuple[int, str, object], _Group] = {}
        self._proofs = Proofs(clock)
        self._remind = remind or Alarm(clock, self.due).remind
        self.sizes: Counter[tuple[str, int]] = Counter()
        """Calls by model and number of requests."""
        self.undone: Counter[str] = Counter()
        """Batches that were run again one by one, by model."""

    def takes(self, request: InferenceRequest, lane: Lane, name: str, report: LoadReport) -> bool:
        """Whether the settings want that model's requests batched, and it has a first axis for them."""
        if request.model not in self._settings or self._proofs.refused(lane, name):
            return False
        if batch.is_open(report.inputs, report.outputs):
            return True
        self._proofs.refuse(lane, name, "the first axis of an input or output has a fixed size")
        return False

    def refusals(self) -> dict[tuple[str, str], str]:
        """Why requests of a model, by accelerator and its name there, are not batched though the settings want it."""
        return self._proofs.refusals() if self._settings else {}

    def waiting(self, lane: Lane) -> int:
        """Requests that wait here for that lane, which its own queue does not count."""
        if not self._groups:
            return 0
        with self._lock:
            return sum(len(g.waiting) for g in self._groups.values() if g.lane is lane)

    def submit(
        self, lane: Lane, name: str, request: InferenceRequest, deadline_s: float, expected_s: float
    ) -> Future[LaneReply]:
        """As `Lane.submit`, for a model whose first axes are open; `expected_s` is the predicted time of one call."""
        setting, found = self._settings[request.model], batch.form_of(request.inputs)
        if found is None or found[0] > setting.max:
            return lane.submit(name, request.inputs, request.outputs, deadline_s)
        rows, form = found
        now_s = self._clock.monotonic_s()
        until_s = min(now_s + setting.wait_ms / 1e3, deadline_s - expected_s * setting.max)
        member = _Member(request, rows, deadline_s, until_s)
        member.promise = Promise(self._dropped, member)
        key = (id(lane), name, (form, request.outputs))
        with self._lock:
            group = self._groups.setdefault(key, _Group(lane, name, setting, key))
            group.waiting.append(member)
            member.group = group
        self._pump(group)
        if not member.promise.done():
            self._remind(deadline_s)
        return member.promise

    def due(self, now_s: float) -> float:
        """Fail what is overdue and run what has waited long enough; the next such time."""
        late: list[_Member] = []
        with self._lock:
            groups, next_s = list(self._groups.values()), math.inf
            for group in groups:
                running = [] if group.running is None else group.running.members
                for member in (*group.waiting, *running):
                    if member.deadline_s <= now_s:
                        late.append(member)
                    elif not member.promise.done():
                        next_s = min(next_s, member.deadline_s)
                if group.running is None and group.waiting:
                    next_s = min([next_s, *(m.until_s for m in group.waiting if m.until_s > now_s)])
                group.waiting = [m for m in group.waiting if m.deadline_s > now_s]
        for member in late:
            self._settle(member, error=DeadlineExceeded(f"{member.request.model} was not run in time"))
        for group in groups:
            self._pump(group)
        return next_s

    def counts(self) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
        """Calls by model and band of requests that shared one (1, 2, 3-4, 5-8 …); batches undone by model."""
        banded: Counter[tuple[str, str]] = Counter()
        with self._lock:
            for (model, size), calls in self.sizes.items():
                banded[model, band(size)] += calls
            return dict(banded), dict(self.undone)

    # ------------------------------------------------------------------ calls

    def _pump(self, group: _Group) -> None:
        """Begin the group's next call if it is time."""
        while (call := self._next(group)) is not None:
            self._begin(group, call)
            with self._lock:
                call.starting = False
                if not call.ended:
                    return

    def _next(self, group: _Group) -> _Call | None:
        now_s = self._clock.monotonic_s()
        with self._lock:
            group.waiting = [m for m in group.waiting if not m.promise.done()]
            if group.running is not None:
                return None
            if not group.waiting:
                self._groups.pop(group.key, None)
                return None
            full = sum(m.rows for m in group.waiting) >= group.setting.max
            until_s = min(m.until_s for m in group.waiting)
            if not full and now_s < until_s:
                self._remind(until_s)
                return None
            taken: list[_Member] = []
            left = group.setting.max
            most = group.setting.max if self._proofs.proven(group.lane, group.name) else 1
            while group.waiting and group.waiting[0].rows <= left and len(taken) < most:
                taken.append(group.waiting.pop(0))
                left -= taken[-1].rows
            call = group.running = _Call(taken)
            return call

    def _begin(self, group: _Group, call: _Call) -> None:
        members = call.members
        for member in members:
            member.group, member.call = None, call
        with self._lock:
            self.sizes[members[0].request.model, len(members)] += 1
        try:
            inputs: Tensors = members[0].request.inputs
            if len(members) > 1:
                inputs = batch.join([m.request.inputs for m in members])
            deadline_s = max(m.deadline_s for m in members)
            call.future = group.lane.submit(group.name, inputs, members[0].request.outputs, deadline_s)
        except (QeilError, MemoryError) as error:
            self._failed(group, call, error)
            return
        call.future.add_done_callback(partial(self._done, group, call))
        self._drop_if_alone(call)

    def _done(self, group: _Group, call: _Call, done: Future[LaneReply]) -> None:
        if done.cancelled():
            self._end(group, call)
            return
        error = done.exception()
        if error is not None:
            self._failed(group, call, error)
            return
        reply, members = done.result(), call.members
        parts = batch.cut(reply.outputs, [m.rows for m in members])
        if parts is None and len(members) > 1:
            self._proofs.refuse(group.lane, group.name, "an output's first axis does not follow the inputs'")
            self._undo(group, call)
            return
        if not self._proofs.proven(group.lane, group.name):
            self._proofs.learn(group.lane, group.name, members[0].request, reply)
        self._end(group, call)
        if parts is None or len(members) == 1:
            self._settle(members[0], reply)
            return
        total = sum(m.rows for m in members)
        for member, outputs in zip(members, parts, strict=True):
            self._settle(member, share_of(reply, outputs, member.rows / total, len(members)))

    def _failed(self, group: _Group, call: _Call, error: BaseException) -> None:
        if len(call.members) > 1 and isinstance(error, InferenceFailed | LaneOutOfMemory | MemoryError):
            if not isinstance(error, InferenceFailed):
                self._proofs.refuse(group.lane, group.name, "there is no memory for a batch")
            self._undo(group, call)
            return
        self._end(group, call)
        told = LaneOutOfMemory(f"{group.name}: no memory to hand it over") if isinstance(error, MemoryError) else error
        for member in call.members:
            self._settle(member, error=told)

    def _undo(self, group: _Group, call: _Call) -> None:
        """A batch came to nothing: each of its requests that somebody still wants runs once more, alone."""
        with self._lock:
            self.undone[call.members[0].request.model] += 1
        for member in call.members:
            if not member.promise.done():
                self._begin(group, _Call([member]))
        self._end(group, call)

    def _end(self, group: _Group, call: _Call) -> None:
        with self._lock:
            call.ended, call.future = True, None  # whose callbacks refer to the call
            for member in call.members:
                member.call = None if member.call is call else member.call
            if group.running is call:
                group.running = None
            inline = call.starting
        if not inline:
            self._pump(group)

    # ------------------------------------------------------------------ clients that go

    def _dropped(self, member: _Member) -> None:
        with self._lock:
            group, member.group, call = member.group, None, member.call
            if group is not None and member in group.waiting:
                group.waiting.remove(member)
        if call is not None:
            self._drop_if_alone(call)

    @staticmethod
    def _drop_if_alone(call: _Call) -> None:
        """Nobody waits for the call any more."""
        if call.future is not None and all(m.promise.done() for m in call.members):
            call.future.cancel()

    def _settle(self, member: _Member, reply: LaneReply | None = None, error: BaseException | None = None) -> None:
        member.promise.key = member.group = member.call = None  # else the answer would live until the next collection
        settle(member.promise, reply, error)


def band(size: int) -> str:
    """Label of a number of requests: 1, 2, 3-4, 5-8, 9-16 …"""
    most = 1 << (size - 1).bit_length()
    return str(most) if most <= 2 else f"{most // 2 + 1}-{most}"


def share_of(reply: LaneReply, outputs: dict[str, Tensor], share: float, together: int) -> LaneReply:
    """One request's part of a batch's reply: time and joules by its share of the rows."""
    energy_j = None if reply.energy_j is None else reply.energy_j * share
    return LaneReply(
        outputs, reply.execute_s * share, energy_j, reply.energy_provenance, together=together, call_s=reply.execute_s
    )
