"""Split models: a request goes through its stages once, on the lanes of its placement, and survives the loss of one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.errors import BadInput, DeadlineExceeded, InferenceFailed, InputRefused, Unprocessable
from agent.ports import InferenceRequest
from agent.service.mail import PlanEvent
from agent.service.serving.serving_state import InForce
from tests.service.split_world import ALL, SplitWorld, split_candidate, whole_candidate
from tests.service.world import POLICY, World, plan_of


def value(answer) -> float:
    return float(answer.outputs["y"][0, 0])


def test_a_request_passes_every_stage_once_and_the_answer_names_all_lanes():
    world = SplitWorld([split_candidate(["a", "b", "a"])])
    answer = world.infer().result(0)
    assert value(answer) == 1 + 3
    assert answer.placement == "a+b+a"
    assert answer.execute_s == pytest.approx(0.03)
    assert answer.energy_j == pytest.approx(3 * (0.02 + 1.0 * 0.01))
    assert answer.provenance == "modelled"
    assert (world.lane("a").runs, world.lane("b").runs) == (2, 1)


def test_a_tensor_that_jumps_over_a_stage_is_still_there():
    world = SplitWorld([split_candidate(["a", "b", "a"], skip=True)])
    assert value(world.infer().result(0)) == (1 + 1 + 1) + (1 + 1) + 1


def test_only_what_is_wanted_is_asked_of_a_stage():
    world = SplitWorld([split_candidate(["a", "b"])])
    world.infer().result(0)
    assert world.lane("a").asked == [("m/1of2-k", ("t1",))]
    assert world.lane("b").asked == [("m/2of2-k", ("y",))]


def test_requests_overlap_on_different_lanes():
    world = SplitWorld([split_candidate(["a", "b"])])
    world.lane("b").hold = True
    futures = [world.infer() for _ in range(4)]
    assert world.lane("a").runs == 4
    assert world.lane("b").queue_length() == 4
    world.lane("b").release()
    assert [value(f.result(0)) for f in futures] == [3.0] * 4


def test_a_placement_can_be_asked_for_by_name():
    world = SplitWorld([whole_candidate("a"), split_candidate(["a", "b"]), whole_candidate("b")])
    assert world.infer().result(0).placement == "a"
    assert world.infer(placement="a+b").result(0).placement == "a+b"
    error = world.infer(placement="b+a").exception(0)
    assert isinstance(error, BadInput)
    assert "it is on a, a+b, b" in error.message


def test_a_lost_stage_goes_on_from_what_is_held_on_the_same_cut_elsewhere():
    world = SplitWorld([split_candidate(["a", "b"]), split_candidate(["a", "c"])], accelerators=("a", "b", "c"))
    world.lane("b").hold = True
    futures = [world.infer() for _ in range(5)]
    world.lane("b").die()
    answers = [f.result(0) for f in futures]
    assert {a.placement for a in answers} == {"a+c"}
    assert {value(a) for a in answers} == {3.0}
    assert {a.replays for a in answers} == {1}
    assert world.lane("a").runs == 5  # the first stage ran once for each
    assert world.lane("c").runs == 5


def test_a_lost_stage_begins_anew_on_a_whole_placement():
    world = SplitWorld([split_candidate(["a", "b"]), whole_candidate("a")])
    world.lane("b").hold = True
    future = world.infer()
    world.lane("b").die()
    assert (future.result(0).placement, value(future.result(0))) == ("a", 2.0)


def test_another_cut_is_no_place_to_go_on():
    world = SplitWorld(
        [split_candidate(["a", "b"]), split_candidate(["a", "c"], "other")], accelerators=("a", "b", "c")
    )
    world.lane("b").hold = True
    future = world.infer()
    world.lane("b").die()
    assert value(future.result(0)) == 3.0
    assert world.lane("a").runs == 2


def test_without_another_placement_requests_wait_for_the_lane_and_go_on_where_they_were():
    world = SplitWorld([split_candidate(["a", "b"])])
    world.lane("b").hold = True
    futures = [world.infer() for _ in range(3)]
    world.lane("b").die()
    world.tick(0.3)
    assert world.dispatcher.waiting() == 3
    world.tick(1.0)
    assert [value(f.result(0)) for f in futures] == [3.0] * 3
    assert world.lane("a").runs == 3


@pytest.mark.parametrize("loss", ["a", "b", "c"])
def test_no_request_is_lost_or_answered_twice_whichever_lane_dies(loss):
    world = SplitWorld([split_candidate(["a", "b", "c"]), whole_candidate("c"), whole_candidate("a")],
                       accelerators=("a", "b", "c"))  # fmt: skip
    for name in "abc":
        world.lane(name).hold = name == loss
    futures = [world.infer() for _ in range(8)]
    settled: list[int] = []
    for i, future in enumerate(futures):
        future.add_done_callback(lambda _, i=i: settled.append(i))
    world.lane(loss).die()
    world.tick(2.0)
    assert {value(f.result(0)) for f in futures} <= {2.0, 4.0}
    assert sorted(settled) == list(range(8))
    assert world.dispatcher.in_flight() == 0


def test_a_cancelled_request_drops_its_call_and_begins_no_further_stage():
    world = SplitWorld([split_candidate(["a", "b"])])
    world.lane("a").hold = True
    first, second = world.infer(), world.infer()
    assert first.cancel()
    world.lane("a").release()
    assert value(second.result(0)) == 3.0
    assert world.lane("b").runs == 1


def test_a_whole_call_that_is_cancelled_is_dropped_from_its_lane():
    world = SplitWorld([whole_candidate("a")])
    world.lane("a").hold = True
    future = world.infer()
    _, _, call = world.lane("a").held[0]
    future.cancel()
    assert call.cancelled()


def test_the_deadline_holds_for_all_stages_together():
    world = SplitWorld([split_candidate(["a", "b"])])
    world.lane("b").hold = True
    future = world.infer(deadline_s=1.0)
    world.tick(1.5)
    world.lane("b").die()
    assert isinstance(future.exception(0), DeadlineExceeded)


def test_an_error_of_a_stage_speaks_against_its_own_lane():
    world = SplitWorld([split_candidate(["a", "b"]), whole_candidate("a")])
    world.lane("b").fail_with = InferenceFailed("bad kernel")
    assert world.infer().result(0).placement == "a"
    world.tick()
    assert ("inference_failed", {"accelerator": "b", "cause": "bad kernel"}) in world.telemetry.events


def test_a_full_lane_of_any_stage_sends_requests_elsewhere():
    policy = ALL.model_copy(update={"admission": ALL.admission.model_copy(update={"max_queue_per_lane": 2})})
    world = SplitWorld([split_candidate(["a", "b"]), whole_candidate("c")], ("a", "b", "c"), policy=policy)
    world.lane("b").hold = True
    futures = [world.infer() for _ in range(3)]
    assert futures[2].result(0).placement == "c"


def test_a_stage_that_is_refused_refuses_the_split_with_its_reason():
    def refuse(lane, _):
        lane.refuse["m/2of2-k"] = "operator Foo is unknown"

    world = SplitWorld([split_candidate(["a", "b"]), whole_candidate("a")], prepare=refuse)
    status = world.snapshot.models[0]
    assert status.placement == "a"
    assert status.candidates[0].state == "refused"
    assert status.candidates[0].reason == "b: operator Foo is unknown"


def test_a_split_is_loading_until_its_last_stage_is_there():
    world = SplitWorld([split_candidate(["a", "b"])], prepare=lambda lane, _: setattr(lane, "hold_loads", True))
    world.lane("a").release_loads()
    world.tick()
    assert world.snapshot.models[0].state == "loading"
    future = world.infer(x=np.ones((1, 2), np.float32))
    assert not future.done()
    world.lane("b").release_loads()
    world.tick()
    assert world.snapshot.models[0].state == "ready"
    assert value(future.result(0)) == 3.0


def test_status_shows_stages_with_predicted_and_measured_times():
    world = SplitWorld([split_candidate(["a", "b"])])
    for _ in range(3):
        world.infer().result(0)
    world.tick()
    model = world.snapshot.models[0]
    assert model.placement == "a+b"
    first, second = model.candidates[0].stages
    assert (first.accelerator, second.accelerator) == ("a", "b")
    assert (first.predicted_ms, first.measured_p50_ms, first.requests) == (10.0, 10.0, 3)
    assert (first.predicted_handover_ms, first.measured_handover_ms) == (None, None)
    assert second.predicted_handover_ms == pytest.approx(0.1)
    assert second.measured_handover_ms is not None
    assert second.receives == ("t1",)
    assert world.dispatcher.split_meter.handovers()["a", "b"].requests == 3


def test_the_metadata_of_a_split_model_is_that_of_the_whole():
    world = SplitWorld([split_candidate(["a", "b"])])
    metadata = world.dispatcher.routes("m").metadata
    assert [s.name for s in metadata.inputs] == ["x"]
    assert [s.name for s in metadata.outputs] == ["y"]
    request = InferenceRequest("m", {"x": np.ones((1, 3), np.float32)}, None, "r")
    assert isinstance(world.dispatcher.infer(request).exception(0), BadInput)


def test_stages_that_nothing_keeps_are_unloaded():
    world = SplitWorld([split_candidate(["a", "b"]), whole_candidate("a")])
    state = world.supervisor._state
    state.propose(state.current.__class__(ALL, "d2", world.plan.__class__("d2", (
        world.plan.models[0].__class__("m", "1", "sha", None, (whole_candidate("a"),)),))))  # fmt: skip
    world.tick()
    assert "m/2of2-k" in world.lane("b").unloaded
    assert "m" not in world.lane("a").unloaded


def test_a_split_that_still_loads_keeps_the_old_plan_in_force_and_the_supervisor_alive():
    world = SplitWorld([whole_candidate("a")])
    for name in ("a", "b"):
        world.lane(name).hold_loads = True
    state = world.supervisor._state
    model = replace(world.plan.models[0], candidates=(split_candidate(["a", "b"]), whole_candidate("a")))
    state.propose(replace(state.current, digest="d2", plan=replace(world.plan, policy_digest="d2", models=(model,))))
    world.tick()
    assert world.snapshot.agent.policy_digest == "d1"
    for name in ("a", "b"):
        world.lane(name).release_loads()
    world.tick()
    assert world.snapshot.agent.policy_digest == "d2"


def test_a_split_that_the_settings_name_and_the_plan_lacks_is_a_condition():
    world = World()
    plan = plan_of({"m": ["gpu0", "cpu"]}, "d2")
    refused = replace(plan.models[0], splits_refused=(("cpu+npu9", "no such accelerator"),))
    world.supervisor.post(PlanEvent(InForce(POLICY, "d2", replace(plan, models=(refused,))), "settings"))
    world.tick(3.0)
    found = world.condition("split_refused:m:cpu+npu9")
    assert (found.cause, found.mend) == (
        "no such accelerator", "correct splits in the model's settings, or take it out",
    )  # fmt: skip
    world.supervisor.post(PlanEvent(InForce(POLICY, "d3", plan), "settings"))
    world.tick(3.0)
    assert world.condition("split_refused:m:cpu+npu9") is None


@pytest.mark.parametrize("stage", ["a", "b"])
def test_an_input_that_a_processors_stage_refuses_is_run_nowhere_else_and_blames_no_lane(stage):
    world = SplitWorld([split_candidate(["a", "b"]), whole_candidate("a")])
    world.lane(stage).fail_with = InputRefused("m: an index is out of bounds")
    error = world.infer().exception(0)
    assert isinstance(error, Unprocessable)
    assert "out of bounds" in error.message
    assert (world.dispatcher.counters["replayed"], world.lane("a").runs + world.lane("b").runs) == (
        0,
        1 + (stage == "b"),
    )


def test_an_input_refused_after_a_devices_stage_is_tried_elsewhere_for_the_device_may_have_spoilt_it():
    split = split_candidate(["a", "b"])
    first = split.stages[0]
    runtime = first.load.runtime.model_copy(update={"provider": "CUDAExecutionProvider"})
    stages = (replace(first, load=replace(first.load, runtime=runtime)), *split.stages[1:])
    world = SplitWorld([replace(split, stages=stages), whole_candidate("c")], accelerators=("a", "b", "c"))
    world.lane("b").fail_with = InputRefused("m: an index is out of bounds")
    assert world.infer().result(0).placement == "c"


def test_a_device_that_made_the_first_stage_counts_where_a_processors_placement_goes_on_from_there():
    split = split_candidate(["a", "b"])
    first = split.stages[0]
    runtime = first.load.runtime.model_copy(update={"provider": "CUDAExecutionProvider"})
    stages = (replace(first, load=replace(first.load, runtime=runtime)), *split.stages[1:])
    others = [split_candidate(["c", "d"]), whole_candidate("e")]
    world = SplitWorld([replace(split, stages=stages), *others], accelerators=tuple("abcde"))
    world.lane("b").hold = True
    future = world.infer()
    world.lane("d").fail_with = InputRefused("m: an index is out of bounds")
    world.lane("b").die()
    assert future.result(0).placement == "e"
    assert world.lane("c").runs == 0  # the first stage's tensors were kept
