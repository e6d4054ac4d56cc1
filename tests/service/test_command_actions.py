"""What commands do to an agent, over fake lanes and a clock that tests own."""

from __future__ import annotations

import json
import sys
import tarfile
import threading
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from agent import __version__
from agent.child import child_command
from agent.errors import ConfigError, NotFound, PlacementError
from agent.ports import OutboxRow
from agent.schema.command import (
    KINDS,
    CalibrateArgs,
    DrainArgs,
    EvaluateArgs,
    LogLevelArgs,
    ModelArgs,
    NoArgs,
    RestartLaneArgs,
)
from agent.schema.desired import Desired
from agent.schema.settings import Settings
from agent.service import assembly, logs
from agent.service.calibration import calibrate_run, calibration
from agent.service.calibration.calibration import Calibration
from agent.service.doctor import diag, diag_runs
from agent.service.mail import PlanEvent, PolicyRejectedEvent
from agent.service.remote.command_actions import Actions, Agent, Rejections
from agent.service.remote.commands import CommandFailed, Interrupted, Run
from agent.service.remote.desired_apply import DesiredApplier
from agent.service.serving.serving_state import InForce
from agent.storage import yaml_files
from tests.service.world import POLICY, World, plan_of


class FakeModels:
    """A model set whose plans are those that the test gives; handing over is posting the event."""

    def __init__(self, world: World, known=("m", "n")) -> None:
        self.world = world
        self.known = known
        self.wanted = ["m"]
        self.error: Exception | None = None
        self.reject: str | None = None

    def _check(self, names) -> None:
        for name in names:
            if name not in self.known:
                raise NotFound(f"there is no model {name!r}")

    def propose(self, policy, why) -> Future[InForce]:
        done: Future[InForce] = Future()
        if self.error is not None:
            done.set_exception(self.error)
            return done
        policy = policy or self.world.supervisor.in_force.policy
        plan = plan_of({name: ["gpu0", "cpu"] for name in self.wanted})
        proposed = InForce(policy, yaml_files.digest(policy), plan)
        event = PolicyRejectedEvent(self.reject) if self.reject else PlanEvent(proposed, why)
        self.world.supervisor.post(event)
        done.set_result(proposed)
        return done

    def want(self, name, load) -> Future[InForce]:
        self._check([name])
        self.wanted = [*self.wanted, name] if load else [w for w in self.wanted if w != name]
        return self.propose(None, "test")

    def select(self, names):
        self._check(names or ())
        before, self.wanted = self.wanted, list(names or self.known)
        return before

    def restore(self, wanted) -> None:
        self.wanted = wanted


class Ticking(Run):
    """A run in which the agent lives on while it waits."""

    world: World

    def wait(self, condition, what) -> None:
        while not condition():
            self.progress(what)
            self.world.tick(0.1)


class Stage:
    """An agent, what it can be told, and what it told."""

    def __init__(self, folder, **options) -> None:
        self.world = World(**options)
        self.world.tick()
        self.models = FakeModels(self.world)
        self.policy_path = folder / "policy.yaml"
        self.policy_path.write_text(yaml.safe_dump(POLICY.model_dump(mode="json")))
        self.rejections = Rejections()
        record = self.world.telemetry.event

        def event(kind, fields) -> None:
            record(kind, fields)
            self.rejections.on_event(kind, fields)

        self.world.telemetry.event = event
        self.overruled = None
        self.agent = Agent(
            Settings(version=1, state_dir=folder), self.policy_path, self.models, self.world.dispatcher, (),
            lambda: self.world.snapshot, lambda: self.world.supervisor.in_force, self.world.supervisor.post,
            self.rejections, self.world.clock, lambda: self.overruled,
            recent=lambda _count: [OutboxRow(1, "evt", 7, {"event": "asked"})],
        )  # fmt: skip
        self.actions = Actions(self.agent)
        self.told: list[tuple[str, float | None]] = []

    def run(self, limit_s=60.0) -> Run:
        made = Ticking(self.world.clock, limit_s, threading.Event(), lambda *told: self.told.append(told))
        made.world = self.world
        return made


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def code_of(act, *arguments) -> str:
    with pytest.raises(CommandFailed) as caught:
        act(*arguments)
    return caught.value.reason


