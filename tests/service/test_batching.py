"""Batching: what waits for the same lane runs as one call, and every client gets its own answer."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from agent.errors import DeadlineExceeded, InferenceFailed, LaneDied, LaneOutOfMemory
from agent.ports import InferenceRequest, LaneReply, LaneSpec, LoadReport
from agent.schema.settings import BatchingOptions
from agent.schema.workload import TensorSpec
from agent.service.serving.batching import Batches, band
from tests.fakes import FakeClock

REPORT = LoadReport(
    "m", "P", ("P",), 1, 1, (TensorSpec(name="x", datatype="FP32", shape=(-1, -1)),),
    (TensorSpec(name="y", datatype="FP32", shape=(-1, -1)),), 0.1, 0.01, 1000,
)  # fmt: skip


class Lane:
    """Computes y = f(x) when told to; a number above 1000 fails the call that it is in."""

    spec = LaneSpec("npu0", 1)

    def __init__(self, function=lambda x: x + 1) -> None:
        self.function = function
        self.calls = []
        self.error = None
        self.at_once = False

    def alive(self):
        return True

    def submit(self, name, inputs, outputs, deadline_s):
        future = Future()
        if self.error is not None:
            raise self.error
        self.calls.append((inputs["x"], future))
        if self.at_once:
            self.answer()
        return future

    def answer(self, error=None):
        x, future = self.calls.pop(0)
        if future.cancelled():
            return
        if error is not None or x.max() > 1000:
            future.set_exception(error or InferenceFailed("too large"))
        else:
            future.set_result(LaneReply({"y": self.function(x)}, 0.01 * len(x), 2.0, "measured"))

    def answer_all(self):
        while self.calls:
            self.answer()


class Bench:
    """A lane on which batching was proven, with one call under way."""

    def __init__(self, proven=True, most=8, wait_ms=0.0, **lane):
        self.clock = FakeClock()
        self.lane = Lane(**lane)
        self.batches = Batches(self.clock, {"m": BatchingOptions(max=most, wait_ms=wait_ms)}, lambda at_s: None)
        if proven:
            first = self.ask(0, 1)
            self.clock.advance(wait_ms / 1e3)
            self.batches.due(self.clock.now_s)
            self.lane.answer_all()
            assert first.done()
            self.batches.sizes.clear()

    def ask(self, *values, deadline_s=100.0):
        x = np.array([values], np.float32).reshape(len(values) // 2, 2)
        request = InferenceRequest("m", {"x": x}, None, "r")
        if not self.batches.takes(request, self.lane, "m", REPORT):
            return self.lane.submit("m", request.inputs, None, 0.0)
        return self.batches.submit(self.lane, "m", request, self.clock.now_s + deadline_s, 0.0)

    def rows(self):
        return [len(x) for x, _ in self.lane.calls]


def values(future):
    return future.result(0).outputs["y"].ravel().tolist()


def test_a_lone_request_on_an_idle_lane_goes_at_once_and_alone():
    bench = Bench()
    future = bench.ask(3, 4)
    assert bench.rows() == [1]
    bench.lane.answer()
    assert values(future) == [4, 5]
    assert (future.result(0).together, future.result(0).call_s, future.result(0).energy_j) == (1, None, 2.0)


def test_what_queues_while_the_lane_is_busy_goes_together_and_each_gets_its_own_answer():
    bench = Bench()
    first = bench.ask(0, 0)
    rest = [bench.ask(n, n + 1) for n in range(10, 14)]
    assert bench.rows() == [1]
    assert bench.batches.waiting(bench.lane) == 4
    bench.lane.answer()
    assert bench.rows() == [4]
    assert first.done()
    bench.lane.answer()
    assert [values(f) for f in rest] == [[n + 1, n + 2] for n in range(10, 14)]
    assert bench.batches.waiting(bench.lane) == 0
    assert bench.batches.counts() == ({("m", "1"): 1, ("m", "3-4"): 1}, {})


def test_time_and_joules_are_shared_by_rows_and_say_so():
    bench = Bench()
    bench.ask(0, 0)
    small, large = bench.ask(1, 1), bench.ask(1, 1, 2, 2, 3, 3)
    bench.lane.answer_all()
    replies = [small.result(0), large.result(0)]
    assert [r.energy_j for r in replies] == [0.5, 1.5]
    assert [r.execute_s for r in replies] == pytest.approx([0.01, 0.03])
    assert {(r.together, r.call_s, r.energy_provenance) for r in replies} == {(2, 0.04, "measured")}


def test_a_call_holds_no_more_rows_than_the_setting_and_larger_requests_go_alone():
    bench = Bench(most=4)
    bench.ask(0, 0)
    for _ in range(3):
        bench.ask(1, 1, 2, 2)
    alone = bench.ask(*range(10))
    assert bench.rows() == [1, 5]
    bench.lane.answer()
    bench.lane.answer()
    assert alone.done()
    assert bench.rows() == [4]
    bench.lane.answer()
    assert bench.rows() == [2]


def test_requests_of_other_shapes_or_outputs_are_not_joined():
    bench = Bench()
    bench.ask(0, 0)
    bench.ask(1, 1)
    wide = InferenceRequest("m", {"x": np.ones((1, 3), np.float32)}, None, "r")
    named = InferenceRequest("m", {"x": np.ones((1, 2), np.float32)}, ("y",), "r")
    for request in (wide, named):
        bench.batches.submit(bench.lane, "m", request, 100.0, 0.0)
    assert bench.rows() == [1, 1, 1]


def test_one_bad_request_does_not_harm_the_others_and_each_is_run_once_more():
    bench = Bench()
    bench.ask(0, 0)
    good, bad, other = bench.ask(1, 1), bench.ask(2000, 1), bench.ask(3, 3)
    bench.lane.answer()
    bench.lane.answer()
    assert bench.rows() == [1, 1, 1]
    bench.lane.answer_all()
    assert (values(good), values(other)) == ([2, 2], [4, 4])
    assert isinstance(bad.exception(0), InferenceFailed)
    assert bench.batches.counts()[1] == {"m": 1}
    assert bench.lane.calls == []


def test_a_batch_that_memory_is_missing_for_is_the_last_one_there():
    bench = Bench()
    bench.ask(0, 0)
    futures = [bench.ask(1, 1), bench.ask(2, 2)]
    bench.lane.answer()
    bench.lane.answer(LaneOutOfMemory("no memory"))
    bench.lane.answer_all()
    assert [values(f) for f in futures] == [[2, 2], [3, 3]]
    later = [bench.ask(1, 1) for _ in range(3)]
    assert bench.rows() == [1, 1, 1]
    bench.lane.answer_all()
    assert all(f.done() for f in later)


def test_a_lane_that_dies_tells_every_request_of_the_batch_once():
    bench = Bench()
    bench.ask(0, 0)
    futures = [bench.ask(1, 1), bench.ask(2, 2)]
    bench.lane.answer()
    bench.lane.answer(LaneDied("SIGKILL"))
    assert all(isinstance(f.exception(0), LaneDied) for f in futures)
    assert bench.lane.calls == []


def test_a_lane_that_takes_no_call_fails_what_waits_instead_of_keeping_it():
    bench = Bench()
    bench.ask(0, 0)
    futures = [bench.ask(n, n) for n in range(20)]
    bench.lane.error = LaneDied("down")
    bench.lane.answer()
    assert all(isinstance(f.exception(0), LaneDied) for f in futures)
    assert bench.batches.waiting(bench.lane) == 0


def test_a_request_cancelled_while_it_waits_is_not_run():
    bench = Bench()
    bench.ask(0, 0)
    gone, kept = bench.ask(1, 1), bench.ask(2, 2)
    gone.cancel()
    bench.lane.answer()
    assert bench.rows() == [1]
    bench.lane.answer()
    assert values(kept) == [3, 3]


def test_a_request_cancelled_in_a_running_batch_harms_nobody_and_the_last_one_ends_the_call():
    bench = Bench()
    bench.ask(0, 0)
    gone, kept = bench.ask(1, 1), bench.ask(2, 2)
    bench.lane.answer()
    gone.cancel()
    call = bench.lane.calls[0][1]
    assert not call.cancelled()
    bench.lane.answer()
    assert values(kept) == [3, 3]

    bench.ask(0, 0)
    pair = [bench.ask(1, 1), bench.ask(2, 2)]
    bench.lane.answer()
    call = bench.lane.calls[0][1]
    for future in pair:
        future.cancel()
    assert call.cancelled()


def test_after_a_cancelled_call_the_next_one_begins():
    bench = Bench()
    first = bench.ask(0, 0)
    bench.ask(1, 1)
    first.cancel()
    assert bench.rows() == [1, 1]


def test_a_request_that_waits_beyond_its_deadline_is_told_then_and_not_run():
    bench = Bench()
    bench.ask(0, 0)
    late, kept = bench.ask(1, 1, deadline_s=1.0), bench.ask(2, 2)
    bench.clock.advance(1.0)
    assert bench.batches.due(bench.clock.now_s) > bench.clock.now_s
    assert isinstance(late.exception(0), DeadlineExceeded)
    bench.lane.answer()
    assert bench.rows() == [1]
    assert not kept.done()


def test_a_deadline_within_a_running_batch_is_kept_while_the_others_go_on():
    bench = Bench()
    bench.ask(0, 0)
    late, kept = bench.ask(1, 1, deadline_s=1.0), bench.ask(2, 2)
    bench.lane.answer()
    bench.clock.advance(1.0)
    bench.batches.due(bench.clock.now_s)
    assert isinstance(late.exception(0), DeadlineExceeded)
    bench.lane.answer()
    assert values(kept) == [3, 3]


def test_a_lone_request_waits_for_company_only_as_long_as_the_setting_says():
    bench = Bench(wait_ms=5.0)
    future = bench.ask(1, 1)
    assert bench.rows() == []
    bench.clock.advance(0.004)
    bench.batches.due(bench.clock.now_s)
    assert bench.rows() == []
    bench.clock.advance(0.001)
    bench.batches.due(bench.clock.now_s)
    assert bench.rows() == [1]
    bench.lane.answer()
    assert future.done()


def test_a_full_batch_does_not_wait():
    bench = Bench(wait_ms=500.0, most=2)
    bench.ask(1, 1)
    bench.ask(2, 2)
    assert bench.rows() == [2]


def test_a_request_in_a_hurry_does_not_wait_for_company():
    bench = Bench(wait_ms=500.0)
    request = InferenceRequest("m", {"x": np.ones((1, 2), np.float32)}, None, "r")
    bench.batches.submit(bench.lane, "m", request, bench.clock.now_s + 0.1, 0.02)
    assert bench.rows() == [1]


def test_until_a_lane_has_shown_that_a_batch_answers_right_requests_go_one_by_one():
    bench = Bench(proven=False)
    first, second, third = (bench.ask(n, n + 1) for n in (1, 2, 3))
    assert bench.rows() == [1]
    bench.lane.answer()
    assert first.done()
    assert bench.rows() == [1, 1]  # the first one turned round, and the next request alone
    bench.lane.answer()
    assert bench.rows() == [1, 2]
    bench.lane.answer_all()
    assert (values(second), values(third)) == ([3, 4], [4, 5])


@pytest.mark.parametrize(
    "function",
    [lambda x: x - x.mean(axis=0), lambda x: x[:1], lambda x: np.float32(x.max()), lambda x: x[::-1]],
    ids=["mixes rows", "one row", "scalar", "reorders"],
)
def test_a_model_that_answers_otherwise_in_company_is_never_batched(function):
    bench = Bench(function=function)
    futures = [bench.ask(n, n) for n in range(4)]
    assert bench.rows() == [1] * 4
    bench.lane.answer_all()
    alone = [function(np.full((1, 2), n, np.float32)) for n in range(4)]
    assert all(np.array_equal(f.result(0).outputs["y"], y) for f, y in zip(futures, alone, strict=True))


def test_a_proof_that_did_not_come_about_is_asked_for_again():
    bench = Bench(proven=False)
    bench.ask(1, 2)
    bench.lane.answer()
    bench.lane.answer(LaneDied("restarting"))
    bench.ask(1, 2)
    bench.lane.answer_all()
    bench.ask(0, 0)
    for n in range(3):
        bench.ask(n, n)
    bench.lane.answer()
    assert bench.rows() == [3]


def test_bands_of_sizes_are_powers_of_two():
    assert [band(n) for n in (1, 2, 3, 4, 5, 8, 9, 16, 17)] == [
        "1", "2", "3-4", "3-4", "5-8", "5-8", "9-16", "9-16", "17-32"
    ]  # fmt: skip


def test_a_comparison_that_fails_for_what_is_asked_ends_batching_there():
    bench = Bench(proven=False)
    bench.ask(1, 2)
    bench.lane.answer()
    bench.lane.answer(InferenceFailed("a fixed size inside"))
    for _ in range(3):
        bench.ask(1, 1)
    assert bench.rows() == [1, 1, 1]


def test_a_lane_that_takes_no_comparison_is_asked_later():
    bench = Bench(proven=False)
    future = bench.ask(1, 2)
    bench.lane.error = LaneDied("down")
    bench.lane.answer()
    assert values(future) == [2, 3]
    bench.lane.error = None
    bench.ask(1, 2)
    bench.lane.answer_all()
    bench.ask(0, 0)
    for n in range(2):
        bench.ask(n, n)
    bench.lane.answer()
    assert bench.rows() == [2]
