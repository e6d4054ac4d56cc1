"""Costly requests: forms of requests that took a lane's memory or its life, refused for a while instead of run again.

A form is a model and its version, the placement and the outputs asked for, the shapes of the inputs and, as outputs may
take their shapes from them, small integer inputs. One is refused after a request of it failed for good: every placement
that it could take had no memory for it, two lanes ended while they were at it, or what it gave was larger than may
cross. Forms that were answered before, of sizes that were, and of inputs that cannot differ, are never to blame: there
it is the lane. Each further failure doubles the time; an answer forgets the form, and so do another policy and a new
load of its model. One without memory is tried again where a placement comes back or a lane begins anew, the latter
once: the next failure tells that an empty heap is no remedy.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from dataclasses import field
from typing import Final, NamedTuple

from agent.errors import (
    DeadlineExceeded,
    InferenceFailed,
    LaneDied,
    LaneOutOfMemory,
    Overloaded,
    QeilError,
    TooLarge,
)
from agent.ports import InferenceRequest, Lane, LoadReport, Tensor
from agent.records import record
from agent.service.serving.call_sizes import SAME_S, CallSizes
from agent.service.serving.held_answers import parts_of
from agent.service.serving.job import Job
from agent.service.serving.routing_table import ModelRoutes, RouteEntry, RoutingTable

REFUSED_S: Final = 60.0
MOST_S: Final = 3600.0
"""Also how long after its refusal a form that failed counts as one that never did."""
KEPT: Final = 256
"""Forms remembered; the one that failed longest ago is forgotten first."""
ANSWERED: Final = 1024
"""Forms with small integer inputs that are remembered for their answers; the oldest answer is forgotten first."""
SMALL_BYTES: Final = 4096
"""Of an integer input that may be a shape or a count."""
DEATHS: Final = 2
"""Lanes that end in one request before it is to blame: one may have ended for a reason of its own."""


class _Form(NamedTuple):
    model: str
    version: str
    placement: str | None
    outputs: tuple[str, ...] | None
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    values: bytes


class _Load(NamedTuple):
    """What stood for a placement: a new load has another report on the same lane, another file another name."""

    lane: weakref.ref[Lane]
    report: LoadReport | None
    name: str
    split: str


@record
class _Costly:
    until_s: float
    given_s: float
    error: QeilError
    policy_digest: str = ""
    starved: dict[str, weakref.ref[Lane]] = field(default_factory=dict)
    """Lanes that had no memory for it, where that is what it is refused for."""
    loads: dict[str, _Load] = field(default_factory=dict)

    def reloaded(self, routes: ModelRoutes) -> bool:
        """Whether its model was loaded anew on a lane that went on."""
        for route in routes.routes:
            before, now = self.loads.get(route.accelerator), _load(route)
            self.loads[route.accelerator] = now
            if before is None:
                continue
            another = (before.name, before.split) != (now.name, now.split)
            if another or (before.lane() is now.lane() and before.report is not now.report):
                return True
        return False

    def may_have_memory(self, routes: ModelRoutes, placement: str | None) -> bool:
        """Whether a placement serves that has not shown that it lacks the memory."""
        return any(self._untried(route) for route in _usable(routes, placement))

    def _untried(self, route: RouteEntry) -> bool:
        parts = parts_of(route, route.name)
        short = [(self.starved[name], lane) for name, lane, _ in parts if name in self.starved]
        if not short:
            return True
        return self.given_s <= REFUSED_S and all(was() is not lane for was, lane in short)


class CostlyRequests:
    """Thread-safe."""

    def __init__(self, sizes: CallSizes, table: RoutingTable, counters: dict[str, int]) -> None:
        """Counts what it refuses under `refused`, and forms forgotten for want of room under `forms_evicted`."""
        self._sizes = sizes
        self._table = table
        self._counters = counters
        self._lock = threading.Lock()
        self._forms: OrderedDict[_Form, _Costly] = OrderedDict()
        self._answered: OrderedDict[_Form, None] = OrderedDict()

    def check(self, request: InferenceRequest, now_s: float) -> None:
        """Raises Overloaded, or TooLarge, for a request of a form that is refused now."""
        if not self._forms:
            return
        form = self._form(request)
        with self._lock:
            found = self._forms.get(form)
            if found is None or now_s >= found.until_s:
                return
            self._counters["refused"] += 1
            error, left_s = found.error, found.until_s - now_s
        sentence = (
            f"model {request.model!r}: a request of this form failed and is not run again for {left_s:.0f} s; send a "
            f"smaller one ({error.message})"
        )
        raise TooLarge(sentence) if isinstance(error, TooLarge) else Overloaded(sentence, left_s)

    def met(self, job: Job, lane: Lane, accelerator: str, error: QeilError) -> bool:
        """A lane could not answer: whether that speaks against it. One request counts once there for its memory."""
        if isinstance(error, LaneOutOfMemory):
            first = accelerator not in job.starved
            job.starved[accelerator] = lane
            return first
        if isinstance(error, LaneDied):
            job.ended_lanes += _was_at(lane, job)
        return isinstance(error, InferenceFailed)

    def answered(self, job: Job) -> None:
        """A request was answered: its form is not to blame, whatever came before or comes after."""
        if not self._forms and (job.scale > 1.0 or not _has_values(job.request)):
            return  # its size is remembered, or every request has its form
        form = self._form(job.request)
        with self._lock:
            self._forms.pop(form, None)
            if form.values:
                self._answered[form] = None
                self._answered.move_to_end(form)
                if len(self._answered) > ANSWERED:
                    self._answered.popitem(last=False)

    def failed(self, job: Job, error: QeilError, now_s: float) -> float:
        """A request failed for good: refuse its form from now on where that is to blame. For how long, 0: not."""
        if isinstance(error, DeadlineExceeded) and job.last_error is not None:
            error = job.last_error  # it waited for a lane to come back, or to try once more
        starved = isinstance(error, LaneOutOfMemory)
        ended = isinstance(error, LaneDied) and not starved and job.ended_lanes >= DEATHS
        table, request = self._table, job.request
        routes = table.models.get(request.model)
        if routes is None or not (starved or ended or isinstance(error, TooLarge)):
            return 0.0
        if starved and not _nowhere(job, routes):
            return 0.0
        form = self._form(request)
        if job.scale <= 1.0 and not form.values:
            return 0.0  # every request has this form
        if job.scale > 1.0 and self._sizes.answered(job):
            return 0.0
        lanes = {name: weakref.ref(lane) for name, lane in job.starved.items()} if starved else {}
        loads = {route.accelerator: _load(route) for route in routes.routes}
        with self._lock:
            if form in self._answered:
                return 0.0
            before = self._forms.pop(form, None)
            if before is None or now_s - before.until_s > MOST_S:
                given_s = REFUSED_S
            else:
                given_s = min(MOST_S, 2.0 * before.given_s)
            self._forms[form] = _Costly(now_s + given_s, given_s, error, table.policy_digest, lanes, loads)
            while len(self._forms) > KEPT:
                self._forms.popitem(last=False)
                self._counters["forms_evicted"] += 1
        return given_s

    def routed(self, table: RoutingTable, now_s: float) -> None:
        """Requests are routed by another table from now on: what it ends the cause of is refused no more."""
        self._table = table
        if not self._forms:
            return
        with self._lock:
            for form, costly in list(self._forms.items()):
                routes = table.models.get(form.model)
                if (
                    routes is None
                    or form.version != table.version(form.model)
                    or costly.policy_digest != table.policy_digest
                    or costly.reloaded(routes)
                ):
                    del self._forms[form]
                elif costly.starved and now_s < costly.until_s and costly.may_have_memory(routes, form.placement):
                    costly.until_s = now_s

    def _form(self, request: InferenceRequest) -> _Form:
        digest = hashlib.blake2b(digest_size=16)
        small = False
        names = sorted(request.inputs)
        for name in names:
            array = request.inputs[name]
            if _is_small(array):
                small = True
                digest.update(array.tobytes())
        return _Form(
            request.model,
            self._table.version(request.model),
            request.placement,
            None if request.outputs is None else tuple(request.outputs),
            tuple((name, request.inputs[name].shape) for name in names),
            digest.digest() if small else b"",
        )


def _is_small(array: Tensor) -> bool:
    return array.dtype.kind in "iu" and array.nbytes <= SMALL_BYTES


def _has_values(request: InferenceRequest) -> bool:
    return any(map(_is_small, request.inputs.values()))


def _usable(routes: ModelRoutes, placement: str | None) -> list[RouteEntry]:
    return [
        r for r in routes.routes
        if placement in (None, r.accelerator) and r.usable and r.capacity_share > 0 and r.alive()
    ]  # fmt: skip


def _nowhere(job: Job, routes: ModelRoutes) -> bool:
    """Whether every placement that serves now and that the request may take had no memory for it, and there is one."""
    usable = _usable(routes, job.request.placement)
    parts = [[(name, lane) for name, lane, _ in parts_of(route, route.name)] for route in usable]
    return bool(parts) and all(any(job.starved.get(name) is lane for name, lane in found) for found in parts)


def _load(route: RouteEntry) -> _Load:
    report = None if route.stages else route.report  # of a split it is put together for each table
    return _Load(weakref.ref(route.lane), report, route.name, route.split)


def _was_at(lane: Lane, job: Job) -> bool:
    """Whether the lane ended while it ran this very request: its page still tells the deadline of the call."""
    signs = lane.vitals()
    return signs is not None and signs.busy_until_s is not None and abs(signs.busy_until_s - job.deadline_s) < SAME_S
