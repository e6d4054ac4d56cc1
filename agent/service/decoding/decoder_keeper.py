"""Decoder keeper: one language model's lane over its deaths and returns, and the streams that outlive them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Literal

import structlog

from agent.backends.decoder_lane import DecoderLane, DecoderOrder, DecoderReport, LaneEvent, LaneUsage
from agent.control import fault_detector, lane_health
from agent.control.lane_health import Died, Ready, Tick
from agent.errors import DeadlineExceeded, LaneDied, Overloaded, QeilError
from agent.ports import Clock, LaneVitals
from agent.records import record
from agent.schema.policy import Recovery
from agent.schema.text import TextEvent, TextPiece, TextRequest
from agent.service.decoding.decoder_spare import PATIENCE_S, DecoderSpare, Standby
from agent.service.decoding.text_stream import TextStream

STARTUP_TIMEOUT_S = 60.0
UNMENDED_S = 30.0
"""Retry-After of a model that does not come back by itself: somebody has to mend it first."""
NEWEST = 0.1
"""Share of the newest text in the mean of what texts take."""
_log = structlog.get_logger("decoder")


@record(frozen=True)
class DecoderHome:
    """Where and how a model is served."""

    model: str
    accelerator: str
    order: DecoderOrder
    max_streams: int
    turn_s: float | None = None
    """Longest turn to expect: a block of a prompt and a step of all rows."""
    standby: Standby = "cold"
    """warm: a second process waits with runtime and tokenizer; all: with the model too, its memory twice."""


class DecoderKeeper:
    """Thread-safe. `tick` belongs to the supervisor's thread; events come on the lanes' thread."""

    def __init__(
        self,
        home: DecoderHome,
        make_lane: Callable[[], DecoderLane],
        clock: Clock,
        finish: Callable[[TextStream, DecoderReport], None],
    ) -> None:
        """`finish(stream, report)` tells a stream whose texts all ended what it took."""
        self.home = home
        self.health = lane_health.LaneHealth()
        self.lane: DecoderLane | None = None
        self._spare = DecoderSpare(home.standby, home.order, make_lane)
        self.wake: Callable[[], None] = lambda: None
        """Called when the lane is lost: a tick that does not wait for its time ends the pause sooner."""
        self.report: DecoderReport | None = None
        self._last_report: DecoderReport | None = None
        self.refused: str | None = None
        self.text_s: float | None = None
        """What recent requests took from their arrival to the last token; None before any."""
        self._bring_up_s: float | None = None
        """What the lane took the last time from its start until it served."""
        self.counters = {"streams": 0, "failed": 0, "replayed": 0, "tokens": 0}
        self._make_lane, self._clock, self._finish = make_lane, clock, finish
        self._lock = threading.RLock()
        self._streams: set[TextStream] = set()
        self._died: list[str] = []
        self._turn: tuple[float | None, float] = (None, 0.0)
        """Begin of the turn under way, and what the process, and its helper's, had waited for a core before it."""
        self._waited_last_s = 0.0
        self.helper: DecoderKeeper | None = None
        """Of the process that this one asks and waits for."""
        self._helped_s = float("-inf")
        """When the helper was last seen at work."""

    # ------------------------------------------------------------------ any thread

    @property
    def state(self) -> Literal["ready", "loading", "recovering", "unavailable"]:
        """The word shown in status."""
        if self.refused is not None:
            return "unavailable"
        if self.report is not None:
            return "ready"
        if self.health.phase == "open":
            return "unavailable"
        return "recovering" if self.health.restarts or self.health.deaths_s else "loading"

    def streams(self) -> int:
        """Requests under way."""
        return len(self._streams)

    def back_s(self, now_s: float) -> float:
        """Time until the lane is expected to serve; 0 while it does."""
        if self.refused is not None:
            return UNMENDED_S
        if self.report is not None:
            return 0.0
        health = self.health
        if health.phase == "ready":  # it died just now, and the next tick hears of it
            return lane_health.UNKNOWN_BRING_UP_S if self._bring_up_s is None else self._bring_up_s
        back_s = lane_health.back_in_s(health, now_s, self._bring_up_s)
        return UNMENDED_S if back_s is None else back_s

    def write(self, request: TextRequest, on_event: Callable[[TextEvent], None], deadline_s: float) -> TextStream:
        """Begin a request. Raises Overloaded where the queue is full or the model cannot be served soon."""
        now_s = self._clock.monotonic_s()
        stream = TextStream(request, on_event, deadline_s, now_s)
        with self._lock:
            if self.state == "unavailable":
                raise Overloaded(
                    f"model {self.home.model!r}: {self.refused or self.health.last_fault}", self.back_s(now_s)
                )
            if self.report is None and len(self.health.deaths_s) > 1:  # it dies again and again: do not wait with it
                raise Overloaded(f"model {self.home.model!r}: {self.health.last_fault}", self.back_s(now_s))
            if len(self._streams) >= self.home.max_streams:
                said = f"{len(self._streams)} requests of {self.home.model!r} are under way already"
                raise Overloaded(said, self.back_s(now_s) + (self.text_s or 1.0))
            self._streams.add(stream)
            self.counters["streams"] += 1
            if self.report is not None:
                self._submit(stream)
        return stream

    def cancel(self, stream: TextStream) -> None:
        """Give a request up; no event of it comes after this."""
        with self._lock:
            self._forget(stream)

    def fail_all(self, error: QeilError) -> None:
        """End every stream with an error (last act of a shutdown)."""
        for stream in list(self._streams):
            self._fail(stream, error)

    # ------------------------------------------------------------------ supervisor's thread

    def start(self, now_s: float) -> None:
        """Start the first process."""
        self.health = replace(self.health, since_s=now_s)
        self._start()

    def tick(self, permit_until_s: float, limits: Recovery, now_s: float, pace: float = 1.0) -> None:
        """Look after the lane and the deadlines; `permit_until_s` 0 lets texts pause, `pace` below 1 slows them."""
        with self._lock:
            died, self._died = self._died, []
        for cause in died:
            self.health, _ = lane_health.step(self.health, Died(cause), limits, now_s)
            if self._spare.lives and len(self.health.deaths_s) == 1:
                self.health = replace(self.health, next_start_s=now_s)  # the pause is for what dies again and again
            _log.warning("decoder died", model=self.home.model, cause=cause, phase=self.health.phase)
            self._give_up_replayed(limits, now_s)
        lane = self.lane
        if lane is not None and lane.alive():
            lane.renew_permit(permit_until_s)
            lane.set_pace(pace)
            self._check(lane, limits, now_s)
            if self.report is not None:
                if self.health.phase in {"starting", "probing"}:
                    self._bring_up_s = now_s - self.health.since_s
                self.health, _ = lane_health.step(self.health, Ready(), limits, now_s)
                # Its start takes a second of a core, which the texts need that wait for their prompts to be read again.
                behind = any(stream.behind for stream in list(self._streams))
                begin = not behind or now_s - self.health.since_s >= PATIENCE_S
                self._spare.keep(self._lost, permit_until_s, now_s, begin=begin)
        self.health, actions = lane_health.step(self.health, Tick(), limits, now_s)
        if "start" in actions and self.refused is None:
            _log.info("decoder restarts", model=self.home.model, restarts=self.health.restarts)
            self._start()
        for stream in [s for s in list(self._streams) if s.deadline_s <= now_s]:
            self._fail(
                stream, DeadlineExceeded(f"the texts were not finished in time, {stream.tokens} tokens were sent")
            )

    def stop(self, timeout_s: float) -> None:
        """End the lane and its spare."""
        self._spare.stop(timeout_s)
        if self.lane is not None:
            self.lane.stop(timeout_s)

    def _start(self) -> None:
        """A new process, or the one that waits for this."""
        with self._lock:  # a spare that dies while it is taken is told of when it is the lane
            spare, loading = self._spare.take()
            lane = spare or self._make_lane()
            self.lane, self.report = lane, None
        try:
            if spare is None:
                lane.start(lambda cause: self._lost(lane, cause))
            (loading or lane.load(self.home.order)).add_done_callback(lambda done: self._loaded(lane, done))
        except QeilError as error:
            self._lost(lane, error.message)

    def _check(self, lane: DecoderLane, limits: Recovery, now_s: float) -> None:
        vitals = lane.vitals()
        if vitals is None:
            if now_s - self.health.since_s > STARTUP_TIMEOUT_S:
                lane.kill(f"did not start within {STARTUP_TIMEOUT_S:g} s")
            return
        waited_s = self._waited_s(vitals, now_s)
        if vitals.busy_since_s != self._turn[0]:
            self._turn = vitals.busy_since_s, self._waited_last_s
        busy_s = None if vitals.busy_since_s is None else now_s - max(vitals.busy_since_s, self._helped_s)
        starved_s = None if waited_s is None else max(0.0, waited_s - self._turn[1])
        self._waited_last_s = waited_s or 0.0
        signs = fault_detector.LaneSigns(
            now_s - vitals.heartbeat_s, busy_s, self.home.turn_s, self.report is None, starved_s, vitals.stopped
        )
        cause = fault_detector.judge(signs, limits)
        if cause is not None:
            lane.kill(cause)

    def _waited_s(self, vitals: LaneVitals, now_s: float) -> float | None:
        """What the process has waited for a core, and its helper's: while that works or waits, this one cannot go on.

        A helper at work is judged itself; where it hangs it is killed, and this process sees its end.
        """
        lane = self.helper.lane if self.helper is not None else None
        helping = lane.vitals() if lane is not None and lane.alive() else None
        if helping is None or vitals.waited_s is None:
            return vitals.waited_s
        if helping.busy_since_s is not None:
            self._helped_s = now_s
        return None if helping.waited_s is None else vitals.waited_s + helping.waited_s

    # ------------------------------------------------------------------ lanes' thread

    def _loaded(self, lane: DecoderLane, done: Future[DecoderReport]) -> None:
        error = done.exception()
        with self._lock:
            if lane is not self.lane or isinstance(error, LaneDied):
                return
            if error is not None:
                self.refused = getattr(error, "message", str(error))
                _log.warning("decoder refused", model=self.home.model, cause=self.refused)
            else:
                self.report = self._last_report = done.result()
                for stream in list(self._streams):
                    self._submit(stream)
        if error is not None:
            self.fail_all(Overloaded(f"model {self.home.model!r}: {self.refused}", UNMENDED_S))

    def _lost(self, lane: DecoderLane, cause: str) -> None:
        with self._lock:
            if lane is not self.lane:
                return
            self.report = None
            self._died.append(cause)
        self.wake()

    def _give_up_replayed(self, limits: Recovery, now_s: float) -> None:
        for stream in list(self._streams):
            if stream.ended and self._last_report is not None:  # all is sent; the account of what it took is lost
                with self._lock:
                    self._forget(stream)
                self._finish(stream, self._last_report)
                continue
            stream.replays += 1
            if stream.replays > limits.max_replays:
                said = f"model {self.home.model!r} was lost {stream.replays} times meanwhile"
                self._fail(stream, Overloaded(said, self.back_s(now_s)))
            else:
                stream.behind = True
                self.counters["replayed"] += 1

    def _submit(self, stream: TextStream) -> None:
        """Send what is left of a stream to the lane. Under the lock."""
        lane = self.lane
        assert lane is not None  # noqa: S101  (there is a report)
        stream.numbers.clear()
        try:
            for job in stream.jobs():
                stream.numbers.add(lane.write(job, lambda number, event: self._told(stream, number, event)))
        except LaneDied:
            return  # its death is under way to us; the next lane takes the stream
        except QeilError as error:
            self._fail(stream, error)

    def _told(self, stream: TextStream, number: int, event: LaneEvent) -> None:
        with self._lock:
            if stream.over or number not in stream.numbers:
                return
            if isinstance(event, TextPiece):
                if not stream.took(event):
                    return
                self.counters["tokens"] += not event.prompt
                told: TextEvent | None = event
            elif isinstance(event, LaneUsage):
                stream.usages.append(event)
                stream.numbers.discard(number)
                told = None
            elif isinstance(event, LaneDied):
                stream.numbers.discard(number)
                return
            else:
                told = event
            report, ended = self.report, stream.ended and not stream.numbers
        if isinstance(told, QeilError):
            self._fail(stream, told)
        elif told is not None:
            stream.on_event(told)
        elif ended and report is not None:
            took_s = self._clock.monotonic_s() - stream.started_s
            with self._lock:
                self._forget(stream)
                self.text_s = took_s if self.text_s is None else self.text_s + NEWEST * (took_s - self.text_s)
            self._finish(stream, report)

    def _fail(self, stream: TextStream, error: QeilError) -> None:
        with self._lock:
            if stream.over:
                return
            self._forget(stream)
            self.counters["failed"] += 1
        stream.on_event(error)

    def _forget(self, stream: TextStream) -> None:
        stream.over = True
        self._streams.discard(stream)
        numbers, stream.numbers = stream.numbers, set()
        if self.lane is not None:
            for number in numbers:
                self.lane.cancel(number)


@record(frozen=True)
class TextStreamHandle:
    """`ports.TextHandle`."""

    keeper: DecoderKeeper
    stream: TextStream

    def cancel(self) -> None:
        """Compute nothing more for it."""
        self.keeper.cancel(self.stream)
