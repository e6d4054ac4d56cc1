"""The consumer alone: order of commit and acknowledgement, and what happens when there is too much."""

from __future__ import annotations

import json
import queue

import pytest

from agent.errors import StorageError
from agent.fleet import consumer as module
from agent.fleet.consumer import WAIT_S, Consumer
from agent.fleet.messages import Rows
from agent.fleet.store import Stored
from agent.mqtt.inbound import Inbound
from tests.fakes import FakeClock


class Sink:
    """A database that can fail, and what happened in which order."""

    def __init__(self, log: list) -> None:
        self.log = log
        self.failures = 0

    def take(self, batch, now_s) -> Stored:
        if self.failures:
            self.failures -= 1
            raise StorageError("gone")
        self.log.append(("commit", len(batch)))
        rows = sum(len(m.payloads) for m in batch if isinstance(m, Rows))
        return Stored(rows, 0)


@pytest.fixture
def log():
    return []


def made(log, sink=None, receive_maximum=10, sends=True) -> Consumer:
    def send(topic, payload) -> bool:
        log.append(("ack", json.loads(payload)["rng"]))
        return sends

    return Consumer(sink or Sink(log), send, FakeClock(), receive_maximum)


def message(log, first: int, payload: bytes | None = None) -> Inbound:
    document = {"v": 1, "boot": 1, "cls": "tlm", "seq0": first, "rows": [{}, {}]}
    content = json.dumps(document).encode() if payload is None else payload
    return Inbound("qeil/v1/acme/b1/up/tlm/agent", content, None, None, lambda: log.append(("puback", first)))


def test_first_the_commit_then_the_broker_then_the_board_as_ranges(log):
    consumer = made(log)
    for first in (0, 2, 8):
        consumer.on_request(message(log, first))
    assert consumer.round(0.0) == 3
    assert log == [("commit", 3), ("puback", 0), ("puback", 2), ("puback", 8), ("ack", [[0, 3], [8, 9]])]


def test_nothing_is_acknowledged_while_the_database_is_gone(log, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    sink = Sink(log)
    sink.failures = 3
    consumer = made(log, sink)
    consumer.on_request(message(log, 0))
    consumer.round(0.0)
    assert log[0] == ("commit", 1)
    assert (consumer.counters["storage_errors"], consumer.failing) == (3, None)


def test_a_stop_while_the_database_is_gone_acknowledges_nothing(log):
    sink = Sink(log)
    sink.failures = 10**6
    consumer = made(log, sink)
    consumer.on_request(message(log, 0))
    consumer._stopping.set()
    assert consumer.round(0.0) == 0
    assert log == []


def test_what_is_malformed_is_acknowledged_to_the_broker_alone(log):
    consumer = made(log)
    consumer.on_request(message(log, 0, b"{"))
    consumer.round(0.0)
    assert log == [("puback", 0)]
    assert consumer.refused == {("acme/b1", "malformed"): 1}


def test_acknowledgements_that_the_link_does_not_take_go_with_a_later_batch_as_one(log):
    consumer = made(log, sends=False)
    consumer.on_request(message(log, 0))
    consumer.round(0.0)
    consumer.on_request(message(log, 2))
    consumer.round(0.0)
    assert [entry for entry in log if entry[0] == "ack"] == [("ack", [[0, 1]]), ("ack", [[0, 3]])]


def test_a_broker_that_sends_more_than_it_may_is_held_back_and_then_not_obeyed(log, monkeypatch):
    monkeypatch.setattr(module, "HOLD_BACK_S", 0.001)
    consumer = made(log, receive_maximum=2)
    for first in range(0, 12, 2):
        consumer.on_request(message(log, first))
    assert consumer.counters["dropped"] == 2
    consumer.round(0.0)
    assert len([entry for entry in log if entry[0] == "puback"]) == 4


def test_a_batch_does_not_wait_for_messages_that_keep_trickling_in(log):
    clock = FakeClock()

    class Trickle:
        """A message comes five milliseconds after somebody begins to wait, and none is there before."""

        def get(self, timeout: float) -> Inbound:
            clock.advance(min(0.005, timeout))
            if timeout < 0.005:
                raise queue.Empty
            return message(log, round(clock.now_s * 1000))

    consumer = Consumer(Sink(log), lambda *_: True, clock, 1000)
    consumer._inbox = Trickle()
    assert 2 <= consumer.round(0.01) <= 1 + WAIT_S / 0.005


def test_what_the_database_can_never_hold_is_refused_alone(store, log):
    clock = FakeClock()
    consumer = Consumer(store, lambda *_: True, clock, 1000)
    bad = b'{"v":1,"status":"ok","id":"a\\u0000"}', b'{"v":1,"status":"ok","id":"\\ud800"}'
    sent = [message(log, 2 * n) for n in range(5)]
    sent[2:2] = [Inbound("qeil/v1/acme/bad/up/res/plan", text, None, None, lambda: None) for text in bad]
    for inbound in sent:
        consumer.on_request(inbound)
    assert consumer.round(0.0) == 7
    unstorable = {("acme/bad", "unstorable"): 1} if store.engine.dialect.name == "postgresql" else {}
    assert consumer.refused == {("acme/bad", "malformed"): 1, **unstorable}
    assert consumer.counters["refused"] == 1 + len(unstorable)
    assert consumer.counters["rows"] == 10
    assert len([entry for entry in log if entry[0] == "puback"]) == 5
