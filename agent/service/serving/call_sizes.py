"""Call sizes: how much larger than planned a request is, and how long a call of that size may take on its lane.

Prediction and p99 are those of the sizes that were asked so far. A larger call of a model with open dimensions is no
hang because it takes longer: until calls of its size were timed there, it is given its request's own time, or what the
square of its size would take (attention) where that is less, or much more than the few that were timed. One that takes
longer still costs its lane a restart. A size that hung for all of its request's time, or twice, is refused for a while.
Only the call in progress counts: lanes tell its deadline, which tells whose it is. What waits there beside it, whether
it came before or after, says nothing about it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Collection
from dataclasses import field
from typing import Final

from agent.control.fault_detector import UNPREDICTED_S
from agent.errors import Overloaded
from agent.ports import InferenceRequest
from agent.records import record
from agent.service.serving.job import Job
from agent.service.serving.meter import ENOUGH
from agent.service.serving.routing_table import ModelRoutes, RouteEntry

REFUSED_S: Final = 60.0
"""A size whose call hung is not tried again so soon, but by a request that has more time than that one had."""
_KEPT: Final = 64
"""Times kept per lane, model and size."""
SAME_S: Final = 1e-6
"""Deadlines cross to a lane in whole nanoseconds; two that are nearer than this are taken for the same."""
_FEW_FACTOR: Final = 10.0
"""A call may take so often the longest of too few that were timed."""


@record(frozen=True)
class Allowance:
    """The longest that a call under way on a lane may take; `untimed`: because nobody has timed its size."""

    time_s: float = 0.0
    expected_s: float | None = None
    untimed: bool = False


@record(frozen=True)
class _Call:
    lanes: tuple[str, ...]
    model: str
    size: int
    begun_s: float
    given_s: float
    due_s: float
    """Its request's deadline."""
    shared: bool
    """It may go with others in a call that has the latest of their deadlines."""
    until_s: float
    """Nothing is waited for any more: neither its answer nor its end."""

    def may_be(self, lane: str, busy_since_s: float, busy_until_s: float | None) -> bool:
        """Whether it may be what the lane has been at since then: what was sent later waits behind that.

        busy_until_s: the deadline of what the lane is at, which no other request has; None: not told.
        """
        if lane not in self.lanes or self.begun_s > busy_since_s:
            return False
        return self.shared or busy_until_s is None or abs(busy_until_s - self.due_s) < SAME_S


@record(frozen=True)
class _Hung:
    until_s: float
    given_s: float


@record
class CallSizes:
    """Thread-safe. A size is a power of two of the planned number of elements."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _calls: dict[int, _Call] = field(default_factory=dict)
    _times_s: dict[tuple[str, str, int], deque[float]] = field(default_factory=dict)
    _hung: dict[tuple[str, int], _Hung] = field(default_factory=dict)
    _suspects: dict[tuple[str, int], float] = field(default_factory=dict)
    """Until when a size counts as one that hung once: the lane may have been to blame."""

    def scale(self, request: InferenceRequest, model: ModelRoutes, given_s: float, now_s: float) -> float:
        """Elements of a request in units of the planned ones. Raises Overloaded for a size whose call hung."""
        scale = model.scale(request.inputs)
        if self._hung and scale > 1.0:
            size = _size(scale)
            with self._lock:
                self._hung = {key: hung for key, hung in self._hung.items() if now_s < hung.until_s}
                found = [h for (name, least), h in self._hung.items() if name == request.model and least <= size]
            worst = max((h for h in found if given_s <= h.given_s), key=lambda h: h.until_s, default=None)
            if worst is not None:
                raise Overloaded(
                    f"model {request.model!r}: a request of this size did not end within {worst.given_s:g} s and cost "
                    "an accelerator a restart; send a smaller one, or give it more time",
                    worst.until_s - now_s,
                )
        return scale

    def begin(self, job: Job, route: RouteEntry, now_s: float, shared: bool = False) -> None:
        """A call is on its way to the lanes of a placement; `shared`: perhaps together with others."""
        if job.scale <= 1.0:
            return
        lanes = tuple(s.stage.accelerator for s in route.stages) or (route.accelerator,)
        given_s = max(UNPREDICTED_S, job.deadline_s - job.started_s)
        until_s = max(now_s, job.deadline_s) + 2 * given_s
        with self._lock:
            self._calls[job.ticket] = _Call(
                lanes, job.request.model, _size(job.scale), now_s, given_s, job.deadline_s, shared, until_s
            )  # fmt: skip

    def ended(self, job: Job, execute_s: float | None = None) -> None:
        """The call is over; `execute_s` where it gave an answer."""
        if job.scale <= 1.0:
            return
        with self._lock:
            call = self._calls.pop(job.ticket, None)
            if call is None or execute_s is None:
                return
            self._suspects.pop((call.model, call.size), None)
            for lane in call.lanes:
                self._times_s.setdefault((lane, call.model, call.size), deque(maxlen=_KEPT)).append(execute_s)

    def allowance(
        self, lane: str, now_s: float, longest_s: float | None = None, busy_since_s: float = math.inf,
        busy_until_s: float | None = None,
    ) -> Allowance:  # fmt: skip
        """Of the calls larger than planned of which one may be that in progress on a lane.

        longest_s: what a call of the planned size may take; None: unknown. busy_since_s: when that in progress began,
        busy_until_s: its deadline where the lane tells it.
        """
        if not self._calls:
            return Allowance()
        with self._lock:
            self._calls = {ticket: call for ticket, call in self._calls.items() if now_s < call.until_s}
            calls = [call for call in self._calls.values() if call.may_be(lane, busy_since_s, busy_until_s)]
            times = [self._times(lane, call) for call in calls]
        known = [max(t) for t in times if len(t) >= ENOUGH]
        given = [_given_s(call, t, longest_s) for call, t in zip(calls, times, strict=True) if len(t) < ENOUGH]
        return Allowance(max(given, default=0.0), max(known, default=None), bool(given))

    def hung(self, lane: str, now_s: float, busy_since_s: float = math.inf, busy_until_s: float | None = None) -> None:
        """The lane is ended for a call that nobody had timed: the first of those that were sent before it began.

        Where its request still has time it is run elsewhere, which tells whether its size was to blame.
        """
        with self._lock:
            for ticket, call in self._calls.items():
                if call.may_be(lane, busy_since_s, busy_until_s) and len(self._times(lane, call)) < ENOUGH:
                    key = (call.model, call.size)
                    again = now_s < self._suspects.get(key, now_s)
                    if again or now_s >= call.due_s:
                        self._hung[key] = _Hung(now_s + REFUSED_S, call.given_s)
                    self._suspects[key] = now_s + REFUSED_S
                    del self._calls[ticket]
                    return

    def answered(self, job: Job) -> bool:
        """Whether a request of this size was ever answered, on whichever lane."""
        key = (job.request.model, _size(job.scale))
        with self._lock:
            return any((model, size) == key for _, model, size in self._times_s)

    def _times(self, lane: str, call: _Call) -> Collection[float]:
        return self._times_s.get((lane, call.model, call.size), ())


def _given_s(call: _Call, times_s: Collection[float], longest_s: float | None) -> float:
    """Time for a call of a size that was timed too seldom: never more than its request's own."""
    if times_s:
        bound_s = _FEW_FACTOR * max(times_s)
    elif longest_s is not None:
        bound_s = longest_s * 4.0**call.size
    else:
        return call.given_s
    return min(call.given_s, max(UNPREDICTED_S, bound_s))


def _size(scale: float) -> int:
    return max(0, int(scale) - 1).bit_length()
