"""Doorbells: who adopts them completes the futures; given back, the lanes' own thread does."""

from __future__ import annotations

import os
import signal
import threading

from tests.backends.conftest import PATIENCE_S, Models, Rig, ramp, served_elsewhere


def completed_by(rig: Rig, lane, model_input) -> str:
    names: list[str] = []
    done = threading.Event()

    def note(_) -> None:
        names.append(threading.current_thread().name)
        done.set()

    os.kill(lane.pid(), signal.SIGSTOP)  # so that the answer comes after the callback is in place
    rig.submit(lane, {"x": model_input}).add_done_callback(note)
    os.kill(lane.pid(), signal.SIGCONT)
    assert done.wait(PATIENCE_S)
    return names[0]


def test_answers_complete_on_the_thread_that_adopted_the_doorbells(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.add_one)
    with served_elsewhere(process_rig):
        assert completed_by(process_rig, lane, ramp()) == "adopter"
    assert completed_by(process_rig, lane, ramp()) == "lanes"


def test_a_death_is_noticed_while_the_doorbells_are_adopted(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.add_one)
    with served_elsewhere(process_rig):
        os.kill(lane.pid(), signal.SIGSTOP)
        future = process_rig.submit(lane, {"x": ramp()})
        lane.kill("enough")
        assert "enough" in str(future.exception(PATIENCE_S))
        assert not lane.alive()
        other = process_rig.lane(accelerator="gpu")
        process_rig.load(other, models.add_one)
        assert completed_by(process_rig, other, ramp()) == "adopter"


def test_doorbells_may_be_given_back_after_the_lanes_have_ended(process_rig: Rig) -> None:
    bells = process_rig.factory.doorbells
    bells.adopt()
    process_rig.factory.close()
    bells.release()
