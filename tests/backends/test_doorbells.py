"""Doorbells: who adopts them completes the futures; given back, the lanes' own thread does."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from contextlib import suppress

import numpy as np
import pytest

from agent.backends.io import LaneIO
from agent.errors import LaneDied
from agent.service.clock import SystemClock
from tests.backends.conftest import PATIENCE_S, Models, Rig, ramp, served_elsewhere, until


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


def test_a_crash_is_seen_while_whoever_adopted_the_doorbells_does_not_serve_them(
    process_rig: Rig, models: Models
) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.add_one)
    process_rig.factory.doorbells.adopt()
    os.kill(lane.pid(), signal.SIGSTOP)
    pending = process_rig.submit(lane, {"x": ramp()})

    os.kill(lane.pid(), signal.SIGKILL)

    assert "SIGKILL" in str(pending.exception(PATIENCE_S))
    assert until(lambda: process_rig.deaths == ["npu: its process was ended by SIGKILL"])


def test_an_answer_from_before_a_crash_is_taken_though_nobody_served_the_doorbells(
    process_rig: Rig, models: Models
) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.add_one)
    process_rig.factory.doorbells.adopt()
    before_s = lane.vitals().busy_s
    pending = process_rig.submit(lane, {"x": ramp()})
    assert until(lambda: lane.vitals().busy_s > before_s)
    assert until(lambda: select.select([lane._channel.sock], [], [], 0)[0])
    assert not pending.done()

    os.kill(lane.pid(), signal.SIGKILL)

    np.testing.assert_array_equal(pending.result(PATIENCE_S).outputs["y"], ramp() + 1)
    assert until(lambda: not lane.alive())


def test_a_crash_is_seen_while_an_answer_of_that_lane_is_worked_on(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.add_one)
    answered, seen = threading.Event(), threading.Event()
    with served_elsewhere(process_rig):
        os.kill(lane.pid(), signal.SIGSTOP)
        process_rig.submit(lane, {"x": ramp()}).add_done_callback(
            lambda _: (answered.set(), seen.wait(PATIENCE_S))  # as a client's answer of many megabytes takes
        )
        os.kill(lane.pid(), signal.SIGCONT)
        assert answered.wait(PATIENCE_S)

        os.kill(lane.pid(), signal.SIGKILL)

        noticed = until(lambda: not lane.alive())
        seen.set()
    assert noticed
    assert process_rig.deaths == ["npu: its process was ended by SIGKILL"]


def test_doorbells_may_be_given_back_after_the_lanes_have_ended(process_rig: Rig) -> None:
    bells = process_rig.factory.doorbells
    assert isinstance(bells, LaneIO)
    bells.adopt()
    ended = bells._thread
    process_rig.factory.close()

    bells.release()

    assert bells._thread is ended  # nobody was started to watch them
    assert ended is not None
    assert not ended.is_alive()
    assert not bells._calls
    with pytest.raises(ValueError, match="closed"):
        bells.fileno()
    with pytest.raises(LaneDied, match="reader thread has ended"):
        bells.adopt()


class Bells:
    """Sockets that ring at one `LaneIO`."""

    def __init__(self, count: int) -> None:
        self.io = LaneIO(SystemClock())
        self.pairs = [socket.socketpair() for _ in range(count)]
        self.heard: set[int] = set()

    def watch(self, index: int) -> None:
        ours = self.pairs[index][0]
        ours.setblocking(False)
        self.io.watch_bell(ours.fileno(), lambda: self._ready(ours))

    def forget(self, index: int) -> None:
        for _ in range(2):
            self.io.forget_bell(self.pairs[index][0].fileno())

    def ring(self) -> list[int]:
        self.heard.clear()
        for index, (_, theirs) in enumerate(self.pairs):
            theirs.send(bytes([index]))
        for _ in self.pairs:
            self.io.serve()
        return sorted(self.heard)

    def _ready(self, ours: socket.socket) -> None:
        with suppress(BlockingIOError):
            self.heard |= set(ours.recv(64))


def test_every_bell_is_heard_however_many_there_are() -> None:
    bells = Bells(3)
    bells.io.serve()

    for index in range(3):
        bells.watch(index)
        assert bells.ring() == list(range(index + 1))
    for index in range(3):
        bells.forget(index)
        assert bells.ring() == list(range(index + 1, 3))

    for pair in bells.pairs:
        for end in pair:
            end.close()
    bells.io.close()
