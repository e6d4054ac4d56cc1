"""Runs that are bound to the ring: what a lane's process does from the third like call on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from agent.backends.artifact import LoadOrder
from agent.backends.onnx import OnnxSession, open_session
from agent.backends.segments import lease_of
from agent.errors import InferenceFailed
from tests.backends.conftest import PATIENCE_S, SHAPE, Models, add_constant, ramp, save_graph
from tests.backends.test_worker import Peer, make_peer

NUMBER = TensorProto.FLOAT
CALLS = 6


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = make_peer(simulated=False)
    yield made
    made.channel.close()
    made.thread.join(PATIENCE_S)
    assert not made.thread.is_alive()


@pytest.fixture
def plain_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The outputs that were asked of the runtime otherwise than bound."""
    seen: list[tuple[str, ...]] = []
    run = OnnxSession.run

    def watched(session: OnnxSession, feeds: Mapping[str, Any], outputs: tuple[str, ...]) -> Any:
        seen.append(outputs)
        return run(session, feeds, outputs)

    monkeypatch.setattr(OnnxSession, "run", watched)
    return seen


def order(path: Path, **changes: Any) -> LoadOrder:
    return LoadOrder(
        **{"model": "m", "path": str(path), "backend": "onnx", "provider": "CPUExecutionProvider", **changes}
    )


def test_like_calls_are_bound_and_answer_what_they_are_asked(
    peer: Peer, models: Models, plain_runs: list[tuple[str, ...]]
) -> None:
    model = peer.model(models.add_one)
    plain_runs.clear()

    for index in range(CALLS):
        reply = peer.run(model, {"x": ramp() + index})
        np.testing.assert_array_equal(reply.outputs["y"], ramp() + index + 1)
        assert 0.0 < reply.execute_s < PATIENCE_S

    assert len(plain_runs) == 2


def test_outputs_by_choice_are_bound_each_by_itself(peer: Peer, models: Models) -> None:
    model = peer.model(models.two_ports)
    feeds = {"a": ramp((4,)), "b": ramp((4,)) * 3}

    for _ in range(CALLS):
        both = peer.run(model, feeds).outputs
        np.testing.assert_array_equal(both["sum"], feeds["a"] + feeds["b"])
        np.testing.assert_array_equal(both["difference"], feeds["a"] - feeds["b"])
        feeds = {"a": feeds["a"] + 1, "b": feeds["b"] * 2}


def test_an_output_that_is_an_input_or_a_constant_is_written_too(peer: Peer, tmp_path: Path) -> None:
    constant = helper.make_tensor("c", NUMBER, [2], [5.0, 7.0])
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in (("x", "y"), ("x", "z"), ("c", "k"))]
    outputs = {name: (NUMBER, [2]) for name in "yzk"}
    model = peer.model(save_graph(tmp_path / "same.onnx", nodes, {"x": (NUMBER, [2])}, outputs, (constant,)))

    for index in range(CALLS):
        x = np.array([index, -index], np.float32)
        reply = peer.run(model, {"x": x}).outputs
        assert [reply[name].tolist() for name in "yzk"] == [x.tolist(), x.tolist(), [5.0, 7.0]]


def test_outputs_whose_shapes_follow_from_the_values_are_right_at_every_call(peer: Peer, tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["at"])
    model = peer.model(
        save_graph(tmp_path / "nz.onnx", [node], {"x": (NUMBER, [4])}, {"at": (TensorProto.INT64, [1, "n"])})
    )

    for asked in ([1, 0, 1, 0],) * 4 + ([1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]):
        x = np.array(asked, np.float32)
        np.testing.assert_array_equal(peer.run(model, {"x": x}).outputs["at"], np.stack(np.nonzero(x)))


def test_an_output_of_another_shape_and_as_many_bytes_is_right_at_every_call(peer: Peer, tmp_path: Path) -> None:
    path = save_graph(
        tmp_path / "turn.onnx",
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        {"x": (NUMBER, [12]), "s": (TensorProto.INT64, [2])},
        {"y": (NUMBER, ["a", "b"])},
    )
    model = peer.model(path)

    for shape in ((3, 4),) * 4 + ((4, 3), (3, 4), (2, 6), (12, 1), (3, 4)):
        reply = peer.run(model, {"x": ramp((12,)), "s": np.array(shape, np.int64)})
        np.testing.assert_array_equal(reply.outputs["y"], ramp(shape))


def test_a_call_that_fails_costs_the_ones_after_it_nothing(
    peer: Peer, tmp_path: Path, plain_runs: list[tuple[str, ...]]
) -> None:
    table = helper.make_tensor("t", NUMBER, [3], [10.0, 20.0, 30.0])
    node = helper.make_node("Gather", ["t", "i"], ["y"])
    port = {"i": (TensorProto.INT64, [1])}
    model = peer.model(save_graph(tmp_path / "pick.onnx", [node], port, {"y": (NUMBER, [1])}, (table,)))
    for _ in range(3):
        peer.run(model, {"i": np.array([1])})
    plain_runs.clear()

    failed = peer.run(model, {"i": np.array([9])})
    after = peer.run(model, {"i": np.array([2])})

    assert failed["error"] == "input_refused"
    assert "out of data bounds" in failed["text"]
    assert after.outputs["y"].tolist() == [30.0]
    assert len(plain_runs) == 1


