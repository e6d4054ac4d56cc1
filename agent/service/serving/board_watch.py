"""Board watch: memory that is left, and what creeps up on a board over hours. Refuses requests, shows conditions.

`look` belongs to the supervisor's thread; `admit` may be called from any. Reads some small files a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TypeVar

import structlog

from agent.control import board_memory, lane_drift
from agent.control.board_memory import MemoryReading, MemoryState
from agent.control.lane_drift import LatencyDrift, MemoryGrowth
from agent.errors import Overloaded
from agent.ports import InferenceRequest
from agent.records import record
from agent.schema.policy import Memory
from agent.sensors.memory import HardwareErrors
from agent.service.conditions import SHOWN_S
from agent.service.serving.lane_keeper import LaneKeeper
from agent.service.serving.meter import Meter

_log = structlog.get_logger("board")

READ_S = 1.0
ERRORS_S = 30.0
"""Counters of hardware errors are read this often: there may be many devices."""
_Request = TypeVar("_Request")
_Result = TypeVar("_Result")
Tell = Callable[[str, str | None, str, str], None]


@record
class _Event:
    """A counter that only grows: what it last was, and until when its last rise is shown."""

    count: int
    shown_until_s: float = 0.0


@record
class _Lane:
    """What is remembered of one process of a lane."""

    pid: int | None
    memory: MemoryGrowth | None = None
    latency: dict[str, LatencyDrift] = field(default_factory=dict)


class BoardWatch:
    """`tell(type, cause, consequence, mend)` shows a condition, cause None clears it."""

    def __init__(
        self,
        read: Callable[[], MemoryReading],
        read_errors: Callable[[], HardwareErrors],
        limits: Callable[[], Memory],
        meters: Mapping[str, Meter],
        tell: Tell,
    ) -> None:
        """`meters`: of every model that was asked, as they come to be."""
        self._read, self._read_errors, self._limits = read, read_errors, limits
        self._meters, self._tell = meters, tell
        self._lock = threading.Lock()
        self._state = MemoryState()
        self._next_s = self._next_errors_s = float("-inf")
        self._events: dict[str, _Event] = {}
        self._lanes: dict[str, _Lane] = {}
        self._shown: dict[str, str] = {}
        self.refused = 0

    @property
    def memory(self) -> MemoryReading:
        """The last reading."""
        return self._state.reading

    def admit(self, request: InferenceRequest | None = None) -> None:
        """Raises Overloaded, with the figures, where the board has no memory for more."""
        tensor_bytes = 0
        for tensor in () if request is None else request.inputs.values():
            tensor_bytes += tensor.nbytes
        with self._lock:
            self._state, why = board_memory.admit(self._state, tensor_bytes, self._limits())
            self.refused += why is not None
        if why is not None:
            raise Overloaded(f"no memory for another request: {why}", board_memory.RETRY_S)

    def before(self, next_step: Callable[[_Request], _Result]) -> Callable[[_Request], _Result]:
        """The step, for requests that are admitted."""

        def guarded(request: _Request) -> _Result:
            self.admit(request if isinstance(request, InferenceRequest) else None)
            return next_step(request)

        return guarded

    # ------------------------------------------------------------------ supervisor's side

    def look(self, keepers: Mapping[str, LaneKeeper], now_s: float) -> None:
        """Read and judge, once a second."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + READ_S
        reading = self._read()
        with self._lock:
            self._state = board_memory.step(self._state, reading, self._limits())
            low = self._state.low
        self._show(
            "memory_low", low, "new requests get 503 until memory is free again",
            "stop other programs, serve fewer models, or lower memory.min_free_bytes",
        )  # fmt: skip
        if reading.oom_kills is not None:
            self._count(
                "oom_kill", reading.oom_kills, now_s, "the kernel ended {} processes for want of memory",
                "a lane among them starts again by itself", "serve fewer models or lower memory.max_cpq",
            )  # fmt: skip
        if now_s >= self._next_errors_s:
            self._next_errors_s = now_s + ERRORS_S
            self._errors(now_s)
        for keeper in keepers.values():
            self._lane(keeper, now_s)

    def _errors(self, now_s: float) -> None:
        errors = self._read_errors()
        for name, count in errors.corrected.items():
            self._count(
                f"corrected_errors:{name}", count, now_s, "{} errors were corrected by the hardware", "none yet",
                "watch whether it goes on; memory or link may be about to fail",
            )  # fmt: skip
        for name, count in errors.fatal.items():
            self._count(
                f"hardware_errors:{name}", count, now_s, "{} errors could not be corrected",
                "answers may be wrong; canaries look for that", "see the kernel's log; replace the part",
            )  # fmt: skip

    def _count(self, kind: str, count: int, now_s: float, cause: str, consequence: str, mend: str) -> None:
        event = self._events.setdefault(kind, _Event(count))
        if count > event.count:
            _log.warning("board", what=kind, count=count - event.count)
            event.shown_until_s = now_s + SHOWN_S
            self._show(kind, cause.format(count - event.count), consequence, mend)
        elif now_s >= event.shown_until_s:
            self._show(kind, None, "", "")
        event.count = count

    def _lane(self, keeper: LaneKeeper, now_s: float) -> None:
        lane, vitals = keeper.lane, keeper.vitals
        pid = lane.pid() if lane is not None and lane.alive() else None
        known = self._lanes.get(keeper.name)
        if known is None or known.pid != pid:
            known = self._lanes[keeper.name] = _Lane(pid)
            for kind in [k for k in self._shown if k.endswith(f":{keeper.name}")]:
                self._show(kind, None, "", "")  # it was said of the process before
        if pid is None or vitals is None:
            return
        known.memory = lane_drift.grew(known.memory, vitals.rss_bytes, now_s)
        grown = known.memory.grown_bytes()
        held = f"to {vitals.rss_bytes / 2**20:.0f} MiB"
        self._show(
            f"memory_growth:{keeper.name}",
            None if grown is None else f"its process grew by {grown / 2**20:.0f} MiB {held}",
            "it will be refused memory in the end, and start again then",
            "tell whoever made the runtime; restarting the agent frees it",
        )  # fmt: skip
        for model, entry in keeper.models.items():
            meter = self._meters.get(model)
            typical_s = meter.typical_s(keeper.name) if meter is not None else None
            if typical_s is not None:
                self._latency(known, keeper.name, model, typical_s, entry.candidate.predicted_s, now_s)

    def _latency(
        self, known: _Lane, accelerator: str, model: str, typical_s: float, predicted_s: float | None, now_s: float
    ) -> None:
        before = known.latency.get(model)
        drift = known.latency[model] = lane_drift.drifted(before, typical_s, now_s, predicted_s)
        cause = None
        if drift.beyond(now_s) and predicted_s is not None:
            told = f"{drift.beyond_factor:.2g} times the {predicted_s * 1e3:.3g} ms predicted"
            cause = f"a call takes {typical_s * 1e3:.3g} ms, {told}"
        if drift.slowed(now_s) and drift.first_s is not None:
            told = f"{drift.factor:.2g} times the {drift.first_s * 1e3:.3g} ms of before"
            cause = f"a call takes {typical_s * 1e3:.3g} ms, {told}"
        self._show(
            f"slower:{model}:{accelerator}", cause, "deadlines and forecasts made from the earlier time may not hold",
            "look for heat, other programs and larger inputs; what never was quicker: qeil calibrate",
        )  # fmt: skip

    def _show(self, kind: str, cause: str | None, consequence: str, mend: str) -> None:
        if cause is None:
            if self._shown.pop(kind, None) is not None:
                self._tell(kind, None, "", "")
        elif self._shown.get(kind) != cause:
            self._shown[kind] = cause
            self._tell(kind, cause, consequence, mend)
