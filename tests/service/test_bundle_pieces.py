"""Bundles that come in pieces over MQTT: in any order, past a power cut, none of a wrong size."""

from __future__ import annotations

import hashlib
import json

import pytest

from agent.mqtt.inbound import Inbound
from tests.mqtt.signed import signed
from tests.service.bundle_world import TOPICS, Board


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path)


def test_pieces_come_in_any_order_are_asked_for_and_survive_a_power_cut(board):
    files = {"models/big.onnx": bytes(range(256)) * 100}
    board.serves("big")
    document = board.document(1, "big", files, url=None, chunk_bytes=1024, policy=None, models=["big"])
    content = (board.folder / "big.tar").read_bytes()
    lost = {"on": True}

    def deliver() -> None:
        fetch = board.bundles._fetch
        if fetch is None or fetch._pieces is None:
            return
        asked = fetch.wanted()["pieces"]
        assert len(asked) <= 16
        for number in reversed(asked):
            payload = content[number * 1024 : (number + 1) * 1024]
            inbound = Inbound(TOPICS.piece(document["sha256"], number), payload, None, None, lambda: None)
            board.bundles.on_piece(*TOPICS.piece_of(inbound.topic), inbound)
            board.bundles.on_piece("0" * 64, number, inbound)
        if lost["on"] and fetch._pieces.share > 0.6:
            raise KeyboardInterrupt

    board.on_time = deliver
    with pytest.raises(KeyboardInterrupt):
        board.send(signed(json.dumps(document)))
    lost["on"] = False
    board.boot().resume()
    assert (board.status, [m.name for m in board.agent.layer.models]) == ("kept", ["big"])
    found = board.agent.layer.models[0].path.read_bytes()
    assert hashlib.sha256(found).digest() == hashlib.sha256(files["models/big.onnx"]).digest()


def test_pieces_of_a_wrong_size_are_not_taken(board):
    document = board.document(1, url=None, chunk_bytes=1024)
    content = (board.folder / "other.tar").read_bytes()
    sent = {"n": 0}

    def deliver() -> None:
        fetch = board.bundles._fetch
        if fetch is None or fetch._pieces is None:
            return
        sent["n"] += 1
        for number in [999, *fetch.wanted()["pieces"]]:
            piece = content[number * 1024 : (number + 1) * 1024] if sent["n"] > 1 else b"short"
            fetch.piece(document["sha256"], number, piece)

    board.on_time = deliver
    board.send(signed(json.dumps(document)))
    assert board.status == "kept"


@pytest.mark.parametrize(
    "topic", ["down/blob/x", "down/blob/x/y", "down/blob/x/-1", "down/des", "down/blob/x/99999999999"]
)
def test_only_numbered_pieces_are_pieces(topic):
    assert TOPICS.piece_of(f"qeil/v1/acme/b1/{topic}") is None