def test_another_model_in_the_place_of_an_unloaded_one_is_not_taken_for_it(peer: Peer, models: Models) -> None:
    first = peer.model(models.add_one)
    second = peer.model(models.add_two, number=2)
    for _ in range(CALLS):
        peer.run(first, {"x": ramp()})
    peer.ask({"k": "unload", "id": 9, "load": 1})

    assert peer.run(first, {"x": ramp()})["text"] == "npu does not hold that model any more"
    np.testing.assert_array_equal(peer.run(second, {"x": ramp()}).outputs["y"], ramp() + 2)


def test_forms_beyond_the_bound_are_forgotten_not_confused(
    peer: Peer, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.backends.worker.MAX_PLANS", 3)
    model = peer.model(models.free)

    for turn in range(3):
        for rows in range(1, 6):
            x = ramp((rows, 7)) + turn
            np.testing.assert_array_equal(peer.run(model, {"x": x}).outputs["y"], x + 1)


def test_slots_that_grew_are_bound_anew(peer: Peer, models: Models) -> None:
    model = peer.model(models.free)
    for _ in range(3):
        peer.run(model, {"x": ramp((2, 3))})
    before = model.ring

    for index in range(3 * CALLS):
        x = ramp((100, 100)) + index
        np.testing.assert_array_equal(peer.run(model, {"x": x}).outputs["y"], x + 1)
    np.testing.assert_array_equal(peer.run(model, {"x": ramp((2, 3))}).outputs["y"], ramp((2, 3)) + 1)

    assert model.ring is not before


def test_a_cancelled_call_is_not_run_bound_either(peer: Peer, models: Models) -> None:
    model = peer.model(models.add_one)
    for _ in range(3):
        peer.run(model, {"x": ramp()})

    assert peer.run(model, {"x": ramp()}, cancel=True)["error"] == "deadline_exceeded"
    assert peer.run(model, {"x": ramp()}, within_s=-1.0)["error"] == "deadline_exceeded"
    np.testing.assert_array_equal(peer.run(model, {"x": ramp()}).outputs["y"], ramp() + 1)


def test_answers_that_are_held_keep_what_they_said_while_others_are_written(peer: Peer, tmp_path: Path) -> None:
    model = peer.model(add_constant(tmp_path / "wide.onnx", [1, 20_000], 1.0))  # too large to be copied out
    for _ in range(CALLS):
        peer.run(model, {"x": ramp((1, 20_000))})

    held = [peer.run(model, {"x": ramp((1, 20_000)) + index}) for index in range(CALLS)]

    assert lease_of(held[0].outputs["y"]) is not None
    for index, reply in enumerate(held):
        np.testing.assert_array_equal(reply.outputs["y"], ramp((1, 20_000)) + index + 1)


# ------------------------------------------------------------------ the session by itself


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int64, np.bool_])
def test_every_type_that_numpy_knows_can_be_bound(tmp_path: Path, kind: type[np.generic]) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    port = (element, [2, 3])
    path = save_graph(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], {"x": port}, {"y": port})
    x, y = np.array([[1, 0, 1], [0, 1, 1]], kind), np.zeros((2, 3), kind)

    again = open_session(order(path)).bind({"x": x}, {"y": y})
    assert again is not None
    again()
    first = y.copy()
    x[:] = np.array([[0, 1, 0], [1, 0, 0]], kind)
    again()

    np.testing.assert_array_equal(first, np.array([[1, 0, 1], [0, 1, 1]], kind))
    np.testing.assert_array_equal(y, x)


def test_a_bound_run_whose_output_has_another_shape_fails_in_one_sentence(models: Models) -> None:
    again = open_session(order(models.add_one)).bind({"x": ramp()}, {"y": np.zeros((1, 7), np.float32)})

    assert again is not None
    with pytest.raises(InferenceFailed, match=r"^m: ") as failure:
        again()
    assert "\n" not in failure.value.message


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_memory_without_bytes_is_not_bound(models: Models, shape: tuple[int, int]) -> None:
    empty = np.zeros(shape, np.float32)

    assert open_session(order(models.free)).bind({"x": empty}, {"y": empty}) is None


def test_strings_are_not_bound(models: Models) -> None:
    text = np.array(["a"], object)

    assert open_session(order(models.strings)).bind({"s": text}, {"t": text}) is None


def test_a_provider_that_copies_what_is_bound_is_run_plainly(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.backends.onnx._IN_HOST_MEMORY", frozenset())

    assert open_session(order(models.add_one)).bind({"x": ramp()}, {"y": np.zeros(SHAPE, np.float32)}) is None


def test_a_name_that_cannot_be_bound_leaves_the_run_plain(models: Models) -> None:
    assert open_session(order(models.add_one)).bind({"x": ramp()}, {"nobody": np.zeros(SHAPE, np.float32)}) is None


@pytest.mark.skipif(
    not hasattr(ort.OrtValue, "ortvalue_from_numpy_with_onnx_type"), reason="this runtime takes no such tensor at all"
)
def test_a_tensor_of_bits_is_run_plainly(tmp_path: Path) -> None:
    port = (TensorProto.BFLOAT16, [2])
    path = save_graph(tmp_path / "b.onnx", [helper.make_node("Identity", ["x"], ["y"])], {"x": port}, {"y": port})
    bits = np.array([0x3F80, 0x4000], np.uint16)

    assert open_session(order(path)).bind({"x": bits}, {"y": bits.copy()}) is None
