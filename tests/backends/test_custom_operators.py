"""Operators from a library of somebody's code, compiled here: they run, and a crash in them costs one lane."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from agent.backends import onnx as backend
from agent.backends.artifact import LoadOrder
from agent.errors import LaneDied, ModelLoadFailed
from agent.schema.device import Runtime
from tests.backends.conftest import PATIENCE_S, Rig

SOURCE = Path(__file__).with_name("custom_op.c")
GOOD, BAD = np.float32([[1, 2, 3, 4]]), np.float32([[2000, 2, 3, 4]])


def compiled(folder: Path, *flags: str) -> str:
    """Path of the library."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = folder / f"libcopy{''.join(flags)}.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", *flags, "-o", str(library), str(SOURCE)], check=True)
    return str(library)


def copy_model(path: Path) -> Path:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Copy", ["x"], ["y"], domain="qeil.test")], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("qeil.test", 1)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def runtime(library: str) -> Runtime:
    return Runtime(backend="onnx", provider="CPUExecutionProvider", options={"custom_operators": library})


def test_a_model_runs_with_the_operators_of_its_library_and_not_without(tmp_path, process_rig: Rig):
    lane, path = process_rig.lane(), copy_model(tmp_path / "m.onnx")
    process_rig.load(lane, path, runtime=runtime(compiled(tmp_path)))
    assert np.array_equal(process_rig.run(lane, {"x": BAD}).outputs["y"], BAD)
    with pytest.raises(ModelLoadFailed, match="Copy"):
        backend.open_session(LoadOrder("m", str(path), "onnx", "CPUExecutionProvider"))


def test_an_operator_that_crashes_costs_its_lane_and_is_quoted(tmp_path, process_rig: Rig):
    lane, other = process_rig.lane(), process_rig.lane()
    path = copy_model(tmp_path / "m.onnx")
    process_rig.load(lane, path, runtime=runtime(compiled(tmp_path, "-DCRASH")))
    process_rig.load(other, path, runtime=runtime(compiled(tmp_path)))
    assert np.array_equal(process_rig.run(lane, {"x": GOOD}).outputs["y"], GOOD)

    with pytest.raises(LaneDied, match="SIGSEGV; last words: test operator: no page behind bank 7"):
        process_rig.submit(lane, {"x": BAD}).result(PATIENCE_S)

    assert not lane.alive()
    assert np.array_equal(process_rig.run(other, {"x": BAD}).outputs["y"], BAD)


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "there is no operator library"), (b"no library", "is no operator library")]
)
def test_what_is_no_library_is_refused_by_its_key_or_name(tmp_path, content, sentence):
    library = tmp_path / "lib.so"
    if content is not None:
        library.write_bytes(content)
    options = {"custom_operators": str(library)}
    order = LoadOrder("m", str(copy_model(tmp_path / "m.onnx")), "onnx", "CPUExecutionProvider", options=options)
    with pytest.raises(ModelLoadFailed, match=sentence):
        backend.open_session(order)
