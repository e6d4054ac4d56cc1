"""Wide numbers on a provider that computes narrow ones: no answer that is silently another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from agent.backends.narrow import refusal, too_wide
from agent.errors import InferenceFailed, ModelLoadFailed
from tests.backends.conftest import TAKES_PLUGINS, Rig
from tests.backends.test_two_providers import OPENVINO, PLUGIN


@pytest.fixture(autouse=True)
def plugin() -> None:
    if not TAKES_PLUGINS:
        pytest.skip("this onnxruntime takes no plugin providers")
    pytest.importorskip(PLUGIN)


def model(folder: Path, kind: str, given: int, made: int, **attributes: int) -> Path:
    """One node from x to y; with two inputs it takes x twice."""
    inputs = ["x", "x"] if kind in {"Add", "Mul"} else ["x"]
    nodes = [helper.make_node(kind, inputs, ["y"], **attributes)]
    ends = [helper.make_tensor_value_info(n, t, [4]) for n, t in (("x", given), ("y", made))]
    path = folder / f"{kind}.onnx"
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


@pytest.mark.parametrize(("kind", "type_"), [("Add", TensorProto.INT64), ("Mul", TensorProto.UINT64)])
def test_a_model_of_nothing_but_wide_integers_is_refused_by_name(process_rig: Rig, tmp_path: Path, kind, type_) -> None:
    with pytest.raises(ModelLoadFailed, match="computes 64-bit integers in 32 bits"):
        process_rig.load(process_rig.lane(), model(tmp_path, kind, type_, type_), "m", OPENVINO)


def test_a_model_that_gives_doubles_is_refused_by_name(process_rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="computes FP64 in single precision"):
        process_rig.load(
            process_rig.lane(), model(tmp_path, "Cos", TensorProto.DOUBLE, TensorProto.DOUBLE), "m", OPENVINO
        )


def test_an_integer_that_does_not_fit_is_no_wrong_answer(process_rig: Rig, tmp_path: Path) -> None:
    path = model(tmp_path, "Cast", TensorProto.INT64, TensorProto.FLOAT, to=TensorProto.FLOAT)
    lane = process_rig.lane()
    process_rig.load(lane, path, "m", OPENVINO)
    fits = np.array([-(2**31), 0, 7, 2**31 - 1])
    answer = process_rig.run(lane, {"x": fits}, "m").outputs["y"]
    np.testing.assert_allclose(answer, fits.astype(np.float32))
    for wide in (2**31, -(2**31) - 1):
        with pytest.raises(InferenceFailed, match="input 'x' holds integers that the provider cuts to 32 bits"):
            process_rig.run(lane, {"x": np.array([1, 2, 3, wide])}, "m")


def test_token_ids_and_empty_inputs_are_no_reason() -> None:
    assert refusal((), ()) is None
    assert too_wide({"ids": np.zeros((1, 0), np.int64), "x": np.full(2, 1e30), "n": np.array(5, np.uint64)}) is None
