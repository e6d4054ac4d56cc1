"""Model files: what is no regular file or far too long is refused before anybody reads it."""

from __future__ import annotations

import os

import pytest

from agent.errors import ModelLoadFailed
from agent.service.serving import artifacts


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
