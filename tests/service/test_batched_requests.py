"""Requests that share calls: admission, replays, deadlines and figures stay those of single requests."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from agent.errors import DeadlineExceeded, Overloaded
from agent.schema.settings import BatchingOptions
from agent.service import metrics
from agent.service.serving.batching import Batches
from agent.service.serving.meter import Meter
from tests.service.world import World


def world(**options):
    made = World(**options)
    made.dispatcher.batches = Batches(made.clock, {"m": BatchingOptions()}, lambda at_s: None)
    made.infer().result(0)  # by which its first lane proves that it may
    return made


def ones(n):
    return np.full((1, 2), n, np.float32)


def busy(made, count):
    made.lane("gpu0").hold = True
    return [made.infer(x=ones(n)) for n in range(count)]


def release_first(lane):
    """Answer what the lane holds now; what that lets in stays held."""
    held, lane.held = lane.held, []
    for _, inputs, future in held:
        lane._run(inputs, future)


def test_requests_of_a_batch_are_answered_counted_and_charged_one_by_one():
    made = world()
    futures = busy(made, 5)
    lane = made.lane("gpu0")
    release_first(lane)
    assert [len(inputs["x"]) for _, inputs, _ in lane.held] == [4]
    lane.release()

    answers = [f.result(0) for f in futures]
    assert [a.outputs["y"].tolist() for a in answers] == [[[n + 1, n + 1]] for n in range(5)]
    assert [a.together for a in answers] == [1, 4, 4, 4, 4]
    assert answers[1].execute_s == pytest.approx(0.01 / 4)
    assert answers[1].energy_j == pytest.approx(0.05 + 2.0 * 0.01 / 4)
    assert answers[1].provenance == "modelled"
    assert made.dispatcher.meters["m"].read().requests == 6
    assert made.dispatcher.in_flight() == 0


def test_a_lane_that_dies_with_a_batch_loses_no_request_and_none_runs_twice_elsewhere():
    made = world()
    futures = busy(made, 5)
    release_first(made.lane("gpu0"))
    runs = made.lane("cpu").runs

    made.lane("gpu0").die()

    answers = [f.result(0) for f in futures]
    assert [(a.placement, a.replays, a.together) for a in answers[1:]] == [("cpu", 1, 1)] * 4
    assert made.lane("cpu").runs - runs == 4


def test_what_waits_for_a_batch_counts_in_its_lanes_queue():
    made = world(models={"m": ["gpu0"]}, accelerators=("gpu0",))
    futures = busy(made, 18)  # the policy admits 16 per lane
    assert [f.done() for f in futures] == [False] * 16 + [True] * 2
    assert isinstance(futures[-1].exception(0), Overloaded)

    for future in futures[1:10]:
        future.cancel()
    assert not made.infer().done()


def test_a_deadline_is_kept_while_the_lane_is_busy():
    made = world()
    busy(made, 1)
    late = made.infer(deadline_s=0.5)
    made.tick(0.4)
    assert not late.done()
    made.tick(0.2)
    assert isinstance(late.exception(0), DeadlineExceeded)


def test_a_model_with_a_fixed_first_axis_is_served_one_by_one():
    made = World()
    made.dispatcher.batches = Batches(made.clock, {"m": BatchingOptions()}, lambda at_s: None)
    route = made.dispatcher.routes("m").routes[0]
    for spec in (route.report.inputs[0],):
        object.__setattr__(spec, "shape", (1, 2))
    made.infer().result(0)
    busy(made, 3)
    assert len(made.lane("gpu0").held) == 3
    made.tick(0.2)
    told = made.condition("batching_off:m@gpu0")
    assert "the first axis of an input or output has a fixed size" in told.cause
    made.lane("gpu0").die()
    made.tick(0.2)
    assert made.condition("batching_off:m@gpu0") is None


def test_an_answer_lives_no_longer_than_its_client_holds_it():
    made = world()
    futures = busy(made, 3)
    futures[2].cancel()
    gc.collect()
    gc.disable()
    try:
        release_first(made.lane("gpu0"))
        made.lane("gpu0").release()
        kept = weakref.ref(futures[1].result(0).outputs["y"])
        futures.clear()
        assert kept() is None
    finally:
        gc.enable()


def test_a_lane_whose_calls_are_shared_has_as_much_longer_before_it_counts_as_hung():
    made = World()
    keeper = made.keepers["gpu0"]
    alone_s = keeper._expected_s(0.5)
    keeper.together = 8
    assert keeper._expected_s(0.5) == pytest.approx(8 * alone_s)


def test_shared_calls_do_not_count_as_what_a_call_takes_but_as_the_longest_to_expect():
    meter = Meter()
    for _ in range(30):
        meter.answered("npu0", 0.1, 0.01, None, "unknown", 0, 0.08)
    assert meter.typical_s("npu0") is None
    assert meter.slowest_s("npu0") == 0.08
    assert meter.read().by_accelerator == {"npu0": (30, 0.01)}
    assert meter.used()["npu0"].busy_s == pytest.approx(0.3)
    meter.answered("npu0", 0.1, 0.05, None, "unknown", 0)
    assert meter.read().by_accelerator == {"npu0": (31, 0.05)}


def test_metrics_count_calls_by_the_requests_that_shared_them():
    made = world()
    busy(made, 4)
    release_first(made.lane("gpu0"))
    made.lane("gpu0").release()
    families = {m.name: m for m in metrics.collect(made.snapshot, made.dispatcher, 0)}
    assert families["qeil_batches_total"].samples == (
        ({"model": "m", "requests": "1"}, 2.0), ({"model": "m", "requests": "3-4"}, 1.0)
    )  # fmt: skip
    assert families["qeil_batches_undone_total"].samples == ()
