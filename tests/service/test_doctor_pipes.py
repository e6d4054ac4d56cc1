"""A named pipe where a file should be is told of; doctor never waits for somebody to write into it."""

import os

import pytest

from agent.service.doctor.certificates import expires_at_s
from agent.service.doctor.doctor_models import inside


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "m.onnx"
    os.mkfifo(path)
    return path


def test_a_model_that_is_a_pipe_is_no_regular_file(pipe):
    assert inside(pipe) == f"{pipe} is no regular file"


def test_a_certificate_that_is_a_pipe_is_no_regular_file(pipe):
    with pytest.raises(ValueError, match="no regular file"):
        expires_at_s(pipe)
