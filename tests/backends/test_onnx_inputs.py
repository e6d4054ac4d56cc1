"""ONNX: inputs that are none, that have a default, and that are declared without sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from agent.api.messages import decode
from agent.backends.onnx import OnnxSession, open_session
from tests.backends.conftest import Rig, save_graph
from tests.backends.test_bound_runs import CALLS, order

NUMBER = TensorProto.FLOAT


def loaded(path: Path) -> OnnxSession:
    return open_session(order(path))


def test_a_model_without_inputs_answers_every_time(rig: Rig, tmp_path: Path) -> None:
    value = helper.make_tensor("v", NUMBER, [3], [1.0, 2.0, 3.0])
    node = helper.make_node("Constant", [], ["y"], value=value)
    lane = rig.lane()
    rig.load(lane, save_graph(tmp_path / "m.onnx", [node], {}, {"y": (NUMBER, [3])}))

    for _ in range(CALLS):
        assert rig.run(lane, {}).outputs["y"].tolist() == [1.0, 2.0, 3.0]


def test_an_input_that_has_a_default_is_told_of(tmp_path: Path) -> None:
    default = helper.make_tensor("c", NUMBER, [2], [3.0, 3.0])
    inputs = {"x": (NUMBER, [2]), "c": (NUMBER, [2])}
    path = save_graph(
        tmp_path / "m.onnx", [helper.make_node("Add", ["x", "c"], ["y"])], inputs, {"y": (NUMBER, [2])}, (default,)
    )

    session = loaded(path)

    assert [port.name for port in session.inputs] == ["x"]
    assert session.run({"x": np.ones(2, np.float32)}, ("y",))[0].tolist() == [4.0, 4.0]
    assert "input 'c' has a default in the file, which is used; requests cannot give it" in session.assignment.notes


def test_an_input_without_sizes_is_told_of_and_takes_a_single_value(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    session = loaded(save_graph(tmp_path / "m.onnx", [node], {"x": (NUMBER, None)}, {"y": (NUMBER, None)}))

    assert "input 'x' is declared without sizes: it takes a single value (shape [])" in session.assignment.notes
    assert session.run({"x": np.full((), 2.0, np.float32)}, ("y",))[0].tolist() == 4.0


def test_a_request_may_say_that_there_is_no_input() -> None:
    decoded = decode("m", b'{"inputs": []}', None, None, "r")

    assert decoded.request.inputs == {}
