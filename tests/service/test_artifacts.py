"""Model files: what is no regular file, far too long, or without its weights is refused before a runtime reads it."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.errors import ModelLoadFailed
from agent.schema.guard import ModelGuard
from agent.service.serving import artifacts
from agent.service.serving.artifacts import check_guard, open_artifact
from agent.workload.read_ahead import ReadAhead
from tests.workload.test_read_ahead import saved


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelLoadFailed, match="no regular file"):
        artifacts.open_artifact(tmp_path / "pipe.onnx")


def test_a_device_behind_a_link_is_refused(tmp_path):
    (tmp_path / "zero.tflite").symlink_to("/dev/zero")
    with pytest.raises(ModelLoadFailed, match="no regular file"):
        artifacts.open_artifact(tmp_path / "zero.tflite")


def test_a_file_longer_than_any_graph_is_refused_unread(tmp_path):
    with (tmp_path / "long.onnx").open("wb") as stream:
        stream.truncate(artifacts.MAX_MODEL_BYTES + 1)
    with pytest.raises(ModelLoadFailed, match="external data"):
        artifacts.open_artifact(tmp_path / "long.onnx")


def beside(folder, name):
    path = folder / "m.onnx"
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path, save_as_external_data=True, location=name, size_threshold=0)
    return path


@pytest.mark.parametrize("cached", [True, False])
def test_weights_that_are_gone_or_cut_off_beside_the_file_are_told_in_one_line_until_they_are_back(tmp_path, cached):
    path = beside(tmp_path, "w.bin")
    weights, cache = tmp_path / "w.bin", tmp_path / "cache" if cached else None
    whole = weights.read_bytes()
    assert check_guard(open_artifact(path), ModelGuard(), cache) == ()
    weights.write_bytes(whole[:-1])
    with pytest.raises(
        ModelLoadFailed, match=r"its weights take 16384 bytes of 'w\.bin', which has 16383; copy it again"
    ):
        check_guard(open_artifact(path), ModelGuard(), cache)
    weights.unlink()
    with pytest.raises(ModelLoadFailed, match=r"'w\.bin': No such file or directory; put that file beside it"):
        check_guard(open_artifact(path), ModelGuard(), cache)
    weights.write_bytes(whole)
    assert check_guard(open_artifact(path), ModelGuard(), cache) == ()


def test_what_was_read_ahead_lies_where_planning_looks_for_it(tmp_path, monkeypatch):
    good, bad = saved(tmp_path / "m.onnx"), tmp_path / "bad.onnx"
    bad.write_bytes(b"\x08")
    ahead = ReadAhead([good, bad], tmp_path / "cache")

    artifacts.keep_ahead([tmp_path / "missing.onnx", bad, good], tmp_path / "cache", ahead)

    monkeypatch.setattr(artifacts, "examine_in_child", None)
    monkeypatch.setattr(artifacts, "inspect_in_child", None)
    artifact = open_artifact(good)
    artifacts.read_once(artifact, tmp_path / "cache", None)
    assert artifacts.workload_of(artifact, "m", tmp_path / "cache").digest == artifact.digest
    with pytest.raises(TypeError):  # nothing was kept of the other one: it is read again, by the function taken away
        artifacts.read_once(open_artifact(bad), tmp_path / "cache", None)