def test_reload_puts_the_edited_file_into_force(stage):
    edited = POLICY.model_copy(update={"description": "edited"})
    stage.policy_path.write_text(yaml.safe_dump(edited.model_dump(mode="json")))
    out = stage.actions.reload(NoArgs(), stage.run())
    assert out["digest"] == yaml_files.digest(edited) == stage.world.supervisor.in_force.digest
    assert out["models"] == {"m": ["gpu0", "cpu"]}


def test_reload_of_a_broken_file_is_its_own_error(stage):
    stage.policy_path.write_text("version: 1\n")
    with pytest.raises(ConfigError):
        stage.actions.reload(NoArgs(), stage.run())


def test_reload_says_that_the_fleet_sets_the_policy(stage):
    stage.overruled = "the fleet says so"
    assert code_of(stage.actions.reload, NoArgs(), stage.run()) == "overruled"


def test_a_plan_that_the_supervisor_refuses_is_a_failure_with_its_cause(stage):
    stage.models.reject = "no placement could be loaded for m"
    with pytest.raises(CommandFailed, match="could be loaded for m"):
        stage.actions.plan(NoArgs(), stage.run())


def test_a_plan_that_cannot_be_made_is_the_planners_error(stage):
    stage.models.error = PlacementError("m cannot be placed")
    with pytest.raises(PlacementError):
        stage.actions.plan(NoArgs(), stage.run())


def test_a_plan_replaced_at_once_by_one_for_the_same_counts_as_in_force(stage):
    propose = stage.models.propose

    def replaced(policy, why):
        first = propose(policy, why)
        propose(policy, "a lane was lost")
        return first

    stage.models.propose = replaced
    assert stage.actions.plan(NoArgs(), stage.run())["policy"] == "test"


def test_a_model_is_added_and_removed(stage):
    out = stage.actions.model_add(ModelArgs(name="n"), stage.run())
    assert out["placement"] == "gpu0"
    stage.actions.model_remove(ModelArgs(name="n"), stage.run())
    assert [m.name for m in stage.world.snapshot.models] == ["m"]
    with pytest.raises(NotFound):
        stage.actions.model_add(ModelArgs(name="x"), stage.run())


def test_a_model_that_no_lane_loads_is_unavailable(stage):
    for lanes in stage.world.lanes.values():
        lanes[-1].refuse["n"] = "corrupt"
    with pytest.raises(CommandFailed, match="corrupt"):
        stage.actions.model_add(ModelArgs(name="n"), stage.run())


def test_a_lane_is_ended_and_back(stage):
    out = stage.actions.restart_lane(RestartLaneArgs(accelerator="gpu0"), stage.run())
    assert out["restarts"] == 1
    assert len(stage.world.lanes["gpu0"]) == 2
    assert stage.world.accelerator("gpu0").last_fault == "restart-lane command"


def test_a_lane_that_is_unknown_or_down_is_not_restarted(stage):
    assert code_of(stage.actions.restart_lane, RestartLaneArgs(accelerator="npu7"), stage.run()) == "not_found"
    stage.world.lane("gpu0").kill("test")
    stage.world.tick()
    assert code_of(stage.actions.restart_lane, RestartLaneArgs(accelerator="gpu0"), stage.run()) == "not_running"


def test_a_lane_that_does_not_come_back_is_said_to_be_gone(tmp_path):
    stage = Stage(tmp_path)
    for _ in range(2):
        stage.actions.restart_lane(RestartLaneArgs(accelerator="gpu0"), stage.run())
    outcome = code_of(stage.actions.restart_lane, RestartLaneArgs(accelerator="gpu0"), stage.run(10.0))
    assert outcome in {"not_back", "timed_out"}


