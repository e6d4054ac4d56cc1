"""A lane whose call takes far longer than usual, and may: new requests go elsewhere while anybody takes them."""

from __future__ import annotations

from agent.control.routing import LAST_RESORT
from tests.service.test_call_sizes import begin, finish, rows
from tests.service.world import World


def given_up(world: World) -> None:
    """A large request, whose client does not wait for the end of its call."""
    future = begin(world, 8000, deadline_s=30.0)
    future.cancel()
    world.lane("gpu0").held.clear()
    world.lane("gpu0").hold = False


def test_nobody_queues_behind_a_long_call_while_another_lane_is_free() -> None:
    world = World()
    given_up(world)
    assert world.infer(x=rows(1)).result(0).placement == "gpu0"
    world.tick(4.0)
    assert world.accelerator("gpu0").state == "ready"
    assert {world.infer(x=rows(1)).result(0).placement for _ in range(50)} == {"cpu"}


def test_a_lane_is_taken_as_before_once_its_long_call_is_over() -> None:
    world = World()
    given_up(world)
    world.tick(4.0)
    finish(world)
    world.tick()
    assert world.infer(x=rows(1)).result(0).placement == "gpu0"


def test_the_only_lane_is_taken_however_long_its_call_lasts() -> None:
    world = World(models={"m": ["gpu0"]})
    given_up(world)
    world.tick(4.0)
    assert world.infer(x=rows(1)).result(0).placement == "gpu0"
    assert 0 < LAST_RESORT < 1e-6


def test_a_call_of_the_usual_length_costs_its_lane_no_request() -> None:
    world = World()
    begin(world, 8000, deadline_s=30.0)
    world.tick(0.5)
    world.infer(x=rows(1))
    assert [len(world.lane(name).held) for name in ("gpu0", "cpu")] == [2, 0]
