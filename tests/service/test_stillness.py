"""An idle tick builds nothing anew; whatever happens shows at the next one."""

from __future__ import annotations

import pytest

from agent.ports import Reading
from agent.service.mail import ConditionEvent, PlanEvent, SamplesEvent
from agent.service.serving.serving_state import InForce
from agent.service.stillness import RENEW_S, Stillness
from tests.service.world import POLICY, World, plan_of


@pytest.fixture
def still():
    """A world in which nothing has happened since the last tick."""
    world = World()
    world.tick(RENEW_S + 1.0)
    renewed = world.snapshot
    while world.snapshot is renewed:
        world.tick()
    return world


def next_tick(world):
    """The snapshot before and after one tick."""
    before = world.snapshot
    world.clock.advance(0.1)
    world.supervisor._drain_mailbox(0.0)
    world.supervisor.tick(world.clock.now_s)
    return before, world.snapshot


def test_an_idle_tick_keeps_what_was_published_and_tells_telemetry_all_the_same(still):
    ticks, table = still.telemetry.ticks, still.dispatcher._table
    before, after = next_tick(still)
    assert after is before
    assert still.dispatcher._table is table
    assert still.telemetry.ticks == ticks + 1


def test_an_idle_tick_goes_on_renewing_permits(still):
    next_tick(still)
    assert still.lane("gpu0").permit_until_s == still.clock.now_s + POLICY.recovery.permit_s


def test_what_no_sign_shows_is_renewed_before_long(still):
    before = still.snapshot
    still.tick(RENEW_S)
    assert still.snapshot is not before


def test_an_idle_lane_that_hangs_is_ended_at_the_same_moment_as_ever(still):
    still.lane("gpu0").silent = True
    still.tick(3.5)
    assert still.accelerator("gpu0").last_fault is not None


@pytest.mark.parametrize(
    "happening",
    [
        lambda world: world.supervisor.post(ConditionEvent("x", "cause", "consequence", "mend")),
        lambda world: world.supervisor.post(SamplesEvent((Reading("soc", "temperature_c", 40.0, None, 1.0, "s"),))),
        lambda world: world.supervisor.post(PlanEvent(InForce(POLICY, "d2", plan_of({"m": ["cpu"]}, "d2")), "edited")),
        lambda world: world.infer().result(0),
        lambda world: setattr(world.lane("gpu0"), "temperature_c", 55.0),
        lambda world: setattr(world.lane("gpu0"), "busy_since_s", world.clock.now_s),
        lambda world: (setattr(world.lane("gpu0"), "hold", True), world.infer()),
        lambda world: world.lane("gpu0").die("SIGSEGV"),
        lambda world: setattr(world.supervisor._state, "others", lambda: (world.snapshot.models[0],)),
    ],
    ids=["condition", "readings", "plan", "request", "temperature", "busy", "queue", "death", "other models"],
)
def test_what_happens_shows_at_the_next_tick(still, happening):
    happening(still)
    before, after = next_tick(still)
    assert after is not before


def test_while_something_is_under_way_every_tick_publishes(still):
    still.lane("gpu0").hold = True
    still.infer()
    for _ in range(3):
        before, after = next_tick(still)
        assert after is not before
    still.lane("gpu0").die("SIGSEGV")
    for _ in range(3):
        before, after = next_tick(still)
        assert after is not before


def test_a_request_on_an_idle_lane_waits_for_a_permit_however_old_the_table_is():
    recovery = POLICY.recovery.model_copy(update={"permit_s": 0.3})
    world = World(policy=POLICY.model_copy(update={"recovery": recovery}))
    world.tick(RENEW_S + 1.0)
    renewed = world.snapshot
    while world.snapshot is renewed:
        world.tick()
    world.tick(0.5)
    for name in ("gpu0", "cpu"):
        world.lane(name).permit_until_s = 0.0
    asked = world.infer()
    assert not asked.done()
    world.tick()
    assert asked.result(0).placement == "gpu0"


def test_without_a_sensor_another_policy_is_followed_at_once(still):
    assert still.lane("gpu0").permit_until_s > still.clock.now_s
    refusing = POLICY.model_copy(update={"no_thermal_sensor": "refuse"})
    still.supervisor.post(PlanEvent(InForce(refusing, "d2", plan_of({"m": ["gpu0", "cpu"]}, "d2")), "edited"))
    still.tick(0.2)
    assert still.lane("gpu0").permit_until_s == 0.0
    assert not still.accelerator("gpu0").permit


def test_a_lane_that_ramps_up_is_published_at_every_tick():
    world = World({"m": ["cpu"]}, accelerators=("cpu",))
    world.lane("cpu").die("SIGSEGV")
    world.tick(2.0)
    assert 0.0 < world.accelerator("cpu").capacity_share < 1.0
    before, after = next_tick(world)
    assert after.accelerators[0].capacity_share > before.accelerators[0].capacity_share


def test_a_condition_said_again_in_the_same_words_hurries_nothing(still):
    said = ConditionEvent("x", "cause", "consequence", "mend")
    now_s = still.clock.now_s
    assert still.supervisor.handle(said, now_s)
    assert not still.supervisor.handle(said, now_s)
    assert still.supervisor.handle(ConditionEvent("x", "another cause", "consequence", "mend"), now_s)
    assert still.supervisor.handle(ConditionEvent("x", None), now_s)
    assert not still.supervisor.handle(ConditionEvent("x", None), now_s)


def test_signs_hold_until_they_change_or_grow_old():
    stillness = Stillness()
    assert not stillness.holds((1,), 0.0)
    assert stillness.holds((1,), 0.1)
    assert not stillness.holds((2,), 0.2)
    assert not stillness.holds(None, 0.3)
    assert not stillness.holds(None, 0.4)
    assert not stillness.holds((2,), 0.5)
    assert stillness.holds((2,), 0.5 + 0.9 * RENEW_S)
    assert not stillness.holds((2,), 0.5 + RENEW_S)
    stillness.end()
    assert not stillness.holds((2,), 0.6 + RENEW_S)
