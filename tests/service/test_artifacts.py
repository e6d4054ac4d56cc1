"""Model files: what is no regular file or far too long is refused before anybody reads it."""

from __future__ import annotations

import os

import pytest

from agent.errors import ModelLoadFailed
from agent.service.serving import artifacts
from agent.service.serving.artifacts import open_artifact
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
