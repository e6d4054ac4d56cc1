"""The live agent plans again: what it knows of its board, when a plan is due, and what the new plan keeps."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from agent.control.thermal_governor import Level, ThermalVerdict
from agent.placement.candidates import whole_models
from agent.placement.state import State
from agent.ports import Reading
from agent.schema.policy import Rule
from agent.schema.settings import ModelEntry
from agent.schema.snapshot import AcceleratorStatus, AgentInfo, AgentSnapshot, ModelStatus, PlacementStatus
from agent.service.board import Board
from agent.service.mail import PlanEvent
from agent.service.planning.plan import Candidate, ModelPlan, Plan
from agent.service.planning.planner import Planner, lane_name, ordered
from agent.service.planning.planning_state import LOST_AFTER_S, MIN_GAP_S, Replanner, planning_state, starting_state
from agent.service.planning.stage_planner import StagePlanner
from agent.service.serving.serving_state import InForce
from agent.service.status_view import planned
from tests.fakes import load_spec
from tests.placement.test_costing import board, load, quantity, stage, unit
from tests.service.world import POLICY, World, plan_of

CPU = {"kind": "cpu", "base_power_w": quantity(3.0)}
BOARD = board(unit("gpu"), unit("npu", base_power_w=quantity(1.0)), unit("cpu", **CPU))
WORKLOAD = load(*(stage(str(i), flops=1e8, weight=1e6, arena_bytes=1e5) for i in range(4)), digest="d")


def status(name: str, **changes) -> AcceleratorStatus:
    base = AcceleratorStatus(name, "onnx", "P", "ready", True, 50.0, None, 0, None)
    return dataclasses.replace(base, **changes)


def snapshot(*accelerators: AcceleratorStatus, placements: tuple[PlacementStatus, ...] = ()) -> AgentSnapshot:
    info = AgentInfo("0", "ready", "", "p", "d", 1, "b", "b")
    model = ModelStatus("m", "ready", "", "", None, "gpu", None, None, None, "unknown", candidates=placements)
    return AgentSnapshot(info, accelerators, (model,))


def placed(accelerator: str, state: str = "ready", p50_ms: float | None = None) -> PlacementStatus:
    return PlacementStatus(accelerator, state, "P", "P", 1.0, 20.0, 1.0, p50_ms)


RUNNING = Plan("d", (ModelPlan("m", "1", "d", WORKLOAD, ()),))


# ------------------------------------------------------------------------------------------- state


def test_temperatures_that_no_junction_has_are_not_planned_with():
    seen = snapshot(
        status("gpu", temperature_c=71.5), status("npu", temperature_c=-200.0), status("cpu", temperature_c=None)
    )
    assert planning_state(seen, BOARD, RUNNING, frozenset(), None).temperatures_c == {"gpu": 71.5}


def test_waiting_requests_count_with_the_time_that_one_takes():
    placements = (placed("gpu", p50_ms=5.0), placed("npu"), placed("cpu", state="refused"))
    seen = snapshot(status("gpu", queue=4), status("npu", queue=2), status("cpu", queue=3), placements=placements)
    found = planning_state(seen, BOARD, RUNNING, frozenset(), None)
    assert found.queue_s == {"gpu": pytest.approx(0.02), "npu": pytest.approx(0.04), "cpu": 0.0}


def test_free_memory_is_what_the_machine_has_and_what_the_agents_own_models_would_give_back():
    seen = snapshot(status("gpu"), status("npu"), status("cpu"), placements=(placed("gpu"), placed("cpu", "loading")))
    assert planning_state(seen, BOARD, RUNNING, frozenset(), 3e8).free_bytes == {"ram": 3e8 + 4e6 + 1e5}
    assert planning_state(seen, BOARD, Plan("d", ()), frozenset(), 3e8).free_bytes == {"ram": 3e8}
    assert planning_state(seen, BOARD, RUNNING, frozenset(), None).free_bytes == {}


def test_a_simulated_processor_says_nothing_of_this_machines_memory():
    seen = snapshot(status("cpu", simulated=True))
    assert planning_state(seen, BOARD, RUNNING, frozenset(), 3e8).free_bytes == {}


def test_what_the_profile_does_not_have_is_left_out():
    found = planning_state(snapshot(status("other", queue=1)), BOARD, RUNNING, frozenset({"other", "gpu"}), None)
    assert found == State(lost=frozenset({"gpu"}))
    found.check(BOARD)


# ------------------------------------------------------------------------------------------- when


class Watched:
    """A world whose ticks are looked at."""

    def __init__(self, **options):
        self.why: list[str] = []
        self.world = World(accelerators=("gpu0", "cpu"), **options)
        self.replanner = Replanner(self.why.append)
        self.world.supervisor.after_tick = lambda now_s: self.replanner.look(self.world.keepers, now_s)
        self.world.tick()


def test_a_board_at_rest_is_not_planned_again():
    watched = Watched()
    watched.world.tick(10.0)
    assert watched.why == []


def test_a_lane_that_keeps_dying_is_planned_without_and_planned_with_when_it_is_back():
    watched = Watched()
    for _ in range(3):
        watched.world.lane("gpu0").die("SIGSEGV")
        watched.world.tick(3.0)
    assert watched.why == ["gpu0 is lost"]
    assert watched.replanner.lost == {"gpu0"}
    watched.world.tick(40.0)
    assert watched.why == ["gpu0 is lost", "gpu0 is back"]
    assert watched.replanner.lost == frozenset()


def test_a_lane_that_restarts_at_once_is_not_worth_a_plan():
    watched = Watched()
    watched.world.lane("gpu0").die("SIGKILL")
    watched.world.tick(LOST_AFTER_S - 0.5)
    watched.world.tick(5.0)
    assert watched.why == []


@dataclasses.dataclass
class Lane:
    """What a replanner sees of a lane keeper."""

    name: str = "gpu0"
    word: str = "ready"
    verdict: ThermalVerdict = dataclasses.field(default_factory=lambda: ThermalVerdict(True, 1.0, Level.NOMINAL, ""))

    def state(self) -> str:
        return self.word


def test_a_lane_that_dies_again_at_once_was_never_back():
    lane, why = Lane(), []
    replanner = Replanner(why.append)
    at = 0.0
    for word, seconds in (
        ("ready", 3), ("restarting", 4), ("ready", 1), ("restarting", 1), ("starting", 1), ("ready", 1.5),
        ("quarantined", 9), ("restarting", 1), ("ready", 4),
    ):  # fmt: skip
        lane.word = word
        for _ in range(round(seconds * 10)):
            at += 0.1
            replanner.look({"gpu0": lane}, at)
    assert why == ["gpu0 is lost", "gpu0 is back"]


def test_a_model_that_waits_for_room_is_planned_again_from_time_to_time_until_it_has_some():
    lane, why, waiting = Lane(), [], ["net", "face"]
    replanner = Replanner(why.append, lambda: waiting)
    for tick in range(250):
        replanner.look({"gpu0": lane}, tick * 0.1)
    assert why == ["room for face, net may be there now"] * 2
    waiting.clear()
    for tick in range(250, 500):
        replanner.look({"gpu0": lane}, tick * 0.1)
    assert len(why) == 2


def test_before_the_first_plan_the_memory_that_is_left_is_known_of_the_cpus_domain():
    assert starting_state(BOARD, (), 5e8) == State(free_bytes={"ram": 5e8})
    assert starting_state(BOARD, (), None) == State()
    assert starting_state(BOARD, {"cpu"}, 5e8) == State()


def test_a_lane_on_which_nothing_is_placed_is_not_lost():
    lane, why = Lane(word="idle"), []
    replanner = Replanner(why.append)
    for word in ("idle", "starting", "ready"):
        lane.word = word
        for tick in range(50):
            replanner.look({"gpu0": lane}, {"idle": 0, "starting": 5, "ready": 10}[word] + tick * 0.1)
    assert (why, replanner.lost) == ([], frozenset())


def test_heat_is_a_reason_once_and_its_end_is_another():
    zone = {"name": "soc", "source": "thermal_zone", "type": "cpu-thermal", "critical": True}
    watched = Watched(zones=(zone,))
    temperature = 40.0

    def tick(seconds: float) -> None:
        from agent.service.mail import SamplesEvent

        for _ in range(round(seconds)):
            now_s = watched.world.clock.now_s
            watched.world.supervisor.post(SamplesEvent((Reading("soc", "temperature_c", temperature, None, now_s),)))
            watched.world.tick(1.0)

    tick(3)
    watched.why.clear()
    temperature = 75.0
    tick(5)
    assert watched.why == ["cpu is derated by heat, gpu0 is derated by heat"]
    assert watched.replanner.lost == frozenset()
    temperature = 90.0
    tick(5)
    assert watched.why[-1] == "cpu is stopped by heat, gpu0 is stopped by heat"
    assert watched.replanner.lost == {"cpu", "gpu0"}
    temperature = 40.0
    tick(5)
    assert watched.why[-1] == "cpu is back, gpu0 is back"


def test_plans_follow_each_other_no_faster_than_the_gap():
    world = World(accelerators=("gpu0", "cpu"))
    why: list[str] = []
    replanner = Replanner(why.append)
    nominal, hot = (ThermalVerdict(True, 1.0, level, "") for level in (Level.NOMINAL, Level.DERATE))
    for step in range(100):
        world.keepers["gpu0"].verdict = hot if step % 2 else nominal
        replanner.look(world.keepers, step * 0.1)
    assert 2 <= len(why) <= 10.0 / MIN_GAP_S + 1


# ------------------------------------------------------------------------------------------- what


def names(plan: ModelPlan) -> list[str]:
    return [c.accelerator for c in plan.candidates]


@pytest.fixture
def planner(tmp_path, monkeypatch):
    made = Planner(Board(BOARD, frozenset(), 2), None)
    monkeypatch.setattr("agent.service.planning.planner.open_artifact", lambda path: Opened(path))
    monkeypatch.setattr("agent.service.planning.planner.check_guard", lambda *_: ())
    monkeypatch.setattr("agent.service.planning.planner.workload_of", lambda *_: WORKLOAD)
    return made


@dataclasses.dataclass(frozen=True)
class Opened:
    path: object
    format: str = "onnx"
    digest: str = "d"
    stamp: object = None


ENTRY = (ModelEntry(name="m", path="m.onnx"),)


def test_a_lost_accelerator_stands_last_and_the_first_plan_searches_no_stages(planner):
    first = planner.plan(POLICY, "d", ENTRY).models[0]
    assert names(first)[0] == "npu"
    assert first.stage_placement is None
    second = planner.plan(POLICY, "d", ENTRY, State(lost=frozenset({"npu"})), Plan("d", (first,))).models[0]
    assert names(second) == [*(n for n in names(first) if n != "npu"), "npu"]
    assert {name for _, name in second.stage_placement.stages} <= {"gpu", "cpu"}


def test_a_plan_stays_with_what_serves_where_another_is_hardly_better(planner):
    near = board(unit("gpu"), unit("npu", base_power_w=quantity(1.99)), unit("cpu", **CPU))
    close = Planner(Board(near, frozenset(), 2), None)
    for made, stays in ((close, True), (planner, False)):
        rest = made.plan(POLICY, "d", ENTRY).models[0]
        assert names(rest)[0] == "npu"
        serving = dataclasses.replace(
            rest, candidates=tuple(sorted(rest.candidates, key=lambda c: c.accelerator != "gpu"))
        )
        again = made.plan(POLICY, "d", ENTRY, State(), Plan("d", (serving,))).models[0]
        assert (names(again)[0] == "gpu") is stays


def test_what_serves_goes_where_only_another_keeps_the_deadline():
    near = board(unit("gpu", peak_flops_per_s={"fp32": quantity(0.99e10)}), unit("npu"))
    rest = whole_models(WORKLOAD, near, POLICY)[0]
    fast_s, slow_s = (c.cost.time_s for c in rest)
    for deadline_s, first in ((0.5 * (fast_s + slow_s), "npu"), (2.0 * slow_s, "gpu"), (0.5 * fast_s, "gpu")):
        admission = POLICY.admission.model_copy(update={"default_deadline_s": deadline_s})
        before = ModelPlan("m", "1", "d", WORKLOAD, (Candidate("gpu", None, slow_s, 1.0, 1.0),), (), None)
        found = ordered(rest, POLICY.model_copy(update={"admission": admission}), State(), before)
        assert found[0].accelerator.name == first


def test_what_runs_goes_on_where_others_take_the_memory_and_what_is_new_is_not_begun(planner):
    full = State(free_bytes={"ram": 0.0})
    assert "of ram" in planner.plan(POLICY, "d", ENTRY, full).models[0].reason
    running = planner.plan(POLICY, "d", ENTRY)
    again = planner.plan(POLICY, "d", ENTRY, full, running).models[0]
    assert names(again) == names(running.models[0])
    assert again.stage_placement is None


def test_a_pin_to_nothing_here_is_the_models_reason(planner):
    policy = POLICY.model_copy(update={"pinned": (Rule(model="*", accelerator="tpu"),)})
    assert "pins the model to tpu" in planner.plan(policy, "d", ENTRY).models[0].reason


def looks():
    """A clock on which each look takes a tenth of a millisecond: a search is as long on a busy machine."""
    return itertools.count(0.0, 1e-4).__next__


def test_stages_are_searched_from_the_placement_that_runs_and_the_next_time_from_that_front():
    stages = StagePlanner(BOARD, looks(), budget_s=0.05)
    first = stages.replan(WORKLOAD, POLICY, State(), ["gpu", "npu"])
    assert [name for name, _ in first.stages] == [s.name for s in WORKLOAD.stages]
    after = stages.replan(WORKLOAD, POLICY, State(lost=frozenset({"npu"})), ["npu", "gpu"])
    assert "npu" not in {accelerator for _, accelerator in after.stages}
    assert after.energy_j > first.energy_j
    throughput = POLICY.model_copy(update={"objective": POLICY.objective.model_copy(update={"goal": "throughput"})})
    assert stages.replan(WORKLOAD, throughput, State(), ["gpu"]) is not None


def test_where_nothing_fits_or_keeps_the_limits_there_is_no_stage_placement():
    stages = StagePlanner(BOARD, looks(), budget_s=0.02)
    assert stages.replan(WORKLOAD, POLICY, State(free_bytes={"ram": 0.0}), ["gpu"]) is None
    strict = POLICY.model_copy(update={"power_cap_w": 0.1})
    assert stages.replan(WORKLOAD, strict, State(), ["gpu"]) is None


def test_fronts_are_kept_of_so_many_models_only(monkeypatch):
    monkeypatch.setattr("agent.service.planning.stage_planner.MAX_FRONTS", 2)
    stages = StagePlanner(BOARD, looks(), budget_s=0.01)
    for model in "abca":
        stages.replan(WORKLOAD.model_copy(update={"model": model}), POLICY, State(), ["gpu"])
    assert set(stages._known) == {"c", "a"}


def test_what_a_plan_means_is_told_for_each_model(planner):
    first = planner.plan(POLICY, "d", ENTRY).models[0]
    assert planned(first, "start") == {"model": "m", "cause": "start", "serves": names(first)}
    again = planner.plan(POLICY, "d", ENTRY, State(), Plan("d", (first,))).models[0]
    told = planned(again, "gpu is lost")
    assert len(told["stages"]) == 4
    assert told["provenance"] == "modelled"


# ------------------------------------------------------------------------------------------- swap


def test_a_new_plan_does_not_wait_for_a_lane_that_is_down():
    world = World(models={"m": ["cpu"]}, accelerators=("gpu0", "cpu"))
    for _ in range(3):
        world.lane("gpu0").die("SIGSEGV")
        world.tick(3.0)
    assert world.accelerator("gpu0").state == "quarantined"
    world.supervisor.post(PlanEvent(InForce(POLICY, "d2", plan_of({"m": ["cpu", "gpu0"]}, "d2")), "gpu0 is lost"))
    world.tick(1.0)
    assert world.supervisor.in_force.digest == "d2"
    assert world.supervisor.wanted.digest == "d2"
    assert world.infer().result(0).placement == "cpu"


def test_but_it_waits_where_the_model_would_be_without_a_home():
    world = World(models={"m": ["cpu"]}, accelerators=("gpu0", "cpu"))
    for _ in range(3):
        world.lane("gpu0").die("SIGSEGV")
        world.tick(3.0)
    world.supervisor.post(PlanEvent(InForce(POLICY, "d2", plan_of({"m": ["gpu0"]}, "d2")), "edited"))
    world.tick(1.0)
    assert world.supervisor.in_force.digest == "d1"
    assert world.supervisor.wanted.digest == "d2"
    assert world.infer().result(0).placement == "cpu"


def test_another_file_under_a_models_name_is_loaded_beside_the_old_one():
    before = ModelPlan("m", "1", "sha256:aaaa", None, (Candidate("cpu", load_spec("m"), 0.01, 0.05, 2.0),))
    assert lane_name("m", "sha256:aaaa", None) == "m"
    assert lane_name("m", "sha256:aaaa", before) == "m"
    other = lane_name("m", "sha256:bbbbbbbbbbbbbbbb", before)
    assert other == "m@bbbbbbbbbbbb"
    after = ModelPlan("m", "1", "sha256:bbbbbbbbbbbbbbbb", None, (Candidate("cpu", load_spec(other), 0.01, 0.05, 2.0),))
    assert lane_name("m", "sha256:bbbbbbbbbbbbbbbb", after) == other
    assert lane_name("m", "sha256:aaaa", after) == "m@aaaa"
