"""The supervisor: lanes live and die, heat overrules the plan, policies swap without a gap."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.ports import Reading
from agent.service.mail import ConditionEvent, DrainEvent, PlanEvent, PolicyRejectedEvent, SamplesEvent
from agent.service.serving.serving_state import InForce
from tests.service.world import POLICY, World, plan_of, quantity

ZONE = {"name": "soc", "source": "thermal_zone", "type": "cpu-thermal", "critical": True}


def temperature(world: World, value: float | None, fault: str | None = None) -> None:
    reading = Reading("soc", "temperature_c", value, fault, world.clock.now_s)
    world.supervisor.post(SamplesEvent((reading,)))
    world.tick()


def test_a_fresh_agent_is_ready_with_every_lane_permitted():
    world = World()
    assert world.snapshot.agent.mode == "ready"
    assert all(a.permit and a.state == "ready" and a.restarts == 0 for a in world.snapshot.accelerators)
    assert world.snapshot.models[0].placement == "gpu0"


def test_permits_expire_when_the_supervisor_stops_ticking():
    world = World()
    world.clock.advance(1.5)
    assert "permit" in str(world.infer().exception(0))


def test_a_killed_lane_comes_back_and_status_says_what_happened():
    world = World()
    world.lane("gpu0").die("killed by SIGKILL")
    world.tick()
    assert world.accelerator("gpu0").state == "restarting"
    assert world.condition("lane_down:gpu0").cause == "killed by SIGKILL"
    assert world.snapshot.agent.mode == "degraded"

    world.tick(1.0)
    back = world.accelerator("gpu0")
    assert (back.state, back.restarts, back.last_fault) == ("ready", 1, "killed by SIGKILL")
    assert 0.5 <= back.capacity_share < 1.0
    assert world.condition("lane_down:gpu0") is None

    world.tick(10.0)
    assert world.accelerator("gpu0").capacity_share == 1.0


def test_a_lane_that_keeps_dying_is_quarantined_and_probed_later():
    world = World()
    for _ in range(3):
        world.lane("gpu0").die("SIGSEGV")
        world.tick(3.0)
    assert world.accelerator("gpu0").state == "quarantined"
    assert not world.accelerator("gpu0").permit
    assert world.infer().result(0).placement == "cpu"
    world.tick(30.0)
    assert world.accelerator("gpu0").state == "ready"


def test_a_hung_call_kills_the_lane_and_its_requests_move_on():
    world = World()
    lane = world.lane("gpu0")
    lane.hold = True
    future = world.infer()
    lane.busy_since_s = world.clock.now_s
    world.tick(1.2)
    assert future.result(0).placement == "cpu"
    assert "hung" in world.accelerator("gpu0").last_fault


def test_a_first_run_that_met_a_busy_machine_hides_no_hang_once_calls_are_measured():
    world = World()
    keeper, lane = world.keepers["gpu0"], world.lane("gpu0")
    keeper.models["m"].report = replace(keeper.models["m"].report, first_run_s=60.0)
    lane.busy_since_s = world.clock.now_s
    world.tick(4.0)
    assert world.accelerator("gpu0").state == "ready"
    keeper.slowest_s["m"] = 0.1
    world.tick(0.1)
    assert "deadline 3.0 s" in world.accelerator("gpu0").last_fault


def test_a_lane_without_heartbeat_is_killed():
    world = World()
    world.lane("cpu").silent = True
    world.tick(3.5)
    assert "no heartbeat" in world.accelerator("cpu").last_fault


@pytest.mark.parametrize("seen", [True, False], ids=["after a tick", "before any tick"])
def test_a_model_that_kills_the_lane_twice_while_loading_is_refused_there(seen):
    def prepare(lane, generation):
        lane.hold_loads = lane.spec.accelerator == "gpu0" and generation < 2

    world = World(prepare=prepare)
    for _ in range(2):
        if seen:
            world.tick(1.0)
        world.lane("gpu0").die("SIGSEGV in delegate")
        world.tick(2.0)
        world.keepers["gpu0"].vitals = None
    world.tick(3.0)
    placement = world.snapshot.models[0].candidates[0]
    assert placement.state == "refused"
    assert "SIGSEGV in delegate" in placement.reason
    assert world.accelerator("gpu0").state == "ready"
    assert world.snapshot.models[0].placement == "cpu"


def test_a_refused_placement_is_replaced_by_the_next_candidate():
    def prepare(lane, generation):
        if lane.spec.accelerator == "a":
            lane.refuse["m"] = "operator Foo is not supported"

    world = World({"m": ["a", "b", "c"]}, accelerators=("a", "b", "c"), prepare=prepare)
    world.tick()
    assert [c.state for c in world.snapshot.models[0].candidates] == ["refused", "ready", "ready"]
    assert world.snapshot.models[0].candidates[0].reason == "operator Foo is not supported"


def test_a_model_nobody_can_load_is_unavailable_with_its_reasons():
    world = World(prepare=lambda lane, n: lane.refuse.update(m="corrupt file"))
    world.tick()
    assert world.snapshot.models[0].state == "unavailable"
    assert "gpu0: corrupt file" in world.condition("model_unavailable:m").cause
    assert "corrupt file" in str(world.infer().exception(0))
    assert world.snapshot.agent.mode == "degraded"


@pytest.mark.parametrize(("rule", "state"), [("fail", "refused"), ("warn", "ready"), ("allow", "ready")])
def test_a_silent_fallback_is_refused_warned_of_or_allowed_by_the_policy(rule, state):
    policy = POLICY.model_copy(update={"fallback": POLICY.fallback.model_copy(update={"on_fallback": rule})})

    def prepare(lane, generation):
        if lane.spec.accelerator == "gpu0":
            lane.actual["m"] = ("SomethingElse",)

    world = World(policy=policy, prepare=prepare)
    world.tick()
    candidate = world.snapshot.models[0].candidates[0]
    assert (candidate.state, candidate.accelerated_fraction) == (state, None if rule == "fail" else 0.0)
    assert (world.condition("fallback:m:gpu0") is not None) == (rule == "warn")


def test_heat_withholds_permits_and_release_returns_them():
    world = World(zones=(ZONE,))
    temperature(world, 50.0)
    assert world.snapshot.agent.mode == "ready"
    temperature(world, 75.0)
    assert world.snapshot.agent.mode == "throttled"
    assert world.infer().result(0).placement == "gpu0"
    temperature(world, 90.0)
    assert not world.accelerator("gpu0").permit
    assert "90.0" in str(world.condition("thermal:gpu0").cause)
    assert "no accelerator may run" in str(world.infer().exception(0))
    temperature(world, 40.0)
    assert world.infer().result(0).placement == "gpu0"
    assert [f["level"] for k, f in world.telemetry.events if k == "thermal" and f["accelerator"] == "cpu"] == [
        "HALT", "NOMINAL", "DERATE", "HALT", "NOMINAL",
    ]  # fmt: skip


def test_a_critical_sensor_that_never_read_or_went_stale_stops_work():
    world = World(zones=(ZONE,))
    assert "no accelerator" in str(world.infer().exception(0))
    temperature(world, 40.0)
    assert world.infer().result(0)
    world.tick(2.2)
    assert not world.accelerator("cpu").permit


def test_a_simulated_accelerator_is_governed_by_its_own_temperature():
    world = World(simulated=("gpu0",))
    world.lane("gpu0").temperature_c = 90.0
    world.tick()
    assert (world.accelerator("gpu0").permit, world.accelerator("cpu").permit) == (False, True)
    assert world.infer().result(0).placement == "cpu"


def test_a_new_policy_takes_over_when_its_placements_are_loaded_and_not_before():
    world = World({"m": ["gpu0", "cpu"]}, accelerators=("gpu0", "cpu", "npu"))
    world.lane("npu").hold_loads = True
    wanted = InForce(POLICY.model_copy(update={"name": "next"}), "d2", plan_of({"m": ["npu", "cpu"]}, "d2"))

    world.supervisor.post(PlanEvent(wanted, "edited"))
    world.tick(1.0)
    before = world.infer().result(0)
    assert (before.placement, before.policy_digest) == ("gpu0", "d1")

    world.lane("npu").release_loads()
    world.tick()
    after = world.infer().result(0)
    assert (after.placement, after.policy_digest) == ("npu", "d2")
    assert world.lane("gpu0").unloaded == ["m"]
    assert [c.digest for c in world.committed] == ["d2"]


def test_nothing_is_said_any_more_of_a_model_that_the_plan_left():
    world = World({"m": ["cpu"], "bad": ["gpu0"]}, prepare=lambda lane, n: lane.refuse.update(bad="corrupt file"))
    world.tick()
    assert world.condition("model_unavailable:bad") is not None
    world.supervisor.post(PlanEvent(InForce(POLICY, "d2", plan_of({"m": ["cpu"]}, "d2")), "reverted"))
    world.tick()
    world.tick()
    assert [c.type for c in world.snapshot.conditions if c.type.startswith("model_unavailable")] == []


def test_what_a_new_plan_leaves_is_unloaded_only_when_no_request_is_routed_there():
    world = World({"m": ["gpu0", "cpu"]}, accelerators=("gpu0", "cpu", "npu"))
    lane, routed = world.lane("gpu0"), []
    unload = lane.unload

    def observed(model):
        routed.append([r.accelerator for r in world.supervisor.dispatcher.routes("m").routes])
        return unload(model)

    lane.unload = observed
    wanted = InForce(POLICY, "d2", plan_of({"m": ["npu", "cpu"]}, "d2"))
    world.supervisor.post(PlanEvent(wanted, "edited"))
    world.tick(1.0)
    world.tick()
    assert routed == [["npu", "cpu"]]


def test_a_policy_under_which_a_model_would_be_lost_is_rejected_and_the_old_one_serves():
    world = World({"m": ["gpu0"]}, accelerators=("gpu0", "npu"))
    world.lane("npu").refuse["m"] = "unsupported"
    world.supervisor.post(PlanEvent(InForce(POLICY, "d2", plan_of({"m": ["npu"]}, "d2")), "edited"))
    world.tick(0.5)
    assert world.infer().result(0).policy_digest == "d1"
    assert "no placement could be loaded for m" in world.condition("policy_rejected").cause


def test_a_rejected_edit_stands_as_a_condition_until_a_good_one_is_in_force():
    world = World()
    world.supervisor.post(PolicyRejectedEvent("p.yaml:3: thermal.soft_c: too hot"))
    world.tick()
    condition = world.condition("policy_rejected")
    assert "p.yaml:3" in condition.cause
    assert "test" in condition.consequence
    world.supervisor.post(PlanEvent(InForce(POLICY, "d2", plan_of({"m": ["cpu"]}, "d2")), "edited"))
    world.tick()
    assert world.condition("policy_rejected") is None


def test_a_plan_is_told_where_it_changes_who_serves_and_not_each_time_it_is_made():
    world = World({"m": ["gpu0", "cpu"]}, accelerators=("gpu0", "cpu"))
    for placements, why in ((["gpu0", "cpu"], "edited"), (["gpu0", "cpu"], "timed"), (["cpu", "gpu0"], "timed")):
        world.supervisor.post(PlanEvent(InForce(POLICY, "d2", plan_of({"m": placements}, "d2")), why))
        world.tick(1.0)
    told = [(f["serves"], f["cause"]) for kind, f in world.telemetry.events if kind == "planned"]
    assert told == [(["gpu0", "cpu"], "edited"), (["cpu", "gpu0"], "timed")]


def test_conditions_of_other_parts_keep_their_beginning_while_they_last():
    world = World()
    world.supervisor.post(ConditionEvent("broker", "refused", "telemetry waits", "start it"))
    world.tick()
    since = world.condition("broker").since
    world.tick(5.0)
    world.supervisor.post(ConditionEvent("broker", "timed out", "telemetry waits", "start it"))
    world.tick()
    assert (world.condition("broker").since, world.condition("broker").cause) == (since, "timed out")
    world.supervisor.post(ConditionEvent("broker", None))
    world.tick()
    assert world.condition("broker") is None


def test_draining_refuses_new_requests_and_says_so():
    world = World()
    world.supervisor.post(DrainEvent())
    world.tick()
    assert world.snapshot.agent.mode == "draining"
    assert "shutting down" in str(world.infer().exception(0))


def test_news_of_an_old_generation_never_touches_the_new_lane():
    world = World()
    old = world.lane("gpu0")
    old.die("first")
    world.tick(1.0)
    old._on_death("late news")
    world.tick()
    assert world.accelerator("gpu0").last_fault == "first"


def test_a_full_mailbox_drops_and_counts(monkeypatch):
    world = World()
    for _ in range(5000):
        world.supervisor.post(ConditionEvent("x", None))
    assert world.supervisor.mailbox_dropped == 5000 - 4096


def test_the_thread_ticks_by_itself_and_reports_when_it_is_gone():
    world = World()
    world.supervisor._clock = __import__("agent.service.clock", fromlist=["SystemClock"]).SystemClock()
    world.supervisor._thread.start()
    assert world.supervisor._thread.is_alive()
    world.supervisor.stop()
    assert not world.supervisor.alive()


def test_unknown_prices_of_energy_stay_unknown():
    assert quantity(1.0)["provenance"] == "assumed"
    world = World()
    state = world.supervisor._state
    candidate = state.current.plan.models[0].candidates[0]
    assert candidate.predicted_energy_j == pytest.approx(0.07)


def test_a_lane_has_no_process_until_something_is_placed_on_it():
    world = World({"m": ["gpu0"]}, prepare=_slow_to_load, started=False)
    world.tick(2.0)
    world.lane("gpu0").release_loads()
    world.tick(0.3)
    assert world.snapshot.agent.mode == "ready"
    assert (len(world.lanes["gpu0"]), len(world.lanes["cpu"])) == (1, 0)
    assert world.accelerator("cpu").state == "idle"
    world.supervisor.post(PlanEvent(InForce(POLICY, "d2", plan_of({"m": ["gpu0", "cpu"]}, "d2")), "edited"))
    world.tick(1.0)
    world.tick()
    assert len(world.lanes["cpu"]) == 1
    assert (world.accelerator("cpu").state, world.accelerator("cpu").restarts) == ("ready", 0)


def _slow_to_load(lane, generation):
    lane.hold_loads = lane.spec.accelerator == "gpu0"


def test_a_version_is_swapped_without_a_moment_in_which_none_serves():
    world = World({"m": ["cpu"]})
    cpu = world.lane("cpu")
    cpu.hold_loads = True
    new = plan_of({"m": ["cpu"]}, "d2")
    candidate = new.models[0].candidates[0]
    renamed = replace(candidate, load=replace(candidate.load, model="m@2"))
    model = replace(new.models[0], digest="other", candidates=(renamed,))
    world.supervisor.post(PlanEvent(InForce(POLICY, "d2", replace(new, models=(model,))), "a new file"))
    world.tick(1.0)
    assert world.infer().result(0).policy_digest == "d1"
    cpu.release_loads()
    world.tick(0.3)
    assert world.infer().result(0).policy_digest == "d2"
    assert cpu.unloaded == ["m"]
    assert world.snapshot.models[0].placement == "cpu"


def test_what_serves_is_loaded_before_what_stands_by():
    world = World(models={"a": ["gpu0", "cpu"], "b": ["cpu", "gpu0"]}, started=False)
    for keeper in world.keepers.values():
        keeper.start(POLICY.recovery, world.clock.now_s)
    assert list(world.lane("gpu0").loaded) == ["a", "b"]
    assert list(world.lane("cpu").loaded) == ["b", "a"]
