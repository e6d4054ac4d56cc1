"""Costly requests: forms of requests that took a lane's memory or its life, refused for a while instead of run again.

A form is a model with the shapes of its inputs and, as outputs may take their shapes from them, small integer inputs.
One is refused after a request of it failed for good: nowhere was there memory for it, two lanes ended while they were
at it, or what it gave was larger than may cross. Forms of sizes that were answered before, and of inputs that cannot
differ, are never to blame: there it is the lane. Each further failure doubles the time.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from agent.errors import (
    DeadlineExceeded,
    InferenceFailed,
    LaneDied,
    LaneOutOfMemory,
    Overloaded,
    QeilError,
    TooLarge,
)
from agent.ports import InferenceRequest, Lane
from agent.service.serving.call_sizes import SAME_S, CallSizes
from agent.service.serving.job import Job

REFUSED_S: Final = 60.0
MOST_S: Final = 3600.0
KEPT: Final = 256
"""Forms remembered; the one that failed longest ago is forgotten first."""
SMALL_BYTES: Final = 4096
"""Of an integer input that may be a shape or a count."""
DEATHS: Final = 2
"""Lanes that end in one request before it is to blame: one may have ended for a reason of its own."""

_Form = tuple[str, tuple[tuple[str, tuple[int, ...]], ...], bytes]


@dataclass
class _Costly:
    until_s: float
    given_s: float
    error: QeilError


class CostlyRequests:
    """Thread-safe."""

    def __init__(self, sizes: CallSizes) -> None:
        self._sizes = sizes
        self._lock = threading.Lock()
        self._forms: OrderedDict[_Form, _Costly] = OrderedDict()

    def check(self, request: InferenceRequest, now_s: float) -> None:
        """Raises Overloaded, or TooLarge, for a request of a form that is refused now."""
        if not self._forms:
            return
        with self._lock:
            found = self._forms.get(_form(request))
        if found is None or now_s >= found.until_s:
            return
        left_s = found.until_s - now_s
        sentence = (
            f"model {request.model!r}: a request of this form failed and is not run again for {left_s:.0f} s; send a "
            f"smaller one ({found.error.message})"
        )
        raise TooLarge(sentence) if isinstance(found.error, TooLarge) else Overloaded(sentence, left_s)

    def met(self, job: Job, lane: Lane, accelerator: str, error: QeilError) -> bool:
        """A lane could not answer: whether that speaks against it. One request counts once there for its memory."""
        if isinstance(error, LaneOutOfMemory):
            first = accelerator not in job.starved
            job.starved.add(accelerator)
            return first
        if isinstance(error, LaneDied):
            job.ended_lanes += _was_at(lane, job)
        return isinstance(error, InferenceFailed)

    def failed(self, job: Job, error: QeilError, now_s: float) -> None:
        """A request failed for good: refuse its form from now on where that is to blame."""
        if isinstance(error, DeadlineExceeded) and job.last_error is not None:
            error = job.last_error  # it waited for a lane to come back, or to try once more
        starved = isinstance(error, LaneOutOfMemory)
        ended = isinstance(error, LaneDied) and not starved and job.ended_lanes >= DEATHS
        if not (starved or ended or isinstance(error, TooLarge)):
            return
        form = _form(job.request)
        if job.scale <= 1.0 and not form[2]:
            return  # every request has this form
        if job.scale > 1.0 and self._sizes.answered(job):
            return
        with self._lock:
            before = self._forms.pop(form, None)
            given_s = REFUSED_S if before is None else min(MOST_S, 2.0 * before.given_s)
            self._forms[form] = _Costly(now_s + given_s, given_s, error)
            while len(self._forms) > KEPT:
                self._forms.popitem(last=False)


def _form(request: InferenceRequest) -> _Form:
    digest = hashlib.sha256()
    small = False
    for name in sorted(request.inputs):
        array = request.inputs[name]
        if array.dtype.kind in "iu" and array.nbytes <= SMALL_BYTES:
            small = True
            digest.update(array.tobytes())
    shapes = tuple((name, request.inputs[name].shape) for name in sorted(request.inputs))
    return request.model, shapes, digest.digest() if small else b""


def _was_at(lane: Lane, job: Job) -> bool:
    """Whether the lane ended while it ran this very request: its page still tells the deadline of the call."""
    signs = lane.vitals()
    return signs is not None and signs.busy_until_s is not None and abs(signs.busy_until_s - job.deadline_s) < SAME_S
