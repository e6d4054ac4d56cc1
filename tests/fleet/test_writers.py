"""Several consumers that look like one."""

from __future__ import annotations

import pytest

from agent.fleet.consumer import Consumer
from agent.fleet.store import Stored
from agent.fleet.writers import Writers
from agent.mqtt.inbound import Inbound
from tests.fakes import FakeClock

ROW = b'{"v":1,"boot":1,"cls":"tlm","seq0":%d,"rows":[{}]}'


class Sink:
    def __init__(self) -> None:
        self.taken: list = []

    def take(self, batch, now_s):
        self.taken += batch
        return Stored(len(batch), 0)


@pytest.fixture
def world():
    sinks = [Sink(), Sink(), Sink()]
    return sinks, Writers([Consumer(sink, lambda *_: True, FakeClock(), 100) for sink in sinks])


def say(writers, board: str, number: int, payload: bytes | None = None) -> None:
    topic = f"qeil/v1/acme/{board}/up/tlm/agent"
    writers.on_request(Inbound(topic, ROW % number if payload is None else payload, None, None, lambda: None))


def test_a_board_always_has_the_same_writer_and_its_messages_stay_in_order(world):
    sinks, writers = world
    for number in range(5):
        for board in range(20):
            say(writers, f"b{board}", number)
    for consumer in writers.consumers:
        consumer.round(0.0)
    boards = [{message.board for message in sink.taken} for sink in sinks]
    assert sum(len(found) for found in boards) == 20
    assert all(boards)
    for sink in sinks:
        for board in {message.board for message in sink.taken}:
            assert [m.first for m in sink.taken if m.board == board] == [0, 1, 2, 3, 4]


def test_counters_and_refusals_are_those_of_all(world):
    _, writers = world
    for board in range(20):
        say(writers, f"b{board}", 0)
        say(writers, f"b{board}", 0, b"nonsense")
    for consumer in writers.consumers:
        consumer.round(0.0)
    assert writers.counters["rows"] == 20
    assert writers.counters["refused"] == 20
    assert sum(writers.refused.values()) == 20


def test_one_that_fails_or_ended_is_told(world):
    _, writers = world
    assert not writers.alive()
    writers.start()
    assert writers.alive()
    assert writers.failing is None
    writers.consumers[1].failing = "disk full"
    assert writers.failing == "disk full"
    writers.stop()
    assert not writers.alive()
