"""A request that no lane has the memory or the life for costs them once; its like is refused, and no other one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.errors import DeadlineExceeded, LaneDied, LaneOutOfMemory, Overloaded, TooLarge
from agent.ports import InferenceRequest
from agent.service.serving.costly_requests import KEPT, MOST_S, REFUSED_S, CostlyRequests, _Costly
from tests.service.world import POLICY, World

NO_MEMORY = LaneOutOfMemory("m: std::bad_alloc")


def rows(count: int):
    return np.ones((count, 2), np.float32)


def starve(world: World) -> None:
    """No lane has memory for anything larger than 100 rows."""
    for lanes in world.lanes.values():
        lane = lanes[-1]
        run = type(lane)._run

        def picky(inputs, future, lane=lane, run=run):
            if len(inputs["x"]) > 100:
                lane.runs += 1
                future.set_exception(NO_MEMORY)
            else:
                run(lane, inputs, future)

        lane._run = picky


def runs(world: World) -> int:
    return sum(lane.runs for lanes in world.lanes.values() for lane in lanes)


def only_gpu(world: World) -> None:
    """The processor has memory, the accelerator has none for anything larger than 100 rows."""
    starve(world)
    del world.lane("cpu")._run


def relieve(world: World) -> None:
    for lanes in world.lanes.values():
        lanes[-1].__dict__.pop("_run", None)


def restart(world: World) -> None:
    for lanes in world.lanes.values():
        lanes[-1].die("restart")
    world.tick(5.0)


def fail(world: World, count: int = 1000, **options):
    answer = world.infer(x=rows(count), **options)
    world.tick(1.0)
    return answer.exception(0)


def test_a_form_that_nobody_has_memory_for_is_run_no_more_for_a_while():
    world = World()
    starve(world)
    assert isinstance(fail(world), Overloaded)
    before = runs(world)
    refusal = world.infer(x=rows(1000)).exception(0)
    assert (refusal.status, runs(world)) == (503, before)
    assert "send a smaller one (m: std::bad_alloc)" in refusal.message
    assert REFUSED_S - 2.0 <= refusal.retry_after_s <= REFUSED_S
    assert world.infer(x=rows(10)).exception(0) is None
    world.tick(REFUSED_S)
    assert isinstance(fail(world), Overloaded)
    assert runs(world) > before + 1
    assert world.infer(x=rows(1000)).exception(0).retry_after_s > REFUSED_S


def test_one_request_without_memory_counts_once_against_each_lane():
    told = []
    world = World()
    world.dispatcher._on_suspect = lambda *what: told.append(what)
    starve(world)
    fail(world)
    assert sorted(told) == [("cpu", "m: std::bad_alloc"), ("gpu0", "m: std::bad_alloc")]


def test_a_size_that_was_answered_before_is_not_to_blame():
    world = World()
    assert world.infer(x=rows(1000)).exception(0) is None
    starve(world)
    fail(world)
    before = runs(world)
    world.infer(x=rows(1000))
    assert runs(world) > before


def test_a_request_that_only_waited_for_another_try_when_its_time_was_over_is_costly_all_the_same():
    world = World({"m": ["gpu0"]}, ("gpu0",))
    starve(world)
    answer = world.infer(x=rows(1000), deadline_s=0.05)
    world.tick(1.0)
    assert answer.exception(0) is not None
    assert "is not run again" in world.infer(x=rows(1000)).exception(0).message


def test_a_request_in_which_two_lanes_ended_is_run_no_more_and_what_waited_behind_it_is():
    recovery = POLICY.recovery.model_copy(update={"max_replays": 1})
    world = World(policy=POLICY.model_copy(update={"recovery": recovery}))
    for name in ("gpu0", "cpu"):
        world.lane(name).hold = True
    deadly, waiting = world.infer(x=rows(1000), deadline_s=9.0), world.infer(x=rows(2000), deadline_s=8.0)
    for name in ("gpu0", "cpu"):
        world.lane(name).busy_since_s = world.clock.now_s
        world.lane(name).busy_until_s = world.clock.now_s + 9.0
        world.lane(name).die("SIGKILL")
    assert [type(f.exception(0)) for f in (deadly, waiting)] == [Overloaded] * 2
    world.tick(5.0)
    assert "SIGKILL" in world.infer(x=rows(1000)).exception(0).message
    assert world.infer(x=rows(2000)).exception(0) is None


def test_an_answer_larger_than_may_cross_is_refused_with_413_the_next_time_without_a_run():
    world = World()
    world.lane("gpu0").fail_with = TooLarge("m: 4294967296 bytes of outputs exceed the 1073741824 that may cross")
    first = world.infer(x=rows(1000)).exception(0)
    assert (first.status, world.lane("cpu").runs) == (413, 0)
    again = world.infer(x=rows(1000)).exception(0)
    assert (again.status, runs(world)) == (413, 1)
    assert "is not run again" in again.message


def told(world: World):
    """What refuses, and a request of the planned size under way that no lane has memory for."""
    world.lane("gpu0").hold = True
    world.infer()
    (job,) = world.dispatcher._in_flight
    job.starved = {name: world.lane(name) for name in ("gpu0", "cpu")}
    dispatcher = world.dispatcher
    return CostlyRequests(dispatcher.sizes, dispatcher._table, dispatcher.counters), job


@pytest.mark.parametrize(("count", "refused"), [(2**15, True), (2**14, False)])
def test_shapes_that_are_given_as_values_tell_forms_apart(count, refused):
    world = World()
    costly, job = told(world)
    asked = InferenceRequest("m", {"shape": np.array([2**15, 2**15])}, None, "r")
    costly.failed(replace(job, request=asked), NO_MEMORY, 0.0)
    again = asked._replace(inputs={"shape": np.array([count, 2**15])})
    if refused:
        with pytest.raises(Overloaded):
            costly.check(again, 1.0)
    else:
        costly.check(again, 1.0)


def test_a_model_whose_requests_all_have_one_form_is_not_refused():
    world = World()
    for name in ("gpu0", "cpu"):
        world.lane(name).fail_with = NO_MEMORY
    fail(world, 1)
    assert world.dispatcher.costly._forms == {}


def test_what_is_remembered_is_bounded_in_number_and_time():
    world = World()
    starve(world)
    costly = world.dispatcher.costly
    for count in range(KEPT + 5):
        request = InferenceRequest("m", {"x": rows(count)}, None, "r")
        costly._forms[costly._form(request)] = _Costly(0.0, MOST_S, NO_MEMORY, "d1")
    fail(world, KEPT + 5)
    assert (len(costly._forms), world.dispatcher.counters["forms_evicted"]) == (KEPT, 6)
    for _ in range(8):
        world.tick(0.1)
        world.clock.now_s += MOST_S
        world.tick(0.1)
        fail(world)
    assert world.infer(x=rows(1000)).exception(0).retry_after_s <= MOST_S


def test_an_accelerator_that_a_request_was_pinned_to_says_nothing_of_the_others():
    world = World()
    only_gpu(world)
    assert isinstance(fail(world, placement="gpu0"), Overloaded)
    assert "is not run again" in fail(world, placement="gpu0").message
    assert fail(world, placement="cpu") is None
    assert fail(world) is None


def test_outputs_that_are_too_large_together_say_nothing_of_one_of_them():
    world = World()
    world.lane("gpu0").fail_with = TooLarge("m: 4294967296 bytes of outputs")
    assert isinstance(fail(world), TooLarge)
    world.lane("gpu0").fail_with = None
    assert "is not run again" in fail(world).message
    one = world.dispatcher.infer(InferenceRequest("m", {"x": rows(1000)}, ("y",), "r"))
    assert one.exception(0) is None


def test_a_deadline_on_a_lane_that_has_memory_is_no_want_of_memory():
    world = World()
    only_gpu(world)
    late = DeadlineExceeded("the deadline passed while it waited")
    world.lane("cpu")._run = lambda inputs, future: future.set_exception(late)
    assert fail(world) is late
    assert not world.dispatcher.costly._forms
    relieve(world)
    assert fail(world) is None


def test_a_lane_that_no_replay_was_left_for_may_have_memory():
    recovery = POLICY.recovery.model_copy(update={"max_replays": 0})
    world = World(policy=POLICY.model_copy(update={"recovery": recovery}))
    only_gpu(world)
    before = world.lane("gpu0").runs
    assert fail(world).retry_after_s < REFUSED_S
    assert not world.dispatcher.costly._forms
    assert "is not run again" not in fail(world).message
    assert world.lane("gpu0").runs == before + 2


def test_a_value_that_was_answered_before_is_not_to_blame():
    world = World()
    costly, job = told(world)
    asked = replace(job, request=InferenceRequest("m", {"k": np.array([10])}, None, "r"))
    costly.answered(asked)
    assert costly.failed(asked, NO_MEMORY, 0.0) == 0.0
    costly.check(asked.request, 1.0)
    assert costly.failed(replace(job, request=asked.request._replace(inputs={"k": np.array([11])})), NO_MEMORY, 0.0)


def test_an_answer_forgets_the_form_and_how_often_it_failed():
    world = World()
    starve(world)
    fail(world)
    world.tick(REFUSED_S)
    assert len(world.dispatcher.costly._forms) == 1
    relieve(world)
    assert fail(world) is None
    assert not world.dispatcher.costly._forms


def test_a_failure_long_after_the_last_counts_as_the_first():
    world = World()
    costly, job = told(world)
    asked = replace(job, request=InferenceRequest("m", {"k": np.array([10])}, None, "r"))
    given = [costly.failed(asked, NO_MEMORY, now_s) for now_s in (0.0, 100.0, 300.0, 300.0 + 2 * MOST_S)]
    assert given == [REFUSED_S, 2 * REFUSED_S, 4 * REFUSED_S, REFUSED_S]


def test_lanes_that_begin_anew_are_asked_again_once():
    world = World()
    starve(world)
    fail(world)
    restart(world)
    starve(world)
    before = runs(world)
    assert fail(world).retry_after_s == 2 * REFUSED_S
    assert runs(world) > before
    restart(world)
    assert "is not run again" in fail(world).message


def test_a_placement_that_comes_back_is_asked_whatever_failed_without_it():
    world = World()
    only_gpu(world)
    world.lane("cpu").die("restart")
    assert isinstance(fail(world), Overloaded)
    world.tick(5.0)
    assert fail(world) is None


def test_two_deaths_are_not_forgiven_by_the_lanes_that_follow():
    world = World()
    costly, job = told(world)
    asked = replace(job, request=InferenceRequest("m", {"k": np.array([10])}, None, "r"), starved={}, ended_lanes=2)
    costly.failed(asked, LaneDied("SIGKILL"), world.clock.now_s)
    restart(world)
    costly.routed(world.dispatcher._table, world.clock.now_s)
    with pytest.raises(Overloaded):
        costly.check(asked.request, world.clock.now_s)


@pytest.mark.parametrize("change", ["policy", "version", "removed", "loaded anew", "another file"])
def test_what_was_refused_of_a_model_is_forgotten_when_it_or_the_policy_changes(change):
    world = World()
    world.lane("gpu0").fail_with = TooLarge("m: 4294967296 bytes of outputs")
    fail(world)
    costly, table = world.dispatcher.costly, world.dispatcher._table
    world.tick(1.0)
    assert len(costly._forms) == 1
    model = table.models["m"]
    first, *rest = model.routes
    anew = {"loaded anew": {"report": replace(first.report)}, "another file": {"name": "m@123"}}.get(change, {})
    model = replace(model, routes=(replace(first, **anew), *rest))
    if change == "version":
        model = replace(model, metadata=replace(model.metadata, versions=("2",)))
    digest = "d2" if change == "policy" else "d1"
    models = {} if change == "removed" else {"m": model}
    world.dispatcher.replace(replace(table, policy_digest=digest, models=models))
    assert not costly._forms


def test_another_version_is_another_form():
    world = World()
    costly, job = told(world)
    asked = replace(job, request=InferenceRequest("m", {"k": np.array([10])}, None, "r"))
    costly.failed(asked, NO_MEMORY, 0.0)
    model = costly._table.models["m"]
    second = replace(model, metadata=replace(model.metadata, versions=("2",)))
    costly._table = replace(costly._table, models={"m": second})
    costly.check(asked.request, 1.0)


def test_the_failing_request_is_told_how_long_its_form_is_refused_and_refusals_count():
    world = World()
    starve(world)
    assert fail(world).retry_after_s == REFUSED_S
    before = world.dispatcher.counters["refused"]
    assert isinstance(fail(world), Overloaded)
    assert world.dispatcher.counters["refused"] == before + 1
