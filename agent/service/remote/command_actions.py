"""Command actions: what each command does to the running agent, in terms of what its owner could do by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import field
from pathlib import Path
from typing import Any

from agent.ports import Clock, OutboxRow, Sensor
from agent.records import record
from agent.schema.command import (
    CalibrateArgs,
    DrainArgs,
    EvaluateArgs,
    LogLevelArgs,
    ModelArgs,
    NoArgs,
    RestartLaneArgs,
)
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.settings import Settings
from agent.schema.snapshot import AcceleratorStatus, AgentSnapshot, ModelStatus
from agent.service import assembly, logs
from agent.service.board import make_board
from agent.service.calibration import calibrate_run, calibration
from agent.service.doctor import diag
from agent.service.doctor.diag_runs import Patience
from agent.service.mail import DrainEvent, Event, RestartLaneEvent
from agent.service.remote.bundle_layer import BundleLayer
from agent.service.remote.commands import Action, CommandFailed, Run
from agent.service.remote.physics_windows import ModelWindow, PhysicsWindow
from agent.service.serving.dispatcher import Dispatcher
from agent.service.serving.model_set import ModelSet
from agent.service.serving.serving_state import InForce
from agent.storage import yaml_files

SUPERSEDED_S = 10.0
JOURNAL_S, DOCTOR_S = 5.0, 30.0
"""Of a diag: one that is asked for on the board itself waits longer, but keeps nobody waiting."""
_LANE_ENDED = frozenset({"quarantined", "refused", "stopped"})


class Rejections:
    """Remembers the last policy that the supervisor refused; written by its thread, read by others."""

    def __init__(self) -> None:
        self.count = 0
        self.cause = ""

    def on_event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """An event of the agent."""
        if kind == "policy_rejected":
            self.cause = str(fields.get("cause", ""))
            self.count += 1


@record(frozen=True)
class Agent:
    """The parts of the agent that commands work on."""

    settings: Settings
    policy_path: Path
    models: ModelSet
    dispatcher: Dispatcher
    sensors: Sequence[Sensor]
    snapshot: Callable[[], AgentSnapshot]
    in_force: Callable[[], InForce]
    post: Callable[[Event], None]
    rejections: Rejections
    clock: Clock
    local_policy: Callable[[], str | None] = lambda: None
    """Why the policy file is not in force; None while it is."""
    layer: BundleLayer = field(default_factory=BundleLayer)
    """What a bundle has brought."""
    recent: Callable[[int], Sequence[OutboxRow]] = lambda _: ()
    """The newest rows of telemetry."""
    unfit: Callable[[DeviceProfile], str | None] = lambda _: "device profiles are not taken here"
    """Why a bundle's profile cannot be this board's; None where it can."""
    config: Path | None = None
    """The settings' file; None: QEIL_CONFIG or the default one says it."""


