"""App: builds the agent from settings, starts and stops its parts in order, and keeps the service manager informed."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from agent import __version__
from agent.api.server import HttpServer
from agent.backends.engine_cache import prune
from agent.backends.factory import LaneFactory
from agent.errors import Overloaded
from agent.placement.state import State
from agent.schema.device import Accelerator
from agent.schema.settings import Settings
from agent.schema.snapshot import AgentSnapshot
from agent.sensors.host import available_bytes
from agent.sensors.memory import read_errors, read_memory
from agent.sensors.registry import build_sensors
from agent.sensors.sysfs import SysfsReader
from agent.service import assembly, configuration, status_view
from agent.service.board import Board, host_runtime
from agent.service.clock import SystemClock, known_s
from agent.service.early_probe import EarlyStart
from agent.service.insight import Insight
from agent.service.mail import ConditionEvent, DrainEvent, RestartLaneEvent, SuspectEvent
from agent.service.no_language import NoDecoders
from agent.service.planning.plan import Plan
from agent.service.planning.planner_process import PlannerProcess
from agent.service.planning.planning_state import Replanner, planning_state, starting_state
from agent.service.policy_watch import PolicyEdit, PolicyWatch
from agent.service.remote.rail_shares import RailShares
from agent.service.remote.reporting import Reporting
from agent.service.sampler import Sampler
from agent.service.serving import model_store
from agent.service.serving.batching import Batches
from agent.service.serving.board_watch import BoardWatch
from agent.service.serving.canaries import Canaries
from agent.service.serving.dispatcher import Dispatcher
from agent.service.serving.held_answers import HeldAnswers
from agent.service.serving.inference import AgentInference
from agent.service.serving.input_screen import InputScreen
from agent.service.serving.lane_keeper import LaneDiedEvent, LaneKeeper, LoadDoneEvent, stop_lanes
from agent.service.serving.lane_watch import LaneWatch
from agent.service.serving.load_times import LoadTimes
from agent.service.serving.model_set import ModelSet
from agent.service.serving.newer_settings import NewerSettings
from agent.service.serving.quarantine import Quarantine
from agent.service.serving.routing_table import RoutingTable
from agent.service.serving.serving_state import InForce
from agent.service.serving.split_meter import SplitMeter
from agent.service.serving.split_trial import SplitTrial
from agent.service.serving.starts import Starts, cpu_only
from agent.service.serving.statistics_store import StatisticsStore
from agent.service.serving.time_trials import TimeTrials
from agent.service.supervisor import Supervisor
from agent.service.systemd import ServiceManager
from agent.storage import share, yaml_files
from agent.storage.boot import Boot
from agent.storage.claim import Claim

if TYPE_CHECKING:
    from agent.otlp.exporter import MetricsExport
    from agent.schema.settings import ModelEntry, OtlpSettings
    from agent.service.decoding.answering import Answering
    from agent.service.decoding.decoders import Decoders
    from agent.service.remote.remote import Remote

_log = structlog.get_logger("app")

DRAIN_S = 5.0
"""Longest wait for requests in flight at a stop."""


class App:
    """One agent. `start` returns once it serves HTTP; models may still be loading then."""

    def __init__(
        self, settings: Settings, environ: dict[str, str], early: EarlyStart | None = None, config: Path | None = None
    ) -> None:  # fmt: skip
        """`early`: what has begun already; `config`: the file that the settings are of."""
        self.settings, self._early = settings, early
        self._clock = SystemClock()
        self._manager = ServiceManager(environ)
        self._stop, self._reload = threading.Event(), threading.Event()
        state_dir = settings.state_dir
        self._claim = Claim(state_dir)
        boot = (counted := Boot(state_dir, known_s(self._clock))).number
        self._starts = Starts(state_dir, self._clock)
        # A thread that crashes would end the agent once more.
        self._lanes = LaneFactory(
            "process" if self._starts.safe else settings.isolation, self._clock,
            early.spare if early is not None else None,
        )  # fmt: skip
        policy_path = share.find_policy(settings.policy)
        policy = assembly.last_good_policy(policy_path, state_dir, self._starts.safe)
        board = assembly.board(settings, early.probe.result if early is not None else None)
        self.board: Board = cpu_only(board) if self._starts.safe else board
        split_meter = SplitMeter()
        self._planner = PlannerProcess(
            self.board, state_dir, split_meter.handovers, self._plans_here, apart_bytes=settings.weights_apart_bytes
        )
        digest = yaml_files.digest(policy.policy)
        models = assembly.models(settings, early.ahead if early is not None else None)
        current = InForce(
            policy.policy, digest, self._planner.first(policy.policy, digest, models, self._starting_state())
        )  # fmt: skip
        name = settings.board or socket.gethostname().split(".")[0].lower()
        info = status_view.initial_info(__version__, name, self.board.profile.name, boot, current, self._clock.wall_s())
        self.reporting = Reporting(settings, name, boot, self._clock, counted.keep)
        self.canaries = Canaries(self._clock)
        self.dispatcher = Dispatcher(
            RoutingTable("starting", policy.policy, digest), self._clock, self._suspected, split_meter,
            HeldAnswers(self.canaries), Batches(self._clock, assembly.batching(settings)),
        )  # fmt: skip
        keepers = {a.name: self._keeper(a) for a in self.board.profile.accelerators}
        self.supervisor = Supervisor(
            self.board.profile, current, keepers, self.dispatcher, self.reporting, self._clock, info, self._accepted,
            assembly.actuators(self.board.profile, state_dir),
        )  # fmt: skip
        self.insight = Insight(
            self.reporting.history, self.board.profile, lambda: self.supervisor.snapshot,
            lambda: self.supervisor.in_force, assembly.remembered_policy(state_dir),
        )  # fmt: skip
        self.reporting.attach(
            self.supervisor.post, lambda: self.supervisor.snapshot, self.dispatcher.energies_j,
            self._window_s,
            RailShares(
                self.board.profile.rails, lambda: {n: m.used() for n, m in list(self.dispatcher.meters.items())}
            ),
        )  # fmt: skip
        for event in (*policy.events, self._starts.condition()):
            if event is not None:
                self.supervisor.post(event)
        layer, self._figures = assembly.bundle_layer(self.board, self._planner, state_dir)
        self.models = ModelSet(
            lambda: (*model_store.tensor_models(settings), *layer.models), self._planner,
            lambda: self.supervisor.in_force, lambda: self.supervisor.snapshot, self.supervisor.post,
            self._planning_state, lambda: self.supervisor.wanted,
        )  # fmt: skip
        self._replanner = Replanner(
            lambda why: self.models.propose(None, why),
            lambda: [m.name for m in self.supervisor.in_force.plan.models if m.awaits_room],
        )
        self._watch, self.trials = self._watches(keepers)
        self.supervisor.after_tick = self._after_tick
        sensors = build_sensors(self.board.profile, SysfsReader(Path("/")))
        self.sampler = Sampler(
            sensors, PolicyWatch(policy_path), self._clock,
            lambda: self.supervisor.in_force.policy.telemetry.sample_s, self.supervisor.post, self._edited,
        )  # fmt: skip
        self.board_watch, self.screen = self._guards(state_dir)
        self.decoders, self.texts = self._language(model_store.language_models(settings))
        self.supervisor.serve_also(self.decoders.statuses)
        self.service = AgentInference(
            self.supervisor, self.dispatcher, self.models.change, self.screen, self.decoders.latencies,
            NewerSettings(config or configuration.DEFAULT_FILE),
        )  # fmt: skip
        self.http = HttpServer(self.service, settings.http, self._lanes.doorbells, self.insight, self.texts)
        self.metrics_export = None if settings.otlp is None else self._metrics_export(settings.otlp, name)
        self.remote: Remote | None = None
        if settings.mqtt is not None:
            from agent.service.remote.command_actions import Agent, Rejections  # noqa: PLC0415 - boards without a broker
            from agent.service.remote.remote import Remote  # noqa: PLC0415 - start sooner without them

            agent = Agent(
                settings, policy_path, self.models, self.dispatcher, sensors, lambda: self.supervisor.snapshot,
                lambda: self.supervisor.in_force, self.supervisor.post, Rejections(), self._clock, layer=layer,
                unfit=self._figures.problem, recent=self.reporting.outbox.recent,
                config=config,
            )  # fmt: skip
            self._begin_remote(partial(Remote, settings.mqtt, name, boot, agent, self.reporting))

    def _begin_remote(self, make: Callable[[], Remote]) -> None:
        """At once or, where the disk is full, as soon as all of it can be kept."""

        def begin() -> None:
            self.remote = self.remote or make()
            self.remote.start()

        self.remote = self.reporting.made(make)
        self.reporting.when_begun(begin)

    def _metrics_export(self, settings: OtlpSettings, board: str) -> MetricsExport:
        from agent.otlp.exporter import MetricsExport  # noqa: PLC0415 - boards without a collector start sooner

        consequence = "metrics are not kept for later; /metrics and telemetry go on"
        return MetricsExport(
            settings, {"host.name": board, "service.version": __version__}, self.service.metrics,
            lambda cause: self._tell("otlp", cause, consequence, "see otlp.endpoint and the collector's log"),
        )  # fmt: skip

    def _after_tick(self, now_s: float) -> None:
        self._replanner.look(self.supervisor.keepers, now_s)
        current = self.supervisor.in_force
        self._watch.look(current.policy.recovery, now_s)
        if current.policy.recovery.canary_s > 0:
            self.trials.look(current.plan, now_s)
        guarded = {m.name: "" for m in self.decoders.text_models()} | {m.name: m.digest for m in current.plan.models}
        self.screen.look(guarded, now_s)
        self.decoders.tick(self.supervisor.keepers, now_s)
        self.board_watch.look(self.supervisor.keepers, now_s)

    def _watches(self, keepers: Mapping[str, LaneKeeper]) -> tuple[LaneWatch, TimeTrials]:
        """What looks at the lanes after each tick."""
        trials = TimeTrials(
            self.canaries, keepers, lambda: self.dispatcher.in_flight() > 0 or self.models.planning(),
            lambda why: self.models.propose(None, why), SplitTrial(self._clock, self.dispatcher.split_meter),
        )  # fmt: skip
        self.supervisor.show_times(trials.times)
        return LaneWatch(self.canaries, keepers, self.dispatcher, self._restart_lane, self._tell), trials

    def _guards(self, state_dir: Path) -> tuple[BoardWatch, InputScreen]:
        """What stands before the dispatcher."""
        root = SysfsReader(Path("/"))
        board_watch = BoardWatch(
            lambda: read_memory(root), lambda: read_errors(root), lambda: self.supervisor.in_force.policy.memory,
            self.dispatcher.meters, self._tell,
        )  # fmt: skip
        screen = InputScreen(
            board_watch.before(self.dispatcher.infer), lambda: self.supervisor.in_force.policy.guard.tensors,
            StatisticsStore(state_dir / "guard"), Quarantine(state_dir / "quarantine"), self._clock, self._tell,
        )  # fmt: skip
        return board_watch, screen

    def _language(self, entries: tuple[ModelEntry, ...]) -> tuple[Decoders | NoDecoders, Answering | None]:
        if not entries:
            return NoDecoders(), None
        from agent.service.decoding.language import language  # noqa: PLC0415 - other boards start sooner without it

        return language(
            entries, self.board, self._lanes, self._clock, self.supervisor, self.board_watch, self.screen,
            self.settings.state_dir,
        )  # fmt: skip

    def _tell(self, kind: str, cause: str | None, consequence: str, mend: str) -> None:
        self.supervisor.post(ConditionEvent(kind, cause, consequence, mend))

    def _runtimes_changed(self, difference: str) -> None:
        consequence = "the agent goes on with the runtimes that the start before found"
        self._tell("runtimes_changed", difference, consequence, "restart the agent: it then takes what is there now")

    def _suspected(self, accelerator: str, cause: str) -> None:
        self._watch.suspect(accelerator, cause)
        self.supervisor.post(SuspectEvent(accelerator, cause))

    def _restart_lane(self, accelerator: str, cause: str) -> None:
        self.supervisor.post(RestartLaneEvent(accelerator, cause))

    def _plans_here(self, why: str | None) -> None:
        cause = None if why is None else f"the planning process is not there: {why}"
        consequence = "the agent plans itself: each plan may hold up its other threads for tens of milliseconds"
        self._tell(
            "planning_in_agent", cause, consequence, "see what memory and processes are free; tried at each plan"
        )

    def _starting_state(self) -> State:
        return starting_state(self.board.profile, self.board.simulated, available_bytes(SysfsReader(Path("/"))))

    def _planning_state(self, snapshot: AgentSnapshot, plan: Plan) -> State:
        profile, free_bytes = self._figures.now().profile, available_bytes(SysfsReader(Path("/")))
        return planning_state(snapshot, profile, plan, self._replanner.lost, free_bytes, self.trials.times())

    @cached_property
    def _load_times(self) -> LoadTimes:
        return LoadTimes(self.settings.state_dir, self._clock)

    def _keeper(self, accelerator: Accelerator) -> LaneKeeper:
        simulated = accelerator.name in self.board.simulated
        runtime = host_runtime("onnx") if simulated else next(iter(accelerator.runtimes), None)
        spec = self.board.lane(accelerator)
        engines = self.settings.state_dir / "engines" / accelerator.name
        prune(engines)
        return LaneKeeper(
            spec, self._lanes, self._post,
            "simulated" if simulated else (runtime.backend if runtime else "none"),
            runtime.provider if runtime else "none", canaries=self.canaries, times=self._load_times, engines=engines,
            together=max((b.max for b in assembly.batching(self.settings).values()), default=1),
        )  # fmt: skip

    def _post(self, event: LaneDiedEvent | LoadDoneEvent) -> None:
        self.supervisor.post(event)

    def _accepted(self, wanted: InForce) -> None:
        self.insight.policy_in_force(wanted.policy)
        assembly.remember_policy(self.settings.state_dir, wanted.policy)

    def _window_s(self) -> float:
        wanted = self.remote.window_s() if self.remote is not None else None
        return wanted or self.supervisor.in_force.policy.telemetry.window_s

    def _edited(self, edit: PolicyEdit) -> None:
        if self.remote is not None:
            self.remote.edited(edit)
        else:
            self.models.edited(edit)

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Bind, then start lanes, sensors and links. Raises ConfigError if the port is taken."""
        self.http.start()
        self.decoders.start()
        self.supervisor.start()
        self._tell("lanes_in_agent", *assembly.unprotected(self.settings, self._starts.safe))
        self.sampler.start()
        self.reporting.start()

    def wait_ready(self, timeout_s: float) -> list[str]:
        """Wait until every model is ready or will not be; the reasons of those that are not."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s and not self._stop.is_set():
            if self.supervisor.snapshot.agent.mode != "starting":
                break
            self._beat()
            self._stop.wait(0.02)
        return [f"{m.name}: {m.reason or m.state}" for m in self.supervisor.snapshot.models if m.state != "ready"]

    def run(self, on_ready: Callable[[str, list[str]], None], ready_timeout_s: float = 600.0) -> None:
        """Start, announce, and stay until SIGTERM or SIGINT; SIGHUP reads the policy again."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        signal.signal(signal.SIGHUP, lambda *_: self._reload.set())
        try:
            self.start()
            problems = self.wait_ready(ready_timeout_s)
            self._lanes.release_spare()
            self._planner.start()
            if not self._stop.is_set():
                assembly.remember_policy(self.settings.state_dir, self.supervisor.in_force.policy)
                self._manager.ready(f"{self.supervisor.snapshot.agent.mode}, {self.http.url}")
                on_ready(self.http.url, problems)
                if self._early is not None:
                    threading.Thread(
                        target=self._early.probe.settle, args=(self._runtimes_changed,), daemon=True
                    ).start()
                if self._planner.uncut:
                    self.models.propose(None, "splits are cut that never were")
            while not self._stop.wait(0.5):
                self._beat()
                if self._reload.is_set():
                    self._reload.clear()
                    self.sampler.reload()
        finally:
            self.stop()

    def _beat(self) -> None:
        """Feed the watchdog, but only with proof that the tick, the sampler and the link's loop make progress."""
        self._starts.look()
        self._load_times.save()
        remote = self.remote is None or self.remote.alive()
        if self.supervisor.alive() and self.sampler.alive() and self.reporting.alive() and remote:
            snapshot = self.supervisor.snapshot
            self._manager.progress(f"{snapshot.agent.mode}, {len(snapshot.models)} models")

    def stop(self) -> None:
        """Drain, then end every part; safe to call twice."""
        self._stop.set()
        self._manager.stopping()
        self.supervisor.post(DrainEvent())
        deadline_s = time.monotonic() + DRAIN_S
        while (self.dispatcher.in_flight() or self.decoders.in_flight()) and time.monotonic() < deadline_s:
            time.sleep(0.01)  # nothing signals "last answer sent"; a stop may poll
        self.dispatcher.fail_all(Overloaded("the agent is shutting down", 5.0))
        self.decoders.fail_all(Overloaded("the agent is shutting down", 5.0))
        self.http.stop(2.0)
        if self.metrics_export is not None:
            self.metrics_export.stop()
        if self.remote is not None:
            self.remote.stop()
        self.models.stop()
        self._planner.close()
        self.sampler.stop()
        self.supervisor.stop()
        self.decoders.stop(1.0)
        stop_lanes(self.supervisor.keepers.values())
        self._lanes.close()
        self.reporting.stop()
        self._starts.ended()
        self._claim.release()
