"""A request that no lane has the memory or the life for costs them once; its like is refused, and no other one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.errors import LaneOutOfMemory, Overloaded, TooLarge
from agent.ports import InferenceRequest
from agent.service.serving.costly_requests import KEPT, MOST_S, REFUSED_S, CostlyRequests, _Costly, _form
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


def fail(world: World, count: int = 1000):
    answer = world.infer(x=rows(count))
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


@pytest.mark.parametrize(("count", "refused"), [(2**15, True), (2**14, False)])
def test_shapes_that_are_given_as_values_tell_forms_apart(count, refused):
    world = World()
    costly = CostlyRequests(world.dispatcher.sizes)
    world.lane("gpu0").hold = True
    world.infer()
    (job,) = world.dispatcher._in_flight
    asked = InferenceRequest("m", {"shape": np.array([2**15, 2**15])}, None, "r")
    costly.failed(replace(job, request=asked), NO_MEMORY, 0.0)
    again = replace(asked, inputs={"shape": np.array([count, 2**15])})
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
        costly._forms[_form(request)] = _Costly(0.0, MOST_S, NO_MEMORY)
    fail(world)
    assert len(costly._forms) == KEPT
    for _ in range(8):
        world.tick(0.1)
        world.clock.now_s += MOST_S
        world.tick(0.1)
        fail(world)
    assert world.infer(x=rows(1000)).exception(0).retry_after_s <= MOST_S
