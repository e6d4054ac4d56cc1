"""Requests larger than planned: given their time, refused for a while where they hang, never held against the lane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.errors import DeadlineExceeded, Overloaded
from agent.service.serving.meter import ENOUGH
from tests.service.world import World


def rows(count: int):
    return np.ones((count, 2), np.float32)


def begin(world: World, count: int, lane: str = "gpu0", **options):
    world.lane(lane).hold = True
    future = world.infer(x=rows(count), **options)
    world.lane(lane).busy_since_s = world.clock.now_s
    return future


def finish(world: World, lane: str = "gpu0") -> None:
    world.lane(lane).busy_since_s = None
    world.lane(lane).release()


def test_a_call_of_a_size_that_nobody_timed_is_no_hang_within_its_requests_time():
    world = World()
    future = begin(world, 8000, deadline_s=20.0)
    world.tick(15.0)
    assert (world.accelerator("gpu0").state, future.done()) == ("ready", False)
    finish(world)
    assert future.result(0).placement == "gpu0"
    assert future.result(0).replays == 0


def test_a_call_of_the_planned_size_is_a_hang_as_soon_as_ever():
    world = World()
    future = begin(world, 1, deadline_s=20.0)
    world.tick(1.2)
    assert "deadline 1.0 s" in world.accelerator("gpu0").last_fault
    assert future.result(0).placement == "cpu"


def test_a_call_of_the_planned_size_is_a_hang_as_soon_whatever_is_sent_to_its_lane_while_it_lasts():
    world = World()
    hung = begin(world, 1, deadline_s=20.0)
    world.clock.now_s += 0.5
    larger = world.infer(x=rows(8000), deadline_s=20.0)
    world.tick(0.7)
    assert "deadline 1.0 s" in world.accelerator("gpu0").last_fault
    assert [(f.result(0).placement, f.result(0).replays) for f in (hung, larger)] == [("cpu", 1)] * 2


def hung_between_larger_ones(world: World):
    """Larger requests wait on the lane when one of the planned size begins, and hangs there."""
    lane = world.lane("gpu0")
    lane.hold = True
    before = world.infer(x=rows(8000), deadline_s=20.0)
    world.clock.now_s += 0.01
    planned = world.infer(x=rows(1), deadline_s=20.0)
    lane.busy_since_s, lane.busy_until_s = world.clock.now_s + 0.01, world.clock.now_s + 20.0
    return before, planned


def test_a_call_of_the_planned_size_is_a_hang_as_soon_whatever_waited_on_its_lane_before_it_began():
    world = World()
    before, planned = hung_between_larger_ones(world)
    world.tick(1.3)
    assert "deadline 1.0 s" in world.accelerator("gpu0").last_fault
    assert [f.result(0).placement for f in (before, planned)] == ["cpu"] * 2
    assert world.dispatcher.sizes._suspects == {}


def test_a_larger_call_keeps_its_time_while_one_of_the_planned_size_waits_behind_it():
    world = World()
    before, _ = hung_between_larger_ones(world)
    world.lane("gpu0").busy_until_s = world.clock.now_s - 0.01 + 20.0 + 1e-10
    world.tick(15.0)
    assert (world.accelerator("gpu0").state, before.done()) == ("ready", False)


def test_only_the_size_of_the_call_that_hangs_is_blamed():
    world = World()
    lane = world.lane("gpu0")
    lane.hold = True
    for count, given_s in ((4, 30.0), (8000, 40.0)):
        world.infer(x=rows(count), deadline_s=given_s)
    began_s = world.clock.now_s + 0.01
    world.dispatcher.sizes.hung("gpu0", began_s, began_s, world.clock.now_s + 40.0)
    assert [size for _, size in world.dispatcher.sizes._suspects] == [13]


def test_a_request_that_may_share_a_call_counts_whatever_deadline_the_call_has():
    """A batch has the latest deadline of those in it."""
    world = World()
    world.dispatcher.batches.takes = lambda *_: True
    world.dispatcher.batches.submit = lambda lane, name, request, deadline_s, _: lane.submit(
        name, request.inputs, request.outputs, deadline_s
    )
    before, _ = hung_between_larger_ones(world)
    world.tick(15.0)
    assert (world.accelerator("gpu0").state, before.done()) == ("ready", False)


def test_a_size_that_came_behind_the_call_that_hangs_is_not_to_blame():
    world = World()
    stuck_there = begin(world, 4, deadline_s=60.0)
    world.clock.now_s += 0.1
    world.infer(x=rows(8000), deadline_s=60.0)
    world.dispatcher.sizes.hung("gpu0", world.clock.now_s, world.lane("gpu0").busy_since_s)
    world.dispatcher.sizes.hung("gpu0", world.clock.now_s, world.lane("gpu0").busy_since_s)
    assert list(world.dispatcher.sizes._suspects) == [("m", 2)]
    assert not stuck_there.done()


def test_a_size_that_was_timed_often_enough_is_held_to_its_own_times():
    world = World()
    for _ in range(ENOUGH):
        assert world.infer(x=rows(8000)).result(0).placement == "gpu0"
    begin(world, 8000, deadline_s=20.0)
    world.tick(1.2)
    assert "deadline 1.0 s" in world.accelerator("gpu0").last_fault


def test_a_size_is_expected_to_take_as_long_as_its_slowest_call():
    world = World()
    sizes, keeper = world.dispatcher.sizes, world.keepers["gpu0"]
    begin(world, 8000, deadline_s=20.0)
    sizes._times_s["gpu0", "m", 13] = [0.1] * ENOUGH + [1.0]
    world.tick(2.5)
    assert keeper.health.phase == "ready"
    world.tick(1.0)
    assert "deadline 3.0 s" in world.accelerator("gpu0").last_fault


def test_a_size_timed_a_few_times_is_given_ten_times_the_longest_but_no_less_than_a_call_nobody_knows():
    world = World()
    sizes = world.dispatcher.sizes
    begin(world, 8000, deadline_s=20.0)
    sizes._times_s["gpu0", "m", 13] = [0.2, 0.7]
    assert sizes.allowance("gpu0", world.clock.now_s, 0.1).time_s == pytest.approx(7.0)
    sizes._times_s["gpu0", "m", 13] = [0.2]
    assert sizes.allowance("gpu0", world.clock.now_s, 0.1).time_s == 5.0
    sizes._times_s["gpu0", "m", 13] = [9.0]
    assert sizes.allowance("gpu0", world.clock.now_s, 0.1).time_s == 20.0


@pytest.mark.parametrize(("longest_s", "time_s"), [(0.05, 5.0), (0.1, 6.4), (1.0, 20.0), (None, 20.0)])
def test_a_size_that_nobody_timed_is_given_what_its_square_would_take(longest_s, time_s):
    world = World()
    begin(world, 8, deadline_s=20.0)
    assert world.dispatcher.sizes.allowance("gpu0", world.clock.now_s, longest_s).time_s == pytest.approx(time_s)


def stuck(world: World, count: int, lane: str = "gpu0", deadline_s: float = 60.0):
    """A call that never ends though its request has time left."""
    future = begin(world, count, lane, deadline_s=deadline_s)
    world.tick(17.0)
    return future


def test_a_lane_that_hangs_in_a_larger_call_is_ended_in_time_for_another_to_answer_it():
    world = World()
    future = stuck(world, 4)
    assert "larger than any timed there" in world.accelerator("gpu0").last_fault
    assert (future.result(0).placement, future.result(0).replays) == ("cpu", 1)
    assert world.infer(x=rows(4)).result(0).placement == "cpu"
    assert world.dispatcher.sizes._suspects == {}


def test_a_size_that_hangs_where_it_is_run_again_is_refused():
    world = World()
    world.lane("cpu").hold = True
    future = stuck(world, 4)
    assert not future.done()
    world.lane("cpu").busy_since_s = world.clock.now_s
    assert world.dispatcher.sizes._hung == {}
    world.tick(20.0)
    refusal = world.infer(x=rows(4)).exception(0)
    assert isinstance(refusal, Overloaded)
    assert "of this size did not end" in refusal.message


def hang(world: World, count: int, lane: str = "gpu0", deadline_s: float = 6.0):
    """A call that never ends; its request is answered at its deadline, as a lane does."""
    future = begin(world, count, lane, deadline_s=deadline_s)
    _, _, call = world.lane(lane).held.pop()
    world.tick(deadline_s - 0.1)
    assert world.accelerator(lane).state == "ready"
    call.set_exception(DeadlineExceeded("no answer within 6 s"))
    world.tick(0.5)
    return future


def test_a_size_that_hangs_costs_a_restart_is_answered_once_and_then_refused_for_a_while():
    world = World()
    assert isinstance(hang(world, 8000).exception(0), DeadlineExceeded)
    assert "larger than any timed there" in world.accelerator("gpu0").last_fault
    for count in (8000, 16000):
        refusal = world.infer(x=rows(count), deadline_s=6.0).exception(0)
        assert isinstance(refusal, Overloaded)
        assert "did not end within 6 s" in refusal.message
        assert 0 < refusal.retry_after_s <= 60
    assert world.infer(x=rows(1)).result(0).placement == "cpu"
    assert world.infer(x=rows(8000), deadline_s=7.0).result(0).placement == "cpu"
    world.tick(61.0)
    assert world.infer(x=rows(8000), deadline_s=6.0).exception(0) is None


def test_requests_that_hang_because_of_their_size_quarantine_no_lane():
    world = World()
    for turn in range(5):
        hang(world, 8000, deadline_s=6.0 + turn)
        world.tick(15.0)
        assert world.accelerator("gpu0").state == "ready"
    assert world.accelerator("gpu0").restarts == 5


def test_a_call_whose_client_has_little_time_is_given_time_all_the_same():
    world = World()
    future = begin(world, 8000, deadline_s=0.1)
    world.lane("gpu0").held.pop()[2].set_exception(DeadlineExceeded("late"))
    world.tick(4.5)
    assert future.done()
    assert world.accelerator("gpu0").state == "ready"


def test_calls_that_are_over_leave_nothing_behind():
    world = World()
    world.infer(x=rows(8000)).result(0)
    begin(world, 8000, deadline_s=6.0)
    world.lane("gpu0").held.pop()[2].set_exception(DeadlineExceeded("late"))
    world.lane("gpu0").busy_since_s = None
    world.tick(30.0)
    assert not world.dispatcher.sizes._calls


@pytest.mark.parametrize(("count", "scale"), [(1, 1), (6, 6), (60_000, 60_000)])
def test_modelled_switching_energy_grows_with_the_elements_of_the_input(count, scale):
    answer = World().infer(x=rows(count)).result(0)
    assert answer.energy_j == pytest.approx(0.05 * scale + 2.0 * 0.01)
    assert answer.provenance == "modelled"


def test_inputs_whose_dimensions_are_fixed_change_no_energy():
    world = World()
    model = world.dispatcher.routes("m")
    fixed = tuple(spec.model_copy(update={"shape": (4, 2)}) for spec in model.metadata.inputs)
    assert replace(model, metadata=replace(model.metadata, inputs=fixed)).scale({"x": rows(4)}) == 1.0


@pytest.mark.parametrize(("planned", "scale"), [(256, 2.0), (None, 256.0)])
def test_a_size_counts_in_units_of_what_the_plan_took_the_free_dimensions_for(planned, scale):
    model = replace(World().dispatcher.routes("m"), planned=planned)
    assert model.scale({"x": rows(256)}) == scale
