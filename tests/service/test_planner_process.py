"""Plans in a process of its own: the same plans, and what happens when that process is not there."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import sys
import threading
import time

import pytest
from onnx import TensorProto, helper, save

from agent.errors import PlacementError, QeilError
from agent.placement.state import State
from agent.schema.settings import ModelEntry
from agent.service.board import make_board
from agent.service.planning import planner_child
from agent.service.planning.plan import ModelPlan, Plan
from agent.service.planning.planner_child import Planning
from agent.service.planning.planner_frames import Alive, Failed, Order, Setup, framed, receive, send
from agent.service.planning.planner_process import PlannerProcess
from agent.service.planning.split_planner import SplittingPlanner
from agent.storage import share, yaml_files

POLICY = yaml_files.load_policy(share.find_policy("balanced"))
PROFILE = yaml_files.load_profile(share.find_profile("jetson-orin-nano"))
BOARD = make_board(PROFILE, (), lambda _: PROFILE)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "relu.onnx"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return (ModelEntry(name="relu", path=path),)


@pytest.fixture(scope="module")
def first(models, tmp_path_factory):
    """The plan that an agent makes at its start, with its caches."""
    folder = tmp_path_factory.mktemp("state")
    return folder, SplittingPlanner(BOARD, folder, dict).plan(POLICY, "d", models)


@pytest.fixture
def told():
    return []


@pytest.fixture
def process(first, told):
    made = PlannerProcess(BOARD, first[0], dict, told.append)
    yield made
    made.close()


def timeless(plan: Plan) -> list[object]:
    """What two plans of the same have in common."""
    stages = [m.stage_placement and dataclasses.replace(m.stage_placement, planning_s=0.0) for m in plan.models]
    return [dataclasses.replace(m, stage_placement=s) for m, s in zip(plan.models, stages, strict=True)]


def test_a_plan_of_the_process_is_the_plan(process, first, models, told):
    process.start()
    folder, before = first
    lost = State(lost=frozenset({"gpu"}))
    plan = process.plan(POLICY, "e", models, lost, before)
    here = SplittingPlanner(BOARD, folder, dict).plan(POLICY, "e", models, lost, before)
    assert (plan.policy_digest, timeless(plan)) == ("e", timeless(here))
    assert plan.models[0].candidates[0].accelerator == "cpu"
    assert plan.models[0].workload is before.models[0].workload
    assert process.plan(POLICY, "d", models).models[0].workload == before.models[0].workload
    assert told == []


def test_a_first_plan_needs_no_process(process, models):
    assert process.first(POLICY, "d", models).models[0].candidates
    assert process.pid is None


def test_a_process_that_died_is_replaced(process, models, told):
    process.plan(POLICY, "d", models)
    dead = process.pid
    os.kill(dead, signal.SIGKILL)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    assert process.plan(POLICY, "d", models).models[0].candidates
    assert process.pid not in (None, dead)
    assert told == []


def test_where_there_is_no_process_the_agent_plans_itself_and_says_so_until_there_is_one(
    process, models, told, monkeypatch
):
    monkeypatch.setattr(process, "_program", "agent.service.there_is_no_such_module")
    assert process.plan(POLICY, "d", models).models[0].candidates
    monkeypatch.setattr(process, "_program", planner_child.__name__)
    assert told == ["it ended"]
    for _ in range(2):
        assert process.plan(POLICY, "d", models).models[0].candidates
    assert told == ["it ended", None]


def test_a_silent_process_is_ended_and_the_agent_plans_itself(process, models, told):
    process.plan(POLICY, "d", models)
    silent = process.pid
    os.kill(silent, signal.SIGSTOP)
    process._patience_s = 0.05
    assert process.plan(POLICY, "d", models).models[0].candidates
    assert told == ["it did not answer for 0.05 s"]
    process._patience_s = 30.0
    assert process.plan(POLICY, "d", models).models[0].candidates
    assert process.pid != silent


def test_what_cannot_be_started_is_no_reason_not_to_plan(process, models, told, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    process.start()
    assert process.pid is None
    assert process.plan(POLICY, "d", models).models[0].candidates
    assert told == ["it cannot be started: No such file or directory"]


def test_a_stop_ends_a_plan_in_progress_and_there_is_none_after_it(process, models):
    process.start()
    errors = []

    def long() -> None:
        try:
            process.plan(POLICY, "d", models)
        except PlacementError as error:
            errors.append(error.message)

    os.kill(process.pid, signal.SIGSTOP)
    thread = threading.Thread(target=long)
    thread.start()
    while not process._use.locked():
        time.sleep(0.001)
    process.close()
    thread.join(10.0)
    assert errors == ["the agent is stopping"]
    with pytest.raises(PlacementError, match="stopping"):
        process.plan(POLICY, "d", models)
    process.start()
    assert process.pid is None


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (Failed("disk full", told=True), PlacementError, "disk full"),
        (Failed("KeyError: 7", told=False), RuntimeError, "KeyError: 7"),
        (7, TypeError, "answered with int"),
    ],
)
def test_what_failed_there_fails_here_for_the_same_reason(process, models, monkeypatch, answer, error, text):
    monkeypatch.setattr(PlannerProcess, "_asked", lambda *_: answer)
    with pytest.raises(error, match=text):
        process.plan(POLICY, "d", models)


# ------------------------------------------------------------------------------------------- the child


class Pipes:
    """Stdin and stdout of the child in memory."""

    def __init__(self, *messages: object) -> None:
        self.buffer = io.BytesIO(b"".join(framed(m) for m in messages))


def order(models: tuple[ModelEntry, ...], plan: Plan | None = None) -> Order:
    known = frozenset((m.name, m.digest) for m in plan.models) if plan else frozenset()
    return Order(POLICY, "d", models, None, plan, known, {})


def test_the_child_answers_until_its_input_ends_and_lowers_its_priority(monkeypatch, first, models):
    folder, plan = first
    lowered = []
    out = Pipes()
    monkeypatch.setattr(sys, "stdin", Pipes(Setup(BOARD, folder), order(models), order(models, plan)))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(os, "nice", lowered.append)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    planner_child.main(beat_s=60.0)
    out.buffer.seek(0)
    assert receive(out.buffer.read) == plan
    assert receive(out.buffer.read).models[0].workload is None
    assert lowered == [planner_child.NICE]


def test_a_child_that_plans_for_long_says_that_it_is_alive(monkeypatch, first, models):
    spoke = threading.Event()
    answers = []

    class Slow:
        def __init__(self, _: Setup) -> None:
            pass

        def answer(self, _: Order) -> str:
            assert spoke.wait(30.0)
            return "done"

    def note(_: object, message: object) -> None:
        answers.append(message)
        spoke.set()

    monkeypatch.setattr(sys, "stdin", Pipes(Setup(BOARD, first[0]), order(models)))
    monkeypatch.setattr(sys, "stdout", Pipes())
    monkeypatch.setattr(os, "nice", lambda _: None)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(planner_child, "Planning", Slow)
    monkeypatch.setattr(planner_child, "send", note)
    planner_child.main(beat_s=0.001)
    assert isinstance(answers[0], Alive)
    assert answers[-1] == "done"


@pytest.mark.parametrize(
    ("error", "failed"),
    [(QeilError("no disk"), Failed("no disk", told=True)), (KeyError("x"), Failed("KeyError: 'x'", told=False))],
)
def test_an_error_of_the_planner_is_an_answer(monkeypatch, first, models, error, failed):
    def broken(*_: object) -> Plan:
        raise error

    monkeypatch.setattr(SplittingPlanner, "plan", broken)
    assert Planning(Setup(BOARD, first[0])).answer(order(models)) == failed


def test_measured_handovers_reach_the_planner(monkeypatch, first, models):
    seen = []
    monkeypatch.setattr(
        SplittingPlanner, "plan", lambda self, *_: seen.append(self._splits._handovers()) or Plan("d", ())
    )
    measured = {("cpu", "gpu"): object()}
    Planning(Setup(BOARD, first[0])).answer(dataclasses.replace(order(models), handovers=measured))
    assert seen == [measured]


def test_a_graph_that_the_agent_does_not_have_is_sent(first, models):
    folder, plan = first
    other = dataclasses.replace(plan.models[0], digest="another")
    answer = Planning(Setup(BOARD, folder)).answer(order(models, Plan("d", (other,))))
    assert isinstance(answer.models[0], ModelPlan)
    assert answer.models[0].workload is not None


def test_a_frame_that_is_cut_is_no_message():
    stream = io.BytesIO()
    send(stream.write, "something")
    cut = io.BytesIO(stream.getvalue()[:-1])

    def read(size: int) -> bytes:
        data = cut.read(size)
        if len(data) < size:
            raise EOFError
        return data

    with pytest.raises(EOFError):
        receive(read)
