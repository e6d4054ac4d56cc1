"""A lane that finds no memory: its request moves on, several begin it anew, and what is too large is refused."""

from __future__ import annotations

from agent.errors import LaneOutOfMemory
from agent.service.serving.lane_watch import MEMORY_FAILURES
from tests.service.test_canaries import Bed


def test_a_failed_allocation_moves_the_request_and_several_begin_the_lane_anew():
    bed = Bed(canary_s=0.0)
    lane = bed.lane("gpu0")
    for _ in range(MEMORY_FAILURES):
        lane.fail_with = LaneOutOfMemory("m: out of memory while running")
        assert bed.infer().result().placement == "cpu"
        lane.fail_with = None
        bed.watch.suspect("gpu0", "m: Failed to allocate memory for requested buffer of size 4096")
    bed.tick(0.2)
    assert "empty heap" in bed.keepers["gpu0"].health.last_fault


def test_what_a_runtime_says_of_memory_layouts_begins_no_lane_anew():
    bed = Bed(canary_s=0.0)
    before = bed.keepers["gpu0"].health
    for _ in range(2 * MEMORY_FAILURES):
        bed.watch.suspect("gpu0", "m: unsupported memory layout of input 'x'")
    bed.tick(1.0)
    assert bed.keepers["gpu0"].health.restarts == before.restarts


def test_a_request_too_large_for_every_lane_is_refused_as_overload_in_the_runtimes_words():
    bed = Bed()
    for name in ("gpu0", "cpu"):
        bed.lane(name).fail_with = LaneOutOfMemory("m: out of memory while running")
    answer = bed.infer()
    bed.tick(1.0)
    assert (answer.exception().status, answer.exception().message) == (503, "m: out of memory while running")