class Actions:
    """One method per command; each gets its arguments and the run that it may wait in."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def table(self) -> dict[str, Action]:
        """By name."""
        return {
            "reload": self.reload, "plan": self.plan, "calibrate": self.calibrate, "drain": self.drain,
            "restart-lane": self.restart_lane, "collect-diag": self.collect_diag,
            "set-log-level": self.set_log_level, "evaluate": self.evaluate,
            "model-add": self.model_add, "model-remove": self.model_remove,
        }  # fmt: skip

    # ------------------------------------------------------------------ plans

    def bring_up(self, run: Run, propose: Callable[[], Future[InForce]]) -> InForce:
        """Plan, load beside the old, swap; CommandFailed if the old plan stays."""
        before = self._agent.rejections.count
        future = propose()
        run.wait(future.done, "planning")
        wanted = future.result()
        replaceable_s = self._agent.clock.monotonic_s() + SUPERSEDED_S
        run.wait(lambda: self._settled(wanted, before, replaceable_s), "loading beside what is in force")
        now = self._agent.in_force()
        if now is not wanted and not _equal(now, wanted):
            raise CommandFailed("rejected", self._agent.rejections.cause)
        return now

    def _settled(self, wanted: InForce, before: int, replaceable_s: float) -> bool:
        """In force, refused, or replaced by a later plan for the same (a lane was lost, the board got hot)."""
        now = self._agent.in_force()
        if now is wanted or self._agent.rejections.count > before:
            return True
        return _equal(now, wanted) and self._agent.clock.monotonic_s() >= replaceable_s

    def reload(self, _: NoArgs, run: Run) -> dict[str, Any]:
        """Read the policy file again."""
        overruled = self._agent.local_policy()
        if overruled is not None:
            raise CommandFailed("overruled", overruled)
        policy = yaml_files.load_policy(self._agent.policy_path)
        return self._placed(self._bring_up_policy(policy, "reload command", run))

    def plan(self, _: NoArgs, run: Run) -> dict[str, Any]:
        """Plan again, at the temperatures of now."""
        return self._placed(self._bring_up_policy(None, "plan command", run))

    def _bring_up_policy(self, policy: Policy | None, why: str, run: Run) -> InForce:
        return self.bring_up(run, lambda: self._agent.models.propose(policy, why))

    def _placed(self, wanted: InForce) -> dict[str, Any]:
        models = {m.name: [c.accelerator for c in m.candidates] or m.reason for m in wanted.plan.models}
        return {"policy": wanted.policy.name, "digest": wanted.digest, "models": models}

    # ------------------------------------------------------------------ models

    def model_add(self, args: ModelArgs, run: Run) -> dict[str, Any]:
        """Serve a model of the settings or the store, and wait until it is warm."""
        self.bring_up(run, lambda: self._agent.models.want(args.name, load=True))
        run.wait(lambda: _state(self._model(args.name)) in {"ready", "unavailable"}, f"loading {args.name}")
        model = self._model(args.name)
        if model is None or model.state != "ready":
            reason = model.reason if model else None
            raise CommandFailed("unavailable", f"{args.name}: {reason or 'no placement is loaded'}")
        return {"model": args.name, "placement": model.placement, "provider": model.actual}

    def model_remove(self, args: ModelArgs, run: Run) -> dict[str, Any]:
        """Serve it no longer; its file stays."""
        self.bring_up(run, lambda: self._agent.models.want(args.name, load=False))
        run.wait(lambda: self._model(args.name) is None, f"unloading {args.name}")
        return {"model": args.name}

    def _model(self, name: str) -> ModelStatus | None:
        return next((m for m in self._agent.snapshot().models if m.name == name), None)

    # ------------------------------------------------------------------ lanes and requests

    def restart_lane(self, args: RestartLaneArgs, run: Run) -> dict[str, Any]:
        """End a lane's process; requests in it are replayed elsewhere, and it comes back as after a crash."""
        before = self._lane(args.accelerator)
        if before.state != "ready":
            raise CommandFailed(
                "not_running", f"{args.accelerator} is {before.state}; it restarts by itself or not at all"
            )
        self._agent.post(RestartLaneEvent(args.accelerator, "restart-lane command"))
        run.wait(lambda: self._lane(args.accelerator).restarts > before.restarts, "ending the lane")
        ended = _LANE_ENDED | {"ready"}
        run.wait(lambda: self._lane(args.accelerator).state in ended, "starting the lane")
        after = self._lane(args.accelerator)
        if after.state != "ready":
            raise CommandFailed("not_back", f"{args.accelerator} is {after.state}: {after.last_fault}")
        return {"accelerator": after.name, "restarts": after.restarts, "pid": after.pid}

    def _lane(self, name: str) -> AcceleratorStatus:
        lanes = self._agent.snapshot().accelerators
        found = next((a for a in lanes if a.name == name), None)
        if found is None:
            known = ", ".join(a.name for a in lanes) or "none"
            raise CommandFailed("not_found", f"there is no accelerator {name!r} (here: {known})")
        return found

    def drain(self, args: DrainArgs, run: Run) -> dict[str, Any]:
        """Take no more requests and wait for those in flight, or take them again. A restart serves again."""
        self._agent.post(DrainEvent(args.on))
        run.wait(lambda: (self._agent.snapshot().agent.mode == "draining") == args.on, "changing the mode")
        end_s = self._agent.clock.monotonic_s() + args.wait_s
        while args.on and self._agent.dispatcher.in_flight():
            left = self._agent.dispatcher.in_flight()
            if self._agent.clock.monotonic_s() >= end_s:
                raise CommandFailed(
                    "still_busy", f"{left} requests are in flight after {args.wait_s:g} s; it drains on"
                )
            run.progress(f"{left} requests in flight")
            run.stopping.wait(0.05)
        return {"draining": args.on}

    # ------------------------------------------------------------------ the board itself

    def calibrate(self, args: CalibrateArgs, run: Run) -> dict[str, Any]:
        """Measure this board; what is found counts from the next start on."""
        if self._agent.dispatcher.in_flight() and not args.under_load:
            raise CommandFailed("busy", "requests are in flight and would spoil it; drain first, or set under_load")
        settings = self._agent.settings
        board = make_board(assembly.base_profile(settings.profile), (), assembly.named_profile)

        def progress(what: str, step: int, steps: int) -> None:
            run.progress(what, step / max(1, steps))

        found = calibrate_run.calibrate(board, self._agent.clock, args.quick, progress, self._agent.sensors)
        path = calibration.save(found, settings.state_dir)
        return {
            "coefficients": len(found.coefficients), "refused": list(found.refused)[:32], "file": str(path),
            "in_force": "from the next start",
        }  # fmt: skip

    def collect_diag(self, _: NoArgs, run: Run) -> dict[str, Any]:
        """Pack what helps to find a fault into the state folder, without secrets. Other commands wait meanwhile."""

        def tell() -> None:
            run.progress(f"collecting; commands after this one wait, about {JOURNAL_S + DOCTOR_S:g} s at most")

        tell()
        agent = self._agent
        policy = agent.in_force().policy
        made = diag.collect(
            agent.settings, agent.clock.wall_s(), agent.snapshot(), policy, agent.recent, agent.config,
            Patience(JOURNAL_S, DOCTOR_S, tell),
        )  # fmt: skip
        return made.as_json()

    def evaluate(self, args: EvaluateArgs, run: Run) -> dict[str, Any]:
        """Measure what is served for a while: joules, seconds and failures per request beside what was predicted."""
        clock = self._agent.clock
        window = PhysicsWindow(lambda: self._agent.dispatcher.meters)
        begun_s = clock.monotonic_s()
        while (passed_s := clock.monotonic_s() - begun_s) < args.window_s:
            window.look(self._agent.snapshot())
            run.progress("watching", passed_s / args.window_s)
            run.stopping.wait(min(0.5, args.window_s - passed_s))
        found, snapshot = window.close(min_requests=1), self._agent.snapshot()
        models = {m.name: _judged(m, found.models.get(m.name)) for m in snapshot.models}
        return {"window_s": args.window_s, "models": models, "temperatures_c": dict(found.temperatures_c)}

    def set_log_level(self, args: LogLevelArgs, _: Run) -> dict[str, Any]:
        """Until the next start or the next desired state that names one."""
        before = logs.level()
        logs.set_level(args.level)
        return {"level": args.level, "before": before}


def _equal(one: InForce, other: InForce) -> bool:
    return one.digest == other.digest and {m.name for m in one.plan.models} == {m.name for m in other.plan.models}


def _state(model: ModelStatus | None) -> str:
    return "absent" if model is None else model.state


def _judged(model: ModelStatus, seen: ModelWindow | None) -> dict[str, Any]:
    """One model: predicted beside measured; None where nobody knows."""
    chosen = next((c for c in model.candidates if c.accelerator == model.placement), None)
    return {
        "placement": model.placement, "requests": seen.requests if seen else 0,
        "failure_share": seen.failure_share if seen else None, "energy_j": seen.energy_j if seen else None,
        "provenance": model.provenance if seen else "unknown", "latency_s": seen.latency_s if seen else None,
        "predicted_energy_j": chosen.predicted_energy_j if chosen else None,
        "predicted_s": chosen.predicted_ms / 1e3 if chosen and chosen.predicted_ms is not None else None,
    }  # fmt: skip
