"""A request that names its placement hears at once why that one does not run it, and waits only for what comes back."""

from __future__ import annotations

from tests.service.world import World


def test_a_placement_refused_for_its_fallback_is_told_with_that_reason():
    world = World(
        prepare=lambda lane, generation: (
            lane.actual.update(m=("OtherProvider",)) if lane.spec.accelerator == "gpu0" else None
        )
    )
    reason = next(c.reason for m in world.snapshot.models for c in m.candidates if c.accelerator == "gpu0")
    error = world.infer(placement="gpu0").exception()
    assert (error.status, error.message) == (400, f"model 'm' is not loaded on 'gpu0': {reason}")
    assert "OtherProvider" in reason


def test_a_placement_that_the_policy_does_not_keep_loaded_names_the_setting():
    world = World(models={"m": ["gpu0", "cpu", "npu"]}, accelerators=("gpu0", "cpu", "npu"))
    message = world.infer(placement="npu").exception().message
    assert "standby: all keeps every one" in message


def test_a_placement_that_the_board_does_not_have_is_told_as_that_with_what_was_meant():
    world = World()
    asked = ("npu", "gpu0+cpuu", "nowhere", "cpu+gpu0")
    said = {name: world.infer(placement=name).exception().message for name in asked}
    assert said["npu"] == "there is no accelerator 'npu' here (did you mean 'cpu'?); model 'm' is on gpu0, cpu"
    assert "no accelerator 'cpuu' here (did you mean 'cpu'?)" in said["gpu0+cpuu"]
    assert "no accelerator 'nowhere' here (cpu, gpu0)" in said["nowhere"]
    assert "is not loaded on 'cpu+gpu0'; it is on gpu0, cpu (standby: all" in said["cpu+gpu0"]


def test_a_placement_whose_lane_is_quarantined_is_refused_at_once_with_the_reason():
    world = World()
    for _ in range(3):
        world.lane("gpu0").die("SIGSEGV")
        world.tick(5.0)
    assert world.accelerator("gpu0").state == "quarantined"
    error = world.infer(placement="gpu0").exception(timeout=0)
    assert error.status == 503
    assert "gpu0: quarantined (SIGSEGV)" in error.message
    assert world.infer().result().placement == "cpu"


def test_a_placement_whose_lane_restarts_is_waited_for():
    world = World()
    world.lane("gpu0").die("SIGSEGV")
    answer = world.infer(placement="gpu0")
    assert not answer.done()
    world.tick(3.0)
    assert answer.result().placement == "gpu0"
