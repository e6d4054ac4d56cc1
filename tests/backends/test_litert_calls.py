"""LiteRT: one call costs the next one nothing, and no tensor is taken for another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.backends import litert
from agent.backends.artifact import LoadOrder, Session
from agent.backends.formats import distinct
from agent.errors import InferenceFailed, InputRefused, ModelLoadFailed
from agent.schema.device import Runtime
from agent.workload import tflite_graph
from tests.backends import tflite_files
from tests.backends.conftest import Rig

PROVIDERS = ("none", "XNNPACK")


def opened(path: Path, provider: str) -> Session:
    return litert.open_session(LoadOrder("m", str(path), "litert", provider))


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_shape_that_the_model_cannot_run_with_is_refused_and_costs_the_next_call_nothing(
    tmp_path: Path, provider: str
) -> None:
    session = opened(tflite_files.only_one_row(tmp_path / "m.tflite"), provider)

    for _ in range(3):
        with pytest.raises(InputRefused, match=r"^m: it cannot run with 'x' \[2, 4\]: "):
            session.run({"x": ones(2, 4)}, ("y",))
        assert session.run({"x": ones(1, 4)}, ("y",))[0].tolist() == [2.0] * 4


def test_an_interpreter_that_does_not_come_back_is_not_the_inputs_fault(tmp_path: Path) -> None:
    session = opened(tflite_files.only_one_row(tmp_path / "m.tflite"), "none")
    assert isinstance(session, litert.LitertSession)

    class Lost:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("the device is gone")

    session._interpreter = Lost()

    with pytest.raises(InferenceFailed, match="nor again as before: the device is gone") as failure:
        session.run({"x": ones(2, 4)}, ("y",))
    assert not isinstance(failure.value, InputRefused)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_value_that_the_model_cannot_take_is_the_inputs_fault(tmp_path: Path, provider: str) -> None:
    session = opened(tflite_files.one_of_five(tmp_path / "m.tflite"), provider)

    with pytest.raises(InputRefused, match="out of bounds"):
        session.run({"i": np.array([7], np.int32)}, ("y",))
    assert session.run({"i": np.array([3], np.int32)}, ("y",))[0].tolist() == [3.0]


def test_what_a_lane_says_of_an_input_keeps_its_kind(process_rig: Rig, tmp_path: Path) -> None:
    lane = process_rig.lane()
    process_rig.load(
        lane,
        tflite_files.only_one_row(tmp_path / "m.tflite"),
        runtime=Runtime(backend="litert", provider="none"),
    )

    with pytest.raises(InputRefused, match="cannot run with"):
        process_rig.run(lane, {"x": ones(2, 4)})
    assert process_rig.run(lane, {"x": ones(1, 4)}).outputs["y"].tolist() == [2.0] * 4


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_one_call_leaves_in_a_variable_no_other_one_sees(tmp_path: Path, provider: str) -> None:
    session = opened(tflite_files.remembers(tmp_path / "m.tflite"), provider)

    answers = [session.run({"x": ones(1, 2) * times}, ("y",))[0].tolist() for times in (1, 1, 5, 1)]

    assert answers == [[[1.0, 1.0]], [[1.0, 1.0]], [[5.0, 5.0]], [[1.0, 1.0]]]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_complaint_is_told_alone_and_complaints_do_not_pile_up(
    tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litert, "MAX_SAID_CHARACTERS", 500)
    session = opened(tflite_files.only_one_row(tmp_path / "m.tflite"), provider)
    assert isinstance(session, litert.LitertSession)
    told = set()

    for _ in range(20):
        with pytest.raises(InputRefused) as refusal:
            session.run({"x": ones(2, 4)}, ("y",))
        told.add(refusal.value.message)
        assert len(session._said) <= 500

    assert len(told) == 1
    assert session.run({"x": ones(1, 4)}, ("y",))[0].tolist() == [2.0] * 4


@pytest.mark.parametrize("provider", PROVIDERS)
def test_inputs_of_one_name_get_names_of_their_own(tmp_path: Path, provider: str) -> None:
    session = opened(tflite_files.subtracts(tmp_path / "m.tflite"), provider)

    assert [port.name for port in session.inputs] == ["x", "x_1"]
    assert session.run({"x": ones(4) * 5, "x_1": ones(4) * 3}, ("y",))[0].tolist() == [2.0] * 4


def test_a_tensor_that_is_two_inputs_is_refused(tmp_path: Path) -> None:
    tensors = [tflite_files.tensor("x", [4]), tflite_files.tensor("y", [4])]
    path = tflite_files.save(tmp_path / "m.tflite", tensors, [("SUB", [0, 0], [1], {})], [0, 0], [1])

    with pytest.raises(ModelLoadFailed, match="one tensor of the file is two of its inputs"):
        opened(path, "none")


def test_a_file_is_described_with_the_names_it_is_served_with(tmp_path: Path) -> None:
    path = tflite_files.subtracts(tmp_path / "m.tflite")

    assert [spec.name for spec in tflite_graph.read(tflite_graph.load(path)).input_specs] == ["x", "x_1"]


@pytest.mark.parametrize(
    ("names", "made"),
    [
        (["a", "b"], ("a", "b")),
        (["x", "x", "x"], ("x", "x_1", "x_2")),
        (["x", "x", "x_1"], ("x", "x_2", "x_1")),
        (["", ""], ("", "_1")),
    ],
)
def test_a_name_that_is_another_ports_is_given_to_nobody_else(names: list[str], made: tuple[str, ...]) -> None:
    assert distinct(names) == made