def test_drain_waits_for_requests_and_says_when_they_stay(stage):
    stage.world.lane("gpu0").hold = True
    stage.world.infer()
    run = stage.run()
    run.stopping.wait = lambda timeout: stage.world.tick(0.5)
    assert code_of(stage.actions.drain, DrainArgs(wait_s=3), run) == "still_busy"
    assert any("requests in flight" in text for text, _ in stage.told)
    stage.world.lane("gpu0").release()
    assert stage.actions.drain(DrainArgs(), stage.run()) == {"draining": True}
    assert stage.world.snapshot.agent.mode == "draining"
    stage.actions.drain(DrainArgs(on=False), stage.run())
    assert stage.world.snapshot.agent.mode == "ready"


def test_calibration_tells_how_far_it_is_and_waits_for_no_traffic(stage, monkeypatch):
    def measure(board, clock, quick, progress, sensors):
        progress("cpu · matmul", 1, 4)
        return Calibration(profile="p", measured_at="2026-01-01T00:00:00Z", coefficients=(), refused=("noisy",))

    monkeypatch.setattr(assembly, "base_profile", lambda name: SimpleNamespace())
    monkeypatch.setattr("agent.service.remote.command_actions.make_board", lambda *_: None)
    monkeypatch.setattr(calibrate_run, "calibrate", measure)
    out = stage.actions.calibrate(CalibrateArgs(), stage.run())
    assert (out["coefficients"], out["refused"]) == (0, ["noisy"])
    assert stage.told == [("cpu · matmul", 0.25)]
    assert (stage.agent.settings.state_dir / calibration.FILE).is_file()
    stage.world.lane("gpu0").hold = True
    stage.world.infer()
    assert code_of(stage.actions.calibrate, CalibrateArgs(), stage.run()) == "busy"
    assert stage.actions.calibrate(CalibrateArgs(under_load=True), stage.run())["coefficients"] == 0


def test_the_doctor_of_a_diag_looks_at_the_settings_of_this_agent(stage, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(diag_runs, "doctor", lambda config, canary, patience: asked.append((config, canary)) or "[]")
    actions = Actions(replace(stage.agent, config=tmp_path / "mine.yaml"))
    made = actions.collect_diag(NoArgs(), stage.run())
    assert asked == [(tmp_path / "mine.yaml", False)]
    assert "doctor.json" in made["files"]


def test_a_program_that_a_diag_asks_is_never_taken_from_where_somebody_stands(monkeypatch, tmp_path):
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "__init__.py").write_text("raise SystemExit('not the agent')")
    monkeypatch.chdir(tmp_path)
    said = diag_runs._said(child_command("agent.cli.main", "--version"), 60.0, (0,), lambda: None)
    assert __version__ in said


def test_a_diag_by_command_keeps_the_others_waiting_for_a_bounded_time_and_says_so(stage, monkeypatch):
    asked = []
    monkeypatch.setattr(diag_runs, "journal", lambda patience: asked.append(patience) or "")
    monkeypatch.setattr(diag_runs, "doctor", lambda config, canary, patience: asked.append(patience) or "[]")
    stage.actions.collect_diag(NoArgs(), stage.run())
    longest_s = sum({p.journal_s + p.doctor_s for p in asked})
    assert len(asked) == 2
    assert longest_s < min(KINDS["collect-diag"].limit_s, diag.PATIENCE.doctor_s / 4)
    assert stage.told == [(f"collecting; commands after this one wait, about {longest_s:g} s at most", None)]


def test_a_program_that_takes_too_long_is_ended_and_named(monkeypatch):
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(diag_runs.NotAsked, match=r"it did not end within 0\.3 s"):
        diag_runs._said(sleeper, 0.3, (0,), lambda: None)


def test_a_stop_of_the_agent_ends_what_a_diag_asks_at_once(stage):
    begun = []

    def tell() -> None:
        begun.append(True)
        raise Interrupted

    with pytest.raises(Interrupted):
        diag_runs._said([sys.executable, "-c", "import time; time.sleep(600)"], 600.0, (0,), tell)
    assert begun == [True]


