"""What every lane promises of its own life, process and thread alike: signs, faults, heat, ends, and what they fail."""

from __future__ import annotations

import os

import numpy as np
import pytest

from agent.errors import LaneDied, ModelLoadFailed, Overloaded
from agent.ports import LaneSpec, LoadSpec, Simulation
from agent.service.serving.call_sizes import SAME_S
from tests.backends.conftest import (
    NSFW,
    ORT,
    PATIENCE_S,
    QUICK,
    Models,
    Rig,
    ramp,
    until,
)


def test_a_simulated_accelerator_takes_its_time_and_says_that_its_joules_are_modelled(rig: Rig, models: Models) -> None:
    lane = rig.lane(simulated=True)
    rig.load(lane, models.add_one, simulation=Simulation(0.05, 0.75, 2.0, 10.0, 0.01, 25.0))

    reply = rig.run(lane, {"x": ramp()})

    np.testing.assert_array_equal(reply.outputs["y"], ramp() + 1)
    assert reply.execute_s >= 0.05
    assert (reply.energy_j, reply.energy_provenance) == (0.75, "modelled")
    assert until(lambda: (lane.vitals().temperature_c or 0.0) > 40.0)  # 25 °C + 2 W · 10 K/W at rest


def test_a_real_accelerator_claims_no_joules_and_no_heat(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.add_one)

    reply = rig.run(lane, {"x": ramp()})

    assert (reply.energy_j, reply.energy_provenance) == (None, "unknown")
    assert lane.vitals().temperature_c is None
    assert lane.vitals().power_w is None


def test_wrong_answers_can_be_injected_into_simulated_accelerators_only(rig: Rig, models: Models) -> None:
    simulated, real = rig.lane(simulated=True), rig.lane()
    rig.load(simulated, models.add_one, simulation=QUICK)

    simulated.inject("wrong")
    spoilt, healed = rig.run(simulated, {"x": ramp()}), rig.run(simulated, {"x": ramp()})

    assert not np.array_equal(spoilt.outputs["y"], ramp() + 1)
    np.testing.assert_array_equal(healed.outputs["y"], ramp() + 1)
    with pytest.raises(Exception, match="npu is a real accelerator"):
        real.inject("wrong")
    with pytest.raises(Exception, match="there is no fault 'flood'"):
        simulated.inject("flood")


def test_signs_of_life_come_by_themselves(rig: Rig) -> None:
    lane = rig.lane()
    assert until(lambda: lane.vitals() is not None)
    first = lane.vitals()

    assert until(lambda: lane.vitals().heartbeat_s > first.heartbeat_s)
    assert first.rss_bytes > 1_000_000
    assert abs(first.heartbeat_s - rig.clock.monotonic_s()) < PATIENCE_S


def test_a_call_in_progress_shows_since_when_and_whose_it_is(rig: Rig, models: Models) -> None:
    lane = rig.lane(simulated=True)
    rig.load(lane, models.add_one)
    before_s = rig.clock.monotonic_s()
    lane.inject("hang")

    deadline_s = rig.clock.monotonic_s() + PATIENCE_S
    lane.submit("m", {"x": ramp()}, None, deadline_s)

    assert until(lambda: lane.vitals().busy_since_s is not None)
    assert lane.vitals().busy_since_s >= before_s
    assert lane.vitals().busy_until_s == pytest.approx(deadline_s, abs=SAME_S)


def test_kill_fails_what_is_pending_with_its_cause_and_tells_once(rig: Rig, models: Models) -> None:
    lane = rig.lane(simulated=True)
    rig.load(lane, models.add_one)
    lane.inject("hang")
    pending = [rig.submit(lane, {"x": ramp()}) for _ in range(5)]

    lane.kill("hung: deadline 2 s")
    lane.kill("again")

    for future in pending:
        with pytest.raises(LaneDied, match="hung: deadline 2 s"):
            future.result(PATIENCE_S)
    assert until(lambda: rig.deaths == ["hung: deadline 2 s"])
    assert not lane.alive()
    assert until(lambda: lane.queue_length() == 0)
    with pytest.raises(LaneDied, match="hung: deadline 2 s"):
        rig.submit(lane, {"x": ramp()})


def test_stop_answers_what_was_accepted_and_is_no_death(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.add_one)
    accepted = [rig.submit(lane, {"x": ramp()}) for _ in range(30)]

    lane.stop(PATIENCE_S)

    for future in accepted:
        np.testing.assert_array_equal(future.result(PATIENCE_S).outputs["y"], ramp() + 1)
    assert rig.deaths == []
    assert not lane.alive()
    with pytest.raises(LaneDied):
        rig.submit(lane, {"x": ramp()})
    lane.stop(PATIENCE_S)


def test_a_lane_that_does_not_stop_is_given_up(rig: Rig, models: Models) -> None:
    lane = rig.lane(simulated=True)
    rig.load(lane, models.add_one)
    lane.inject("hang")
    pending = rig.submit(lane, {"x": ramp()})

    lane.stop(0.2)

    with pytest.raises(LaneDied, match=r"npu did not stop within 0\.2 s"):
        pending.result(PATIENCE_S)


def test_a_load_that_takes_too_long_fails_and_its_model_is_not_served(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    spec_future = lane.load(LoadSpec("late", NSFW, "onnx", ORT, 1), 0.0)

    with pytest.raises(ModelLoadFailed, match="did not load on npu in time"):
        spec_future.result(PATIENCE_S)
    rig.load(lane, models.add_one, "after")
    with pytest.raises(Overloaded):
        rig.run(lane, {}, "late")


def test_a_lane_that_was_not_started_accepts_nothing(rig: Rig) -> None:
    lane = rig.factory(LaneSpec("npu", 1))

    assert not lane.alive()
    assert lane.pid() is None
    with pytest.raises(LaneDied, match="it was not started"):
        lane.submit("m", {}, None, 0.0)
    lane.kill("nothing to end")
    lane.stop(0.1)


def test_the_process_is_a_child_and_the_thread_is_none(rig: Rig) -> None:
    pid = rig.lane().pid()

    assert (pid is None) == (rig.isolation == "thread")
    assert pid != os.getpid()
