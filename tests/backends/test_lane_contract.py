"""What every lane promises, in a process or in a thread."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from agent.errors import DeadlineExceeded, InferenceFailed, ModelLoadFailed, Overloaded, PermitExpired
from agent.ports import Simulation
from agent.schema.device import Runtime
from tests.backends.conftest import (
    FACE,
    MAGIKA,
    NSFW,
    PATIENCE_S,
    SHAPE,
    TELLS_NODES,
    Models,
    Rig,
    ramp,
    until,
)


def raw(path: Any, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.mark.parametrize(
    ("path", "feeds"),
    [
        (MAGIKA, {"bytes": np.arange(2048, dtype=np.int32).reshape(1, 2048) % 257}),
        (NSFW, {"input_1": np.random.default_rng(1).random((1, 224, 224, 3), dtype=np.float32)}),
    ],
    ids=["magika", "open_nsfw"],
)
def test_answers_are_those_of_the_raw_runtime_bit_by_bit(rig: Rig, path: Any, feeds: dict[str, Any]) -> None:
    lane = rig.lane()
    report = rig.load(lane, path)
    feeds = {report.inputs[0].name: next(iter(feeds.values()))}

    reply = rig.run(lane, feeds)

    assert report.actual == ("CPUExecutionProvider",)
    assert report.accelerated_fraction == (1.0 if TELLS_NODES else None)
    for got, expected in zip(reply.outputs.values(), raw(path, feeds), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_tflite_model_runs_on_the_delegate_asked_for(rig: Rig) -> None:
    lane = rig.lane()
    plain = rig.load(lane, FACE, "plain", Runtime(backend="litert", provider="none"))
    fast = rig.load(lane, FACE, "fast", Runtime(backend="litert", provider="XNNPACK"))
    image = {"input": np.random.default_rng(2).random((1, 128, 128, 3), dtype=np.float32)}

    slow_reply, fast_reply = rig.run(lane, image, "plain"), rig.run(lane, image, "fast")

    assert (plain.actual, fast.actual) == (("none",), ("XNNPACK",))
    assert plain.nodes == fast.nodes == fast.nodes_on_requested == 164
    for name, expected in slow_reply.outputs.items():
        np.testing.assert_allclose(fast_reply.outputs[name], expected, rtol=1e-3, atol=1e-3)


def test_concurrent_calls_get_their_own_answers(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.add_one)
    inputs = [np.full(SHAPE, number, np.float32) for number in range(48)]

    futures = [rig.submit(lane, {"x": x}) for x in inputs]

    for x, future in zip(inputs, futures, strict=True):
        np.testing.assert_array_equal(future.result(PATIENCE_S).outputs["y"], x + 1)
    assert until(lambda: lane.queue_length() == 0)


def test_outputs_can_be_chosen_by_name(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.two_ports)
    feeds = {"a": ramp((4,)), "b": np.ones(4, np.float32)}

    reply = rig.run(lane, feeds, outputs=("difference",))

    assert list(reply.outputs) == ["difference"]
    np.testing.assert_array_equal(reply.outputs["difference"], feeds["a"] - feeds["b"])


@pytest.mark.parametrize(
    ("feeds", "outputs", "sentence"),
    [
        ({"x": np.zeros(SHAPE, np.float64)}, None, "m: input 'x' must be FP32, not float64"),
        ({"x": np.zeros((1, 3), np.float32)}, None, r"must have shape \[1, 2048\], not \(1, 3\)"),
        ({}, None, "m: input 'x' is missing"),
        ({"x": np.zeros(SHAPE, np.float32), "z": np.zeros(1)}, None, r"m has no input 'z' \(it has x\)"),
        ({"x": np.zeros(SHAPE, np.float32)}, ("w",), r"m has no output 'w' \(it has y\)"),
    ],
)
def test_wrong_input_fails_with_one_sentence_and_the_lane_serves_on(
    rig: Rig, models: Models, feeds: Any, outputs: Any, sentence: str
) -> None:
    lane = rig.lane()
    rig.load(lane, models.add_one)

    with pytest.raises(InferenceFailed, match=sentence):
        rig.run(lane, feeds, outputs=outputs)

    np.testing.assert_array_equal(rig.run(lane, {"x": ramp()}).outputs["y"], ramp() + 1)


def test_an_error_of_the_runtime_itself_is_the_requests_error(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.grow)

    with pytest.raises(InferenceFailed, match="m: "):
        rig.run(lane, {"x": np.ones(1, np.float32), "shape": np.array([-3], np.int64)})


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("corrupt", "Protobuf parsing failed"), ("unknown_operator", "Frobnicate"), ("absent", "there is no model file")],
)
def test_a_model_that_cannot_be_loaded_is_refused_and_the_others_serve(
    rig: Rig, models: Models, name: str, sentence: str
) -> None:
    lane = rig.lane()
    rig.load(lane, models.add_one, "good")
    path = models.add_one.with_name("absent.onnx") if name == "absent" else getattr(models, name)

    with pytest.raises(ModelLoadFailed, match=sentence):
        rig.load(lane, path, "bad")

    np.testing.assert_array_equal(rig.run(lane, {"x": ramp()}, "good").outputs["y"], ramp() + 1)
    with pytest.raises(Overloaded, match="bad is not loaded on npu"):
        rig.run(lane, {"x": ramp()}, "bad")


def test_a_provider_that_is_not_there_is_reported_and_not_hidden(rig: Rig, models: Models) -> None:
    report = rig.load(rig.lane(), models.add_one, runtime=Runtime(backend="onnx", provider="CUDAExecutionProvider"))

    assert report.requested == "CUDAExecutionProvider"
    assert report.actual == ("CPUExecutionProvider",)
    counted = (report.nodes, report.nodes_on_requested, report.accelerated_fraction)
    assert counted == ((1, 0, 0.0) if TELLS_NODES else (None, None, None))
    assert any("CUDAExecutionProvider is not in this onnxruntime" in note for note in report.notes)


def test_the_queue_is_bounded(rig: Rig, models: Models) -> None:
    lane = rig.lane(max_queue=3, simulated=True)
    rig.load(lane, models.add_one)
    lane.inject("hang")

    accepted = [rig.submit(lane, {"x": ramp()}) for _ in range(3)]

    with pytest.raises(Overloaded, match=r"npu has 3 calls queued \(limit 3\)"):
        rig.submit(lane, {"x": ramp()})
    assert lane.queue_length() == 3
    assert not any(future.done() for future in accepted)


def test_a_deadline_fails_the_future_while_the_slot_stays_held(rig: Rig, models: Models) -> None:
    lane = rig.lane(simulated=True)
    rig.load(lane, models.add_one)
    lane.inject("slow", delay_s=3.0)

    slow = rig.submit(lane, {"x": ramp()}, within_s=0.1)

    with pytest.raises(DeadlineExceeded, match="m on npu did not answer"):
        slow.result(PATIENCE_S)
    assert lane.queue_length() == 1
    np.testing.assert_array_equal(rig.run(lane, {"x": ramp() + 1}).outputs["y"], ramp() + 2)
    assert until(lambda: lane.queue_length() == 0)


def test_a_call_whose_time_is_over_already_is_not_queued(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.add_one)

    late = rig.submit(lane, {"x": ramp()}, within_s=-1.0)

    with pytest.raises(DeadlineExceeded):
        late.result(PATIENCE_S)
    assert until(lambda: lane.queue_length() == 0)


def test_a_cancelled_call_is_skipped(rig: Rig, models: Models) -> None:
    lane = rig.lane(simulated=True)
    rig.load(lane, models.add_one, simulation=Simulation(0.5, 0.0, 0.0, 1.0, 1.0, 25.0))
    calls = [rig.submit(lane, {"x": ramp()}) for _ in range(20)]

    for call in calls[1:]:
        assert call.cancel()
    calls[0].result(PATIENCE_S)
    before_s = rig.clock.monotonic_s()
    rig.run(lane, {"x": ramp()})

    assert rig.clock.monotonic_s() - before_s < 19 * 0.5  # what the cancelled ones alone would have taken


def test_nothing_runs_without_a_permit_and_a_renewed_one_lets_it_run_again(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.add_one)

    lane.renew_permit(0.0)
    with pytest.raises(PermitExpired, match="npu holds no valid run permit"):
        rig.run(lane, {"x": ramp()})

    lane.renew_permit(rig.clock.monotonic_s() + 60)
    np.testing.assert_array_equal(rig.run(lane, {"x": ramp()}).outputs["y"], ramp() + 1)


def test_a_permit_that_is_not_renewed_lapses(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.add_one)

    lane.renew_permit(rig.clock.monotonic_s() - 0.001)

    with pytest.raises(PermitExpired):
        rig.run(lane, {"x": ramp()})


def test_calls_that_were_accepted_before_an_unload_are_answered(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.add_one, "one")
    rig.load(lane, models.add_two, "two")

    calls = [rig.submit(lane, {"x": ramp()}, "one") for _ in range(40)]
    gone = lane.unload("one")

    for call in calls:
        assert np.array_equal(call.result(PATIENCE_S).outputs["y"], ramp() + 1)
    assert gone.result(PATIENCE_S) is None
    with pytest.raises(Overloaded):
        rig.submit(lane, {"x": ramp()}, "one")
    assert np.array_equal(rig.run(lane, {"x": ramp()}, "two").outputs["y"], ramp() + 2)


def test_models_are_loaded_beside_each_other_and_unloaded_alone(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.add_one, "one")
    rig.load(lane, models.add_two, "two")

    np.testing.assert_array_equal(rig.run(lane, {"x": ramp()}, "one").outputs["y"], ramp() + 1)
    np.testing.assert_array_equal(rig.run(lane, {"x": ramp()}, "two").outputs["y"], ramp() + 2)
    lane.unload("one").result(PATIENCE_S)

    with pytest.raises(Overloaded):
        rig.run(lane, {"x": ramp()}, "one")
    np.testing.assert_array_equal(rig.run(lane, {"x": ramp()}, "two").outputs["y"], ramp() + 2)
    lane.unload("never loaded").result(PATIENCE_S)


def test_a_new_version_takes_the_name_without_losing_a_call(rig: Rig, models: Models) -> None:
    lane = rig.lane(max_queue=1000)
    rig.load(lane, models.add_one)
    answers: list[Future[Any]] = []

    before = [rig.submit(lane, {"x": ramp()}) for _ in range(100)]
    rig.load(lane, models.add_two)
    answers = [rig.submit(lane, {"x": ramp()}) for _ in range(100)]

    for future in before:
        seen = future.result(PATIENCE_S).outputs["y"] - ramp()
        assert np.allclose(seen, 1, atol=1e-3) or np.allclose(seen, 2, atol=1e-3)
    for future in answers:
        np.testing.assert_array_equal(future.result(PATIENCE_S).outputs["y"], ramp() + 2)


def test_a_version_that_does_not_load_leaves_the_old_one_serving(rig: Rig, models: Models) -> None:
    lane = rig.lane()
    rig.load(lane, models.add_one)

    with pytest.raises(ModelLoadFailed):
        rig.load(lane, models.corrupt)

    np.testing.assert_array_equal(rig.run(lane, {"x": ramp()}).outputs["y"], ramp() + 1)
