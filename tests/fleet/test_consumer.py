"""The consumer alone: order of commit and acknowledgement, and what happens when there is too much."""

from __future__ import annotations

import json

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


class Pauses:
    """Stands for the event that ends a consumer: notes how long it waited, in which messages trickle in."""

    def __init__(self, clock: FakeClock, arrive) -> None:
        self.clock, self.arrive = clock, arrive
        self.waited_s: list[float] = []

    def is_set(self) -> bool:
        return False

    def wait(self, pause_s: float) -> bool:
        self.waited_s.append(pause_s)
        for _ in range(round(pause_s / 0.005)):
            self.clock.advance(0.005)
            self.arrive()
        return False


def test_a_lone_message_is_stored_at_once_and_those_that_follow_soon_go_together(log):
    clock = FakeClock()
    consumer = Consumer(Sink(log), lambda *_: True, clock, 1000)
    sent = iter(range(0, 1000, 2))
    consumer._stopping = pauses = Pauses(clock, lambda: consumer.on_request(message(log, next(sent))))
    consumer.on_request(message(log, next(sent)))
    assert consumer.round(0.0) == 1
    clock.advance(0.005)
    consumer.on_request(message(log, next(sent)))
    assert consumer.round(0.0) == 1 + round((WAIT_S - 0.005) / 0.005)
    assert pauses.waited_s == [0.0, pytest.approx(WAIT_S - 0.005)]


def test_after_a_batch_that_took_long_the_next_one_does_not_wait(log):
    clock = FakeClock()

    class Slow(Sink):
        def take(self, batch, now_s) -> Stored:
            clock.advance(2 * WAIT_S)
            return super().take(batch, now_s)

    consumer = Consumer(Slow(log), lambda *_: True, clock, 1000)
    consumer._stopping = pauses = Pauses(clock, lambda: None)
    for first in range(0, 2 * (module.BATCH + 1), 2):
        consumer.on_request(message(log, first))
    assert (consumer.round(0.0), consumer.round(0.0)) == (module.BATCH, 1)
    assert pauses.waited_s == [0.0, 0.0]


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
