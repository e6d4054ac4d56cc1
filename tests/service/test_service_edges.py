"""What other parts see of the agent: the inference service, the metrics, and changes of models and policies."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from agent.errors import BadInput, NotFound, QeilError
from agent.ports import InferenceRequest
from agent.schema.settings import ModelEntry
from agent.service import metrics
from agent.service.mail import PlanEvent, PolicyRejectedEvent
from agent.service.planning.planner_process import Stopping
from agent.service.policy_watch import PolicyEdit
from agent.service.serving import model_set
from agent.service.serving.inference import AgentInference
from agent.service.serving.latencies import Latencies
from agent.service.serving.model_set import ModelSet
from tests.service.world import POLICY, World, plan_of


def edge(world: World, change=None) -> AgentInference:
    return AgentInference(world.supervisor, world.dispatcher, change or (lambda name, load: None))


def test_the_edge_answers_lists_and_bounds_by_the_policy_in_force():
    world = World()
    service = edge(world)
    answer = service.infer(InferenceRequest("m", {"x": np.zeros((1, 2), np.float32)}, None, "r")).result(0)
    assert answer.placement == "gpu0"
    assert [m.name for m in service.models()] == ["m"]
    assert service.model("m").ready
    assert service.limits().max_body_bytes == POLICY.admission.max_body_bytes
    assert service.snapshot() is world.snapshot
    with pytest.raises(NotFound):
        service.model("n")


def test_ready_needs_a_ticking_supervisor_and_every_model():
    world = World({"m": ["gpu0"], "n": ["cpu"]}, prepare=lambda lane, n: lane.refuse.update(n="corrupt"))
    world.tick()
    assert not edge(world).ready()
    assert not edge(world).live()


def test_errors_of_a_change_arrive_in_its_future():
    def refuse(name, load):
        raise NotFound(f"no {name}")

    service = edge(World(), refuse)
    assert isinstance(service.load_model("x").exception(0), NotFound)
    assert isinstance(service.unload_model("x").exception(0), NotFound)


def test_metrics_show_what_is_known_and_nothing_else():
    world = World()
    world.infer()
    world.tick()
    found = {m.name: m for m in metrics.collect(world.snapshot, world.dispatcher, 3)}
    modes = {labels["mode"]: value for labels, value in found["qeil_mode"].samples}
    assert {mode for mode, value in modes.items() if value} == {"ready"}
    assert modes["fault"] == 0.0
    assert found["qeil_model_requests_total"].samples == (({"model": "m"}, 1.0),)
    assert found["qeil_model_energy_joules_total"].samples[0][0] == {"model": "m", "provenance": "modelled"}
    text = replace(world.snapshot.models[0], name="llm", total_energy_j=7.5, provenance="modelled")
    both = replace(world.snapshot, models=(*world.snapshot.models, text))
    energies = {m.name: m for m in metrics.collect(both, world.dispatcher, 0)}["qeil_model_energy_joules_total"]
    assert ({"model": "llm", "provenance": "modelled"}, 7.5) in energies.samples
    assert found["qeil_mailbox_dropped_total"].samples == (({}, 3.0),)
    assert found["qeil_accelerator_temperature_celsius"].samples == ()
    assert all(m.kind == ("counter" if m.name.endswith("_total") else "gauge") for m in found.values())


def test_latency_is_a_histogram_of_every_answer_and_of_language_models_too():
    world = World()
    world.infer()
    world.tick()
    text = Latencies()
    for seconds in (0.0005, 0.3, 0.7, 1000.0):
        text.add(seconds)
    family = metrics.latencies(world.dispatcher, {"llm": text.histogram()})
    rows = {(name, labels["model"], labels.get("le")): value for name, labels, value in family.rows()}
    assert rows["qeil_model_latency_seconds_count", "m", None] == 1
    assert rows["qeil_model_latency_seconds_bucket", "llm", "0.0005"] == 1
    assert rows["qeil_model_latency_seconds_bucket", "llm", "0.5"] == 2
    assert rows["qeil_model_latency_seconds_bucket", "llm", "120"] == 3
    assert rows["qeil_model_latency_seconds_bucket", "llm", "+Inf"] == 4
    assert rows["qeil_model_latency_seconds_sum", "llm", None] == pytest.approx(1001.0005)


def test_a_condition_that_ended_stays_as_zero_and_what_is_remembered_is_bounded():
    seen = metrics.ConditionsSeen()
    assert not any(seen.look([]).values())
    assert seen.look(["lane_hung"])["lane_hung"]
    assert seen.look([])["lane_hung"] is False
    for number in range(2 * metrics.MAX_KINDS):
        seen.look([f"kind-{number}"])
    last = seen.look(["kind-0"])
    assert len(last) <= metrics.MAX_KINDS + 1
    assert last["kind-0"]


def test_conditions_are_remembered_whole_where_two_threads_ask_at_once(monkeypatch):
    monkeypatch.setattr(metrics, "MAX_KINDS", 8)
    seen, faults = metrics.ConditionsSeen(), []
    before_s = sys.getswitchinterval()

    def ask(who: str) -> None:
        try:
            for number in range(2000):
                assert seen.look([f"{who}-{number}"])[f"{who}-{number}"]
        except (RuntimeError, KeyError) as error:
            faults.append(error)

    threads = [threading.Thread(target=ask, args=(who,)) for who in ("http", "otlp", "third")]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before_s)
    assert not faults


class FakePlanner:
    """Plans every model onto the cpu, or none of them."""

    def __init__(self) -> None:
        self.possible = True
        self.fails: Exception | None = None

    def plan(self, policy, digest, models, state=None, running=None):
        if self.fails is not None:
            raise self.fails
        return plan_of({m.name: ["cpu"] if self.possible else [] for m in models}, digest)


@pytest.fixture
def changes(tmp_path):
    world = World()
    posted = []
    planner = FakePlanner()
    entries = (ModelEntry(name="m", path=tmp_path / "m.onnx"), ModelEntry(name="n", path=tmp_path / "n.onnx"))
    made = ModelSet(lambda: entries, planner, lambda: world.supervisor.in_force, lambda: world.snapshot, posted.append)
    yield made, planner, posted
    made.stop()


def test_a_good_edit_becomes_a_plan_under_its_own_digest(changes):
    models, _, posted = changes
    models.edited(PolicyEdit(POLICY.model_copy(update={"name": "new"}), None))
    models._executor.shutdown(wait=True)
    assert isinstance(posted[0], PlanEvent)
    assert posted[0].wanted.policy.name == "new"
    assert len(posted[0].wanted.digest) == 64


def test_an_unreadable_edit_and_an_unplaceable_one_are_rejected_with_the_reason(changes):
    models, planner, posted = changes
    models.edited(PolicyEdit(None, "p.yaml:3: soft_c: bad"))
    planner.possible = False
    models.edited(PolicyEdit(POLICY, None))
    models._executor.shutdown(wait=True)
    assert [type(p) for p in posted] == [PolicyRejectedEvent, PolicyRejectedEvent]
    assert "p.yaml:3" in posted[0].cause
    assert "cannot be placed" in posted[1].cause


def test_unload_and_load_change_what_is_planned(changes):
    models, _, posted = changes
    assert not models.planning()
    models.change("n", load=False).result(60)
    models.change("n", load=True).result(60)
    assert [[m.name for m in p.wanted.plan.models] for p in posted] == [["m"], ["m", "n"]]
    with pytest.raises(NotFound, match="known: m, n"):
        models.change("zzz", load=True)


def test_an_unknown_model_is_told_of_those_that_write_text_too(changes, monkeypatch):
    models, *_ = changes
    served = models._snapshot()
    writer = replace(served.models[0], name="writer")
    monkeypatch.setattr(models, "_snapshot", lambda: replace(served, models=(*served.models, writer)))
    with pytest.raises(NotFound, match="known: m, n, writer"):
        models.change("zzz", load=True)


def test_a_replan_that_waited_never_undoes_a_policy_that_came_meanwhile(changes):
    models, planner, posted = changes
    begun, go_on = threading.Event(), threading.Event()
    plan = planner.plan

    def slowly(*given):
        begun.set()
        go_on.wait(60)
        return plan(*given)

    planner.plan = slowly
    models.propose(POLICY.model_copy(update={"name": "wanted-by-the-fleet"}), "desired state")
    begun.wait(60)
    assert models.planning()
    last = models.propose(None, "gpu0 is lost")  # asked for while the supervisor knows nothing of the new policy
    go_on.set()
    last.result(60)
    assert [p.wanted.policy.name for p in posted] == ["wanted-by-the-fleet", "wanted-by-the-fleet"]
    for event in posted:
        event.taken.set()  # the supervisor has them, and gave them up: what it wants counts again
    assert models.propose(None, "gpu0 is back").result(60).policy.name == POLICY.name


def test_a_planner_that_fails_reaches_the_caller_and_status(changes):
    models, planner, posted = changes
    planner.fails = QeilError("broken")
    assert "broken" in str(models.change("m", load=True).exception(60))
    assert "broken" in posted[0].cause


def test_who_loads_a_file_that_cannot_be_placed_hears_why(changes):
    models, planner, _ = changes
    planner.possible = False
    refused = models.change("m", load=True).exception(60)
    assert isinstance(refused, BadInput)
    assert "model m cannot be placed" in refused.message
    assert refused.message.endswith("what was served goes on")


def test_a_client_that_hangs_up_while_a_change_is_planned_disturbs_nobody(caplog):
    proposed, done = Future(), Future()
    assert done.cancel()
    proposed.add_done_callback(lambda made: model_set._forward(made, done, "m"))
    proposed.set_result(None)
    assert not caplog.records  # a callback that raises is logged by the future


def test_of_edits_that_come_quicker_than_plans_the_newest_is_planned(changes):
    models, planner, posted = changes
    go = threading.Event()
    plan = planner.plan

    def slow(*args, **kwargs):
        assert go.wait(60.0)
        return plan(*args, **kwargs)

    planner.plan = slow
    for number in range(100):
        models.edited(PolicyEdit(POLICY.model_copy(update={"name": f"p{number}"}), None))
    go.set()
    models._executor.shutdown(wait=True)
    assert [p.wanted.policy.name for p in posted][-1] == "p99"
    assert len(posted) <= 2


def test_an_answer_names_the_policy_it_was_routed_under():
    world = World()
    lane = world.lane("gpu0")
    lane.hold = True
    answer = world.infer()
    world.dispatcher.replace(replace(world.dispatcher._table, policy_digest="d2"))
    lane.release()
    assert answer.result().policy_digest == "d1"
    assert world.infer().result().policy_digest == "d2"


@pytest.mark.parametrize("load", [True, False])
def test_a_language_model_is_neither_loaded_nor_unloaded_and_says_who_decides(load):
    world = World()
    text = replace(world.snapshot.models[0], name="llm")
    world.supervisor.serve_also(lambda: (text,))
    world.tick()
    service = edge(world)
    asked = service.load_model("llm") if load else service.unload_model("llm")
    with pytest.raises(BadInput, match="'llm' is a language model: the settings alone decide"):
        asked.result(0)


def test_a_plan_that_the_end_of_the_agent_interrupts_is_no_fault_of_the_policy(changes):
    models, planner, posted = changes
    planner.fails = Stopping("the agent is stopping")
    with pytest.raises(Stopping):
        models.propose(None, "gpu0 is lost").result(60)
    models._executor.shutdown(wait=True)
    assert posted == []