def test_log_level_and_diag(stage, capsys):
    logs.configure("warning", human=False)
    out = stage.actions.set_log_level(LogLevelArgs(level="debug"), stage.run())
    assert out == {"level": "debug", "before": "warning"}
    logs.configure("warning")
    made = stage.actions.collect_diag(NoArgs(), stage.run())
    assert {"status.json", "policy.json", "threads.txt"} <= set(made["files"])
    with tarfile.open(made["path"]) as tar:
        name = next(n for n in tar.getnames() if n.endswith("outbox.json"))
        rows = json.load(tar.extractfile(name))
    assert rows == [{"cls": "evt", "boot": 1, "seq": 7, "event": "asked"}]  # of the outbox: it opens no file of it


# ---------------------------------------------------------------------------------------------- desired state


def desired(**fields) -> Desired:
    document = {"v": 1, "kind": "desired", "tenant": "acme", "board": "b1", "ver": 1, "iat": 1.0, **fields}
    return Desired.model_validate(document)


def test_a_desired_state_is_applied_as_one_with_a_result_for_each_key(stage):
    applier = DesiredApplier(stage.agent, stage.actions)
    inline = POLICY.model_copy(update={"name": "fleets"})
    applied = applier.apply(desired(inline_policy=inline, models=("n",), window_s=5, log_level="error"), stage.run())
    assert applied.error is None
    assert applied.keys["inline_policy"]["digest"] == yaml_files.digest(inline)
    assert applied.keys["models.0"] == {"model": "n", "status": "applied"}
    assert applier.window_s == 5
    assert [m.name for m in stage.world.snapshot.models] == ["n"]
    assert applier.apply(None, stage.run()).error is None
    assert applier.window_s is None
    assert sorted(m.name for m in stage.world.snapshot.models) == ["m", "n"]


@pytest.mark.parametrize(
    ("fields", "key"), [({"policy": "no-such"}, "policy"), ({"models": ("m", "no-such")}, "models")]
)
def test_a_desired_state_with_an_unknown_name_changes_nothing(stage, fields, key):
    applied = DesiredApplier(stage.agent, stage.actions).apply(desired(**fields), stage.run())
    assert applied.keys[key]["status"] == "rejected"
    assert "no-such" in applied.error
    assert stage.models.wanted == ["m"]


def test_a_desired_state_that_the_trial_refuses_leaves_the_models_wanted_before(stage):
    stage.models.reject = "no placement"
    applied = DesiredApplier(stage.agent, stage.actions).apply(desired(models=("n",)), stage.run())
    assert applied.error == "no placement"
    assert stage.models.wanted == ["m"]


def test_a_stop_during_the_trial_leaves_the_models_wanted_before(stage):
    run = stage.run()
    run.stopping.set()
    stage.models.propose = lambda policy, why: Future()
    with pytest.raises(Interrupted):
        DesiredApplier(stage.agent, stage.actions).apply(desired(models=("n",)), run)
    assert stage.models.wanted == ["m"]


def test_a_wanted_model_that_cannot_be_loaded_is_reported_under_its_key(stage):
    for lanes in stage.world.lanes.values():
        lanes[-1].refuse["n"] = "corrupt"
    applied = DesiredApplier(stage.agent, stage.actions).apply(desired(models=("m", "n")), stage.run())
    assert applied.error is None
    assert applied.keys["models.1"]["status"] == "unavailable"
    assert "corrupt" in applied.keys["models.1"]["message"]


def test_evaluate_measures_what_is_served_beside_what_was_predicted(stage):
    run = stage.run()

    class Serving(threading.Event):
        def wait(self, timeout=None) -> bool:
            stage.world.infer()
            stage.world.tick(timeout)
            return False

    run.stopping = Serving()
    out = stage.actions.evaluate(EvaluateArgs(window_s=5.0), run)
    assert out["models"]["m"]["requests"] >= 5
    assert out["models"]["m"]["latency_s"] is not None or out["models"]["m"]["failure_share"] == 1.0
    assert out["models"]["m"]["predicted_s"] == pytest.approx(0.01)
    assert stage.told
