"""Processes that begin before the agent knows its settings: the first lane takes one, or nobody does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.backends.factory import LaneFactory
from agent.backends.head_start import Spare
from agent.ports import LaneSpec
from agent.service.clock import SystemClock
from tests.backends.conftest import ended, until


@pytest.fixture
def clock():
    return SystemClock()


def test_the_first_lane_that_fits_takes_the_spare_process(clock):
    spare = Spare(2)
    lanes = LaneFactory("process", clock, spare)
    other, first, second = (lanes(LaneSpec(name, threads)) for name, threads in (("a", 1), ("b", 2), ("c", 2)))
    try:
        for lane in (other, first, second):
            lane.start(lambda _: None)
        assert first.pid() == spare.popen.pid
        assert len({lane.pid() for lane in (other, first, second)}) == 3
        assert until(lambda: first.vitals() is not None)
    finally:
        for lane in (other, first, second):
            lane.stop(5.0)
        lanes.close()
    assert until(lambda: ended(spare.popen.pid))


def test_a_spare_process_that_died_is_replaced_by_one_of_the_lanes_own(clock):
    spare = Spare(1)
    spare.popen.kill()
    spare.popen.wait()
    lanes = LaneFactory("process", clock, spare)
    lane = lanes(LaneSpec("a", 1))
    try:
        lane.start(lambda _: None)
        assert lane.pid() != spare.popen.pid
        assert until(lambda: lane.vitals() is not None)
    finally:
        lane.stop(5.0)
        lanes.close()


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_spare_process_that_no_lane_took_is_ended(clock, isolation):
    spare = Spare(3)
    lanes = LaneFactory(isolation, clock, spare)
    lanes.release_spare()
    assert until(lambda: ended(spare.popen.pid))
    lanes.close()


def test_a_spare_process_ends_with_the_agent():
    program = "import sys; from agent.backends.head_start import Spare; print(Spare(1).popen.pid); sys.stdout.flush()"
    pid = int(subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True).stdout)
    assert until(lambda: ended(pid))


def test_a_spare_process_that_cannot_be_started_is_an_error_of_the_system(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(OSError, match="No such file"):
        Spare(1)
