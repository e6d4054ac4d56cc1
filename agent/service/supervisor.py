"""Supervisor: sole owner of the agent's mutable state; a bounded mailbox and a 10 Hz tick.

Every tick it reads the lanes' vital signs, judges heat and health, starts and kills lanes, renews or withholds
their run permits, publishes a routing table and a snapshot. It decides through `agent.control` and overrules the
planner always: a lane without a permit runs nothing, whatever the plan says.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import structlog

from agent.control import fault_detector, lane_health, lifecycle
from agent.control.lane_health import Died, Tick
from agent.control.thermal_governor import ThermalVerdict
from agent.ports import Clock, Reading
from agent.schema.device import DeviceProfile
from agent.schema.snapshot import AgentInfo, AgentSnapshot, Mode, ModelStatus
from agent.service import status_view, stillness, unknowns
from agent.service.conditions import ConditionBook
from agent.service.heat import HeatWatch, PointActuator
from agent.service.mail import (
    ConditionEvent,
    DrainEvent,
    Event,
    PlanEvent,
    PolicyRejectedEvent,
    RestartLaneEvent,
    SamplesEvent,
    SuspectEvent,
)
from agent.service.planning.plan import ModelPlan
from agent.service.serving.dispatcher import Dispatcher
from agent.service.serving.lane_keeper import LaneDiedEvent, LaneKeeper, LoadDoneEvent
from agent.service.serving.serving_state import InForce, ServingState
from agent.service.stillness import Stillness

TICK_S = 0.1
MAILBOX = 4096

_log = structlog.get_logger("supervisor")


class TelemetrySink(Protocol):
    """What the supervisor tells the outside; must not block."""

    def tick(self, snapshot: AgentSnapshot, readings: tuple[Reading, ...], now_s: float) -> None:
        """Called every tick."""
        ...

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Something happened once."""
        ...


