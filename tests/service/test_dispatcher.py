"""Requests: guarded, admitted, run once, replayed when a lane is lost, never lost themselves."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from agent.errors import (
    BadInput,
    DeadlineExceeded,
    InferenceFailed,
    InputRefused,
    LaneDied,
    NotFound,
    NotLoaded,
    Overloaded,
    Unprocessable,
)
from tests.service.world import POLICY, World


def policy(**changes):
    sections = {k: getattr(POLICY, k).model_copy(update=v) if isinstance(v, dict) else v for k, v in changes.items()}
    return POLICY.model_copy(update=sections)


def test_an_answer_names_placement_provider_energy_and_policy():
    answer = World().infer().result(0)
    np.testing.assert_array_equal(answer.outputs["y"], np.full((1, 2), 2, np.float32))
    assert (answer.placement, answer.provider, answer.accelerated_fraction) == ("gpu0", "CPUExecutionProvider", 1.0)
    assert answer.energy_j == pytest.approx(0.05 + 2.0 * 0.01)
    assert (answer.provenance, answer.policy_digest, answer.replays) == ("modelled", "d1", 0)


def test_an_unknown_model_is_not_found_and_the_nearest_name_is_suggested():
    world = World({"magika": ["cpu"]})
    assert isinstance(world.infer("magica").exception(0), NotFound)
    assert "did you mean 'magika'" in str(world.infer("magica").exception(0))
    assert "known: magika" in str(world.infer("zzz").exception(0))


def test_a_wrong_shape_is_refused_before_any_lane_sees_it():
    world = World()
    error = world.infer(x=np.ones((1, 3), np.float32)).exception(0)
    assert isinstance(error, BadInput)
    assert "expected FP32 [-1, 2]" in error.message
    assert world.lane("gpu0").runs == 0


def test_an_unknown_output_is_refused():
    from agent.ports import InferenceRequest

    world = World()
    request = InferenceRequest("m", {"x": np.ones((1, 2), np.float32)}, ("z",), "r")
    assert "no output 'z'; it gives y" in str(world.dispatcher.infer(request).exception(0))


def test_requests_in_flight_on_a_lane_that_dies_are_answered_by_the_next():
    world = World()
    world.lane("gpu0").hold = True
    futures = [world.infer() for _ in range(10)]
    assert not any(f.done() for f in futures)

    world.lane("gpu0").die("SIGKILL")

    answers = [f.result(0) for f in futures]
    assert {a.placement for a in answers} == {"cpu"}
    assert {a.replays for a in answers} == {1}
    assert world.dispatcher.in_flight() == 0


def test_a_request_routed_just_before_a_swap_is_routed_again():
    world = World({"m": ["cpu"]}, accelerators=("cpu",))
    lane, dispatcher = world.lane("cpu"), world.dispatcher
    submit, unloaded = lane.submit, []

    def unloaded_meanwhile(*asked):
        if unloaded:
            return submit(*asked)
        unloaded.append(asked)
        dispatcher.replace(replace(dispatcher._table))
        raise NotLoaded("m is not loaded on cpu")

    lane.submit = unloaded_meanwhile

    assert world.infer().result(0).replays == 0


def test_a_lane_that_holds_no_such_model_is_not_asked_again_and_again():
    world = World({"m": ["cpu"]}, accelerators=("cpu",))
    asked = []

    def holds_nothing(*call):
        asked.append(call)
        raise NotLoaded("m is not loaded on cpu")

    world.lane("cpu").submit = holds_nothing

    assert isinstance(world.infer().exception(0), Overloaded)
    assert len(asked) == 1


def test_without_another_placement_requests_wait_for_the_lane_to_return():
    world = World({"m": ["cpu"]}, accelerators=("cpu",))
    world.lane("cpu").hold = True
    futures = [world.infer() for _ in range(5)]

    world.lane("cpu").die()
    world.tick(0.3)
    assert world.dispatcher.waiting() == 5

    world.tick(1.0)
    assert [f.result(0).replays for f in futures] == [1] * 5


def test_a_waiting_request_ends_at_its_deadline():
    world = World({"m": ["cpu"]}, accelerators=("cpu",), prepare=lambda lane, n: setattr(lane, "hold_loads", n > 0))
    world.lane("cpu").hold = True
    future = world.infer(deadline_s=2.0)
    world.lane("cpu").die()
    world.tick(1.8)
    assert not future.done()
    world.tick(0.4)
    assert isinstance(future.exception(0), DeadlineExceeded)


def test_replays_are_bounded_and_the_last_resort_is_a_503():
    world = World({"m": ["a", "b", "c", "d"]}, accelerators=("a", "b", "c", "d"), policy=policy(standby="all"))
    asked = []

    def lost(name):
        def submit(*_):
            asked.append(name)
            raise LaneDied(f"{name} is gone")

        return submit

    for name in "abcd":
        world.lane(name).submit = lost(name)
    error = world.infer().exception(0)
    assert isinstance(error, Overloaded)
    assert asked == ["a", "b", "c"]


def test_a_lane_without_a_permit_is_passed_over_and_costs_no_replay():
    world = World({"m": ["a", "b", "c", "d"]}, accelerators=("a", "b", "c", "d"), policy=policy(standby="all"))
    for name in "abc":
        world.lane(name).permit_until_s = 0.0
    answer = world.infer().result(0)
    assert (answer.placement, answer.replays) == ("d", 0)


def test_where_no_lane_holds_a_permit_a_request_waits_for_the_next_one():
    world = World()
    for name in ("gpu0", "cpu"):
        world.lane(name).permit_until_s = 0.0
    future = world.infer()
    assert not future.done()
    world.tick()
    assert future.result(0).replays == 0


def test_an_error_of_the_runtime_is_tried_elsewhere_and_told_to_the_supervisor():
    world = World()
    world.lane("gpu0").fail_with = InferenceFailed("bad kernel")
    assert world.infer().result(0).placement == "cpu"
    world.tick()
    assert ("inference_failed", {"accelerator": "gpu0", "cause": "bad kernel"}) in world.telemetry.events


def test_an_input_that_a_sound_runtime_refuses_is_not_run_elsewhere_and_speaks_against_no_lane():
    world = World()
    world.lane("gpu0").fail_with = InputRefused("it cannot run with 'x' [2, 4]")
    refusal = world.infer().exception(0)
    assert isinstance(refusal, Unprocessable)
    assert "cannot run with" in refusal.message
    world.tick()
    assert world.dispatcher.counters["replayed"] == 0
    assert not [kind for kind, _ in world.telemetry.events if kind == "inference_failed"]


def test_an_error_on_every_placement_reaches_the_client():
    world = World()
    for name in ("gpu0", "cpu"):
        world.lane(name).fail_with = InferenceFailed("index out of range")
    assert "index out of range" in str(world.infer().exception(0))


def test_a_full_queue_spills_over_and_then_refuses():
    world = World(policy=policy(admission={"max_queue_per_lane": 2}))
    for name in ("gpu0", "cpu"):
        world.lane(name).hold = True
    futures = [world.infer() for _ in range(5)]
    assert [len(world.lane(n).held) for n in ("gpu0", "cpu")] == [2, 2]
    assert isinstance(futures[4].exception(0), Overloaded)


def test_a_request_that_a_queue_would_make_late_goes_where_it_would_not_wait():
    world = World()  # 0.01 s are predicted for each placement
    for name in ("gpu0", "cpu"):
        world.lane(name).hold = True
    for deadline_s in (5.0, 5.0, 5.0, 0.02, 0.05, 0.005):
        world.infer(deadline_s=deadline_s)
    assert [len(world.lane(n).held) for n in ("gpu0", "cpu")] == [5, 1]


def test_more_requests_than_the_policy_admits_are_refused_with_a_time_to_return():
    world = World(policy=policy(admission={"max_concurrent_requests": 3}))
    world.lane("gpu0").hold = True
    futures = [world.infer() for _ in range(4)]
    error = futures[3].exception(0)
    assert isinstance(error, Overloaded)
    assert error.retry_after_s > 0
    assert world.dispatcher.counters["refused"] == 1


def test_while_every_lane_restarts_a_refused_request_is_told_when_one_is_expected_back():
    """As measured the last time: it took 2.4 s to come up; the pause after its second death is 1 s."""
    world = World({"m": ["gpu0"]}, ("gpu0",), policy=policy(admission={"max_concurrent_requests": 3}))
    world.prepare = lambda lane, generation: setattr(lane, "hold_loads", True)
    world.lane("gpu0").die()
    world.tick(3.0)
    world.lane("gpu0").release_loads()
    world.tick(0.2)
    assert world.keepers["gpu0"].bring_up_s == pytest.approx(2.4, abs=0.3)
    world.lane("gpu0").die()
    world.tick(0.1)
    waiting = [world.infer() for _ in range(4)]
    assert not any(f.done() for f in waiting[:3])
    assert waiting[3].exception(0).retry_after_s == pytest.approx(0.9 + 2.4, abs=0.4)
    world.tick(1.9)
    assert world.dispatcher.routes("m").back_s == pytest.approx(2.4 - 1.0, abs=0.3)


def test_a_request_for_a_quarantined_model_is_told_when_the_breaker_lets_it_try_again():
    world = World({"m": ["gpu0"]}, ("gpu0",))
    for _ in range(3):
        world.lane("gpu0").die()
        world.tick(5.0)
    assert world.accelerator("gpu0").state == "quarantined"
    refusal = world.infer().exception(0)
    assert isinstance(refusal, Overloaded)
    left_s = world.keepers["gpu0"].health.next_start_s - world.clock.now_s
    assert left_s <= refusal.retry_after_s <= left_s + 5.0


def test_a_lost_request_is_told_to_come_back_when_a_placement_is():
    world = World({"m": ["gpu0"]}, ("gpu0",), policy=policy(recovery={"max_replays": 0}))
    lane = world.lane("gpu0")
    lane.hold = True
    lost = world.infer()
    world.keepers["gpu0"].bring_up_s = 20.0
    world.keepers["gpu0"].health = replace(world.keepers["gpu0"].health, phase="starting", since_s=world.clock.now_s)
    world.supervisor._publish(world.clock.now_s)
    lane.die()
    assert lost.exception(0).retry_after_s == pytest.approx(20.0)


def test_a_request_may_ask_for_a_placement_and_gets_that_or_an_error():
    world = World()
    assert world.infer(placement="cpu").result(0).placement == "cpu"
    assert "model 'm' is on gpu0, cpu" in str(world.infer(placement="npu").exception(0))


def test_a_cancelled_request_frees_its_place_and_its_answer_is_dropped():
    world = World()
    world.lane("gpu0").hold = True
    future = world.infer()
    assert future.cancel()
    assert world.dispatcher.in_flight() == 0
    world.lane("gpu0").release()
    assert future.cancelled()


def test_fail_all_answers_what_is_left():
    world = World()
    world.lane("gpu0").hold = True
    future = world.infer()
    world.dispatcher.fail_all(Overloaded("stopping"))
    assert isinstance(future.exception(0), Overloaded)


def test_meters_count_answers_failures_and_replays():
    world = World()
    world.infer()
    world.lane("gpu0").hold = True
    world.infer()
    world.lane("gpu0").die()
    world.tick()
    status = world.snapshot.models[0]
    assert (status.requests, status.failed, status.replayed) == (2, 0, 1)
    assert status.provenance == "modelled"


def test_nothing_of_an_answered_request_waits_for_the_garbage_collector():
    world = World()
    world.lane("gpu0").hold = True
    given_up, answered = world.infer(), world.infer()
    seen = [weakref.ref(future) for future in (given_up, answered)]
    jobs = [weakref.ref(future.key) for future in (given_up, answered)]
    given_up.cancel()
    world.lane("gpu0").die("SIGKILL")
    assert answered.result(0).placement == "cpu"
    gc.disable()
    try:
        del given_up, answered
        assert [ref() for ref in (*seen, *jobs)][1::2] == [None, None]
    finally:
        gc.enable()
