"""What a swap may hold: the version that serves and the one that comes, whatever was asked for in between."""

from __future__ import annotations

from dataclasses import replace

from agent.service.mail import PlanEvent
from agent.service.serving.serving_state import InForce
from tests.service.world import POLICY, World, plan_of


def version(number: int) -> InForce:
    plan = plan_of({"m": ["cpu"]}, f"d{number}")
    candidate = plan.models[0].candidates[0]
    load = replace(candidate.load, model=f"m@{number}")
    model = replace(plan.models[0], digest=str(number), candidates=(replace(candidate, load=load),))
    return InForce(POLICY, f"d{number}", replace(plan, models=(model,)))


def test_a_swap_holds_the_old_version_and_the_new_one_and_then_the_new_one_alone():
    world = World({"m": ["cpu"]})
    lane, most = world.lane("cpu"), 0
    load = lane.load

    def counted(spec, timeout_s):
        nonlocal most
        future = load(spec, timeout_s)
        most = max(most, len(lane.loaded))
        return future

    lane.load = counted
    for number in range(2, 8):
        world.supervisor.post(PlanEvent(version(number), "a new file"))
        world.tick(0.5)
        assert list(lane.loaded) == [f"m@{number}"]
        assert world.infer().result(0).policy_digest == f"d{number}"
    assert most == 2


def test_a_version_that_is_overtaken_once_loaded_goes_before_the_next_one_is_loaded():
    world = World({"m": ["cpu", "gpu0"]})
    world.lane("gpu0").hold_loads = True  # by which no swap can be done
    lane = world.lane("cpu")
    for number in range(2, 5):
        wanted = version(number)
        model = wanted.plan.models[0]
        both = (model.candidates[0], replace(model.candidates[0], accelerator="gpu0"))
        plan = replace(wanted.plan, models=(replace(model, candidates=both),))
        world.supervisor.post(PlanEvent(replace(wanted, plan=plan), "a new file"))
        world.tick(0.5)
        assert sorted(lane.loaded) == ["m", f"m@{number}"]
    assert world.infer().result(0).policy_digest == "d1"


def test_a_version_that_is_overtaken_while_it_loads_does_not_stay():
    world = World({"m": ["cpu"]})
    lane = world.lane("cpu")
    lane.hold_loads = True
    for number in range(2, 5):
        world.supervisor.post(PlanEvent(version(number), "a new file"))
        world.tick(0.5)
    lane.release_loads()
    world.tick(0.5)
    assert list(lane.loaded) == ["m@4"]
    assert world.infer().result(0).policy_digest == "d4"
