"""Models of a bundle: kept only where they are served in the end."""

from __future__ import annotations

import pytest

from tests.service.bundle_world import Board


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path)


def test_a_model_that_is_not_served_in_the_end_reverts_the_bundle(board):
    board.serves("n", "unavailable", "no runtime reads it")
    board.offer(1, files={"models/n.onnx": b"junk"}, policy=None, models=["n"])
    assert (board.status, board.bundles.record.code) == ("reverted", "model_not_served")
    assert board.bundles.record.message == "n: no runtime reads it"
    assert board.agent.layer.models == ()


def test_a_model_may_take_its_time_to_load(board):
    board.serves("n", "loading")
    begun_s = board.clock.monotonic_s()
    board.on_time = lambda: board.clock.monotonic_s() - begun_s > 400 and board.serves("n")
    board.offer(1, files={"models/n.onnx": b"x"}, policy=None, models=["n"])
    assert board.status == "kept"