class Supervisor:
    """See module. `post` may be called from any thread; everything else belongs to the supervisor's own."""

    def __init__(
        self,
        profile: DeviceProfile,
        current: InForce,
        keepers: Mapping[str, LaneKeeper],
        dispatcher: Dispatcher,
        telemetry: TelemetrySink,
        clock: Clock,
        info: AgentInfo,
        on_policy: Callable[[InForce], None],
        actuators: Mapping[str, PointActuator] | None = None,
    ) -> None:
        self.profile = profile
        self.keepers = keepers
        for keeper in keepers.values():
            keeper.sizes = dispatcher.sizes
        self.dispatcher = dispatcher
        self.conditions = ConditionBook()
        self.mailbox_dropped = 0
        self._telemetry = telemetry
        self._clock = clock
        self._info = info
        self._on_policy = on_policy
        self._mailbox: queue.SimpleQueue[Event] = queue.SimpleQueue()  # waits in C: a third of what Queue costs idle
        self._state = ServingState(current, keepers)
        self._heat = HeatWatch(profile, actuators or {})
        self._verdicts: Mapping[str, ThermalVerdict] = {}
        self._stillness = Stillness()
        self._readings: tuple[Reading, ...] = ()
        self._told_plans: dict[str, tuple[str, Any, Any]] = {}
        self._draining = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._mode: Mode = "starting"
        self.after_tick: Callable[[float], None] = lambda _: None
        """Called at the end of every tick, on this thread; must not block."""
        self.last_tick_s = clock.monotonic_s()
        self.snapshot = AgentSnapshot(info)

    # ------------------------------------------------------------------ from outside

    def start(self) -> None:
        """Start the lanes that have a model to load, then tick; the others follow once the models are served."""
        now_s = self._clock.monotonic_s()
        for keeper in self.keepers.values():
            self._start_first(keeper, now_s)
        self._thread.start()

    def _start_first(self, keeper: LaneKeeper, now_s: float) -> None:
        if keeper.generation == 0 and keeper.models:
            keeper.health = replace(keeper.health, since_s=now_s)
            keeper.start(self._state.current.policy.recovery, now_s)

    def post(self, event: Event) -> None:
        """Mail an event; a full mailbox drops it and counts that (the next tick sees the facts anyway)."""
        if self._mailbox.qsize() >= MAILBOX:
            self.mailbox_dropped += 1
        else:
            self._mailbox.put(event)

    def alive(self) -> bool:
        """Whether the tick makes progress."""
        return self._thread.is_alive() and self._clock.monotonic_s() - self.last_tick_s < 2.0

    def stop(self) -> None:
        """End the thread; lanes are stopped by the caller afterwards."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._heat.restore()

    @property
    def in_force(self) -> InForce:
        """Policy and plan in force (immutable)."""
        return self._state.current

    @property
    def wanted(self) -> InForce:
        """Policy and plan that are being brought up, else those in force."""
        return self._state.pending or self._state.current

    def serve_also(self, statuses: Callable[[], tuple[ModelStatus, ...]]) -> None:
        """Show these models too, which others place and run. Before the start."""
        self._state.others = statuses

    def show_times(self, times_s: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        """Show what placements took on the idle board, by model file and placement [s]. Before the start."""
        self._state.times_s = times_s

    # ------------------------------------------------------------------ thread

    def _run(self) -> None:
        next_tick_s = self._clock.monotonic_s()
        try:
            while not self._stop.is_set():
                wait_s = next_tick_s - self._clock.monotonic_s()
                urgent = self._drain_mailbox(max(0.0, wait_s))
                now_s = self._clock.monotonic_s()
                if now_s >= next_tick_s or urgent:
                    self.tick(now_s)
                    next_tick_s = max(next_tick_s + TICK_S, now_s) if now_s >= next_tick_s else next_tick_s
        except Exception:  # noqa: BLE001  (thread root: a dead supervisor lets permits expire and the watchdog bite)
            _log.exception("supervisor died")

    def _drain_mailbox(self, wait_s: float) -> bool:
        """Handle what is there, waiting for the first event; True if the tick should not wait."""
        urgent = False
        try:
            event = self._mailbox.get(timeout=wait_s) if wait_s > 0 else self._mailbox.get_nowait()
            for _ in range(MAILBOX):
                urgent = self.handle(event, self._clock.monotonic_s()) or urgent
                event = self._mailbox.get_nowait()
        except queue.Empty:
            pass
        return urgent

    def handle(self, event: Event, now_s: float) -> bool:
        """React to one event; True if something changed that must be published at once."""
        if isinstance(event, SamplesEvent):
            self._readings = event.readings
            return False
        if isinstance(event, ConditionEvent):
            return self._condition(event)
        changed = self._happened(event, now_s)
        if changed:
            self._stillness.end()
        return changed

    def _condition(self, event: ConditionEvent) -> bool:
        if event.cause is None:
            return self.conditions.clear(event.type)
        return self.conditions.set(event.type, event.cause, event.consequence, event.mend, self._clock.wall_s())

    def _happened(self, event: Event, now_s: float) -> bool:
        if isinstance(event, LaneDiedEvent):
            return self._lane_died(event, now_s)
        if isinstance(event, LoadDoneEvent):
            return self._load_done(event)
        if isinstance(event, PlanEvent):
            self._proposed(event)
        elif isinstance(event, PolicyRejectedEvent):
            self._rejected(event.cause)
        elif isinstance(event, SuspectEvent):
            self._telemetry.event("inference_failed", {"accelerator": event.accelerator, "cause": event.cause})
        elif isinstance(event, RestartLaneEvent):
            self._restart(event)
        elif isinstance(event, DrainEvent):
            self._draining = event.on
        return True

    def _restart(self, event: RestartLaneEvent) -> None:
        lane = self.keepers[event.accelerator].lane
        if lane is not None and lane.alive():
            lane.kill(event.cause)

    def _lane_died(self, event: LaneDiedEvent, now_s: float) -> bool:
        keeper = self.keepers[event.accelerator]
        if event.generation != keeper.generation:
            return False
        refused = keeper.blame_death(event.cause)
        limits = self._state.current.policy.recovery
        died = Died(event.cause, blameless=fault_detector.UNTIMED in event.cause)
        keeper.health, _ = lane_health.step(keeper.health, died, limits, now_s)
        _log.warning("lane died", accelerator=event.accelerator, cause=event.cause, phase=keeper.health.phase)
        self._telemetry.event("lane_died", {"accelerator": event.accelerator, "cause": event.cause})
        if refused is not None:
            self._telemetry.event("model_refused", {"model": refused.candidate.load.model, "cause": refused.reason})
        return True

    def _load_done(self, event: LoadDoneEvent) -> bool:
        keeper = self.keepers[event.accelerator]
        entry = keeper.models.get(event.model)
        if event.generation != keeper.generation or entry is None:
            if event.generation == keeper.generation and event.report is not None:
                keeper.unload(event.model)  # nobody has wanted it since its load began
            return False
        if event.report is None:
            if keeper.lane is not None and keeper.lane.alive():
                entry.state, entry.reason, entry.changed = "refused", event.error, event.changed
                _log.warning("model refused", model=event.model, accelerator=event.accelerator, cause=event.error)
                fields = {"model": event.model, "accelerator": event.accelerator, "cause": event.error}
                self._telemetry.event("model_refused", fields)
                self._state.place(self._state.pending or self._state.current)
            return True
        verdict = self._state.loaded(keeper, event.model, event.report)
        if verdict.outcome != "serve":
            _log.warning("fallback", model=event.model, accelerator=event.accelerator, cause=verdict.sentence)
        if verdict.outcome == "refuse":
            self._state.place(self._state.pending or self._state.current)
        return True

    def _proposed(self, event: PlanEvent) -> None:
        _log.info("plan proposed", why=event.why, policy=event.wanted.policy.name, digest=event.wanted.digest)
        self._state.propose(event.wanted)
        event.taken.set()
        for model in event.wanted.plan.models:
            self._tell_plan(model, event)

    def _tell_plan(self, model: ModelPlan, event: PlanEvent) -> None:
        """Tell of a plan that changes who serves or stands behind: each event is committed to flash at once."""
        fields = status_view.planned(model, event.why)
        told = (event.wanted.digest, fields["serves"], fields.get("stages"))
        if self._told_plans.get(model.name) != told:
            self._told_plans[model.name] = told
            self._telemetry.event("planned", fields)

    def _rejected(self, cause: str) -> None:
        wall_s = self._clock.wall_s()
        current = self._state.current.policy.name
        consequence = f"the last good policy ({current}) stays in force"
        self.conditions.set("policy_rejected", cause, consequence, "correct the file; qeil check FILE", wall_s)
        self._telemetry.event("policy_rejected", {"cause": cause})
        _log.warning("policy rejected", cause=cause)

    # ------------------------------------------------------------------ tick

    def tick(self, now_s: float) -> None:
        """One round of judging, acting and publishing."""
        policy = self._state.current.policy
        for keeper in self.keepers.values():
            self._check_lane(keeper, now_s)
        self._judge_heat(now_s)
        self._commit()
        for keeper in self.keepers.values():
            self._permit(keeper, now_s + policy.recovery.permit_s)
        requests = sum(meter.requests for meter in list(self.dispatcher.meters.values()))
        seen = (self._readings, self.conditions.all(), self._state.others(), requests)
        if self.dispatcher.in_flight():  # one may wait for the next table
            self._stillness.end()
        self.dispatcher.heard_s = now_s
        if not self._stillness.holds(stillness.signs(self.keepers, self._state, seen, now_s), now_s):
            self._publish(now_s)
        self._telemetry.tick(self.snapshot, self._readings, now_s)
        self._state.unload_rest()  # after the table that no longer routes there
        self.after_tick(now_s)
        self.last_tick_s = now_s

    def _check_lane(self, keeper: LaneKeeper, now_s: float) -> None:
        if keeper.unused:
            return
        limits = self._state.current.policy.recovery
        self._start_first(keeper, now_s)
        if keeper.lane is not None and keeper.lane.alive():
            keeper.vitals = keeper.lane.vitals()
            cause = keeper.fault(limits, now_s, self._state.longest_prediction_s(keeper))
            if cause is not None:
                keeper.lane.kill(cause)
                return
            if keeper.settled():
                keeper.serves(limits, now_s)
        keeper.health, actions = lane_health.step(keeper.health, Tick(), limits, now_s)
        if "start" in actions:
            _log.info("lane restarts", accelerator=keeper.name, restarts=keeper.health.restarts)
            keeper.start(limits, now_s)

    def _judge_heat(self, now_s: float) -> None:
        policy = self._state.current.policy
        verdicts = self._heat.judge(self.keepers, self._readings, policy, now_s)
        self._heat.apply(policy, self.conditions, self._clock.wall_s())
        if verdicts is self._verdicts:
            return
        self._verdicts = verdicts
        for name, verdict in verdicts.items():
            before, self.keepers[name].verdict = self.keepers[name].verdict, verdict
            if verdict.level != before.level:
                _log.warning("thermal verdict", accelerator=name, level=verdict.level.name, cause=verdict.cause)
                fields = {"accelerator": name, "level": verdict.level.name, "cause": verdict.cause}
                self._telemetry.event("thermal", fields)

    def _commit(self) -> None:
        pending = self._state.pending
        if pending is None:
            return
        lost = self._state.lost_models(pending)
        if lost:
            self._state.abandon()
            self._rejected(f"policy {pending.policy.name}: no placement could be loaded for {', '.join(lost)}")
            return
        previous = self._state.commit_if_ready()
        if previous is None:
            return
        self.conditions.clear("policy_rejected")
        _log.info("plan in force", policy=pending.policy.name, digest=pending.digest)
        if previous.digest != pending.digest or previous.plan.names != pending.plan.names:
            self._on_policy(pending)
            self._telemetry.event("policy_accepted", {"policy": pending.policy.name, "digest": pending.digest})

    def _permit(self, keeper: LaneKeeper, until_s: float) -> None:
        if keeper.lane is not None and keeper.lane.alive():
            running = keeper.health.phase in {"starting", "probing", "ready"}
            keeper.lane.set_pace(keeper.verdict.pace or 1.0)
            keeper.lane.renew_permit(until_s if keeper.verdict.permit and running else 0.0)

    def _publish(self, now_s: float) -> None:
        hot = [k for k in self.keepers.values() if k.verdict.level and k.verdict.cause and self._has_zones(k)]
        facts = lifecycle.Facts(
            draining=self._draining,
            thread_died=False,
            models_total=self._state.total_models(),
            models_pending=self._state.pending_models(),
            models_unserved=self._state.unserved_models(),
            lanes_down=sum(k.state() in {"restarting", "quarantined", "stopped"} for k in self.keepers.values()),
            thermally_limited=len(hot),
        )
        mode = lifecycle.mode(facts)
        if mode != self._mode:
            _log.info("mode", old=self._mode, new=mode)
            self._telemetry.event("mode", {"old": self._mode, "new": mode})
            self._mode = mode
        wall_s = self._clock.wall_s()
        status_view.update_conditions(self.conditions, self.profile, self.keepers, self._state, wall_s)
        status_view.unshared(self.conditions, self.keepers, self.dispatcher.batches.refusals(), wall_s)
        table = self._state.table(mode, now_s)
        self.dispatcher.replace(table)
        current = self._state.current
        snapshot = AgentSnapshot(
            agent=replace(self._info, mode=mode, policy=current.policy.name, policy_digest=current.digest),
            accelerators=tuple(
                status_view.accelerator(k, self.profile, self._readings, current.policy, now_s)
                for k in self.keepers.values()
            ),
            models=self._state.model_statuses(self.dispatcher, table),
            conditions=self.conditions.all(),
            zones=self._heat.zones(),
        )
        self.snapshot = unknowns.explained(snapshot, self.profile, current.policy, self._readings)

    def _has_zones(self, keeper: LaneKeeper) -> bool:
        return bool(self.profile.zones) or keeper.spec.simulated
