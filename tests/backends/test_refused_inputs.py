"""What ONNX Runtime says of an input is the model's verdict; what it says of a device or of memory is not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from agent.backends.artifact import Assignment, LoadOrder
from agent.backends.onnx import CUSTOM_OPERATORS, OnnxSession, runtime_errors
from agent.errors import InferenceFailed, InputRefused, LaneOutOfMemory
from tests.backends.conftest import Models, Rig, save_graph

STATE = ort.capi.onnxruntime_pybind11_state


def failing(provider: str, error: Exception, **options: str) -> OnnxSession:
    """A session of one provider whose runs end with this error."""

    def run(*_: Any) -> None:
        raise error

    session = SimpleNamespace(get_inputs=tuple, get_outputs=tuple, get_providers=lambda: [provider], run=run)
    order = LoadOrder(model="m", path="m.onnx", backend="onnx", provider=provider, options=options)
    return OnnxSession(order, session, Assignment((provider,), None, None, ()), runtime_errors(ort))


def kind_of(session: OnnxSession) -> type[Exception]:
    with pytest.raises((InferenceFailed, LaneOutOfMemory)) as failure:
        session.run({}, ())
    return type(failure.value)


@pytest.mark.parametrize(
    ("provider", "error", "kind"),
    [
        ("CPUExecutionProvider", STATE.InvalidArgument("indices element out of data bounds"), InputRefused),
        ("CPUExecutionProvider", STATE.Fail("shape.Size() must be >= 0"), InputRefused),
        ("CPUExecutionProvider", STATE.Fail("Failed to allocate memory for requested buffer"), LaneOutOfMemory),
        ("CUDAExecutionProvider", STATE.InvalidArgument("indices element out of data bounds"), InputRefused),
        ("CUDAExecutionProvider", STATE.Fail("CUDA failure 700: an illegal memory access"), InferenceFailed),
        ("CUDAExecutionProvider", STATE.Fail("CUDA failure 2: out of memory"), LaneOutOfMemory),
        ("CPUExecutionProvider", RuntimeError("the session is gone"), InferenceFailed),
    ],
)
def test_the_runtimes_error_tells_whether_the_input_or_the_device_is_to_blame(
    provider: str, error: Exception, kind: type[Exception]
) -> None:
    assert kind_of(failing(provider, error)) is kind


def test_an_operator_of_somebody_elses_library_may_fail_for_a_device_of_its_own() -> None:
    error = STATE.Fail("the card does not answer")
    assert kind_of(failing("CPUExecutionProvider", error, **{CUSTOM_OPERATORS: "lib.so"})) is InferenceFailed


def test_an_index_out_of_bounds_reaches_the_caller_of_a_lane_as_a_refused_input(
    process_rig: Rig, tmp_path: Path
) -> None:
    data = helper.make_tensor("d", TensorProto.FLOAT, [5], [0.0, 1.0, 2.0, 3.0, 4.0])
    path = save_graph(
        tmp_path / "gather.onnx", [helper.make_node("Gather", ["d", "i"], ["y"])], {"i": (TensorProto.INT64, ["n"])},
        {"y": (TensorProto.FLOAT, ["n"])}, (data,),
    )  # fmt: skip
    lane = process_rig.lane()
    process_rig.load(lane, path)

    np.testing.assert_array_equal(process_rig.run(lane, {"i": np.array([1, -2])}).outputs["y"], [1.0, 3.0])
    for _ in range(4):  # also where like calls run between bound memory
        with pytest.raises(InputRefused, match="out of data bounds"):
            process_rig.run(lane, {"i": np.array([7, -9])})
    np.testing.assert_array_equal(process_rig.run(lane, {"i": np.array([4, 0])}).outputs["y"], [4.0, 0.0])


def test_bytes_that_are_no_text_are_the_callers_fault_and_not_the_lanes(rig: Rig, models: Models) -> None:
    """Else anybody who sends them could bring one lane after the other under suspicion."""
    lane = rig.lane()
    rig.load(lane, models.strings)

    with pytest.raises(InputRefused, match=r"'s'.*element 1 is not UTF-8"):
        rig.run(lane, {"s": np.array([b"ab", b"\xff"], object)})

    assert rig.run(lane, {"s": np.array([b"ab"], object)}).outputs["t"].tolist() == ["ab"]
