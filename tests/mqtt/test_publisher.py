"""Delivery without a broker: windows, acknowledgements, refusals and resends on a fake link and a real outbox."""

from __future__ import annotations

import json

import pytest

from agent.mqtt import publisher
from agent.mqtt.in_flight import Publication
from agent.mqtt.publisher import BATCH_ROWS, Publisher, batches, encode
from agent.mqtt.topics import Topics
from agent.ports import OutboxRow
from agent.schema.settings import MqttSettings
from agent.storage.outbox import Outbox
from tests.fakes import FakeClock


class FakeCarrier:
    """Takes what it is given while `up`."""

    def __init__(self) -> None:
        self.up = True
        self.connected = True
        self.max_payload_bytes = 4096
        self.max_inflight = 1000
        self.sent: list[tuple[str, dict, int]] = []

    def publish(self, topic, payload, token):
        if self.up:
            self.sent.append((topic, json.loads(payload), token))
        return self.up


class World:
    def __init__(self, folder, **settings) -> None:
        self.clock = FakeClock()
        self.outbox = Outbox(folder / "o.db", 1, 1 << 22, 1.0, self.clock)
        self.carrier = FakeCarrier()
        options = {"host": "h", "resend_s": 30, **settings}
        self.publisher = Publisher(self.outbox, Topics("acme", "b1"), MqttSettings(**options), self.clock)
        self.publisher._carrier = self.carrier

    def add(self, count, cls="tlm", **payload):
        for i in range(count):
            self.outbox.append(cls, {"i": i, **payload})
        self.outbox.flush()

    def ack(self, **document):
        topic = "qeil/v1/acme/b1/down/ack"
        self.publisher.on_message(topic, json.dumps({"v": 1, "boot": 1, "cls": "tlm", **document}).encode())
        self.publisher.round()
        self.outbox.flush()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.outbox.stop()


def test_consecutive_rows_travel_together_and_events_go_first(world):
    world.add(3)
    world.add(1, "evt")
    world.publisher.round()
    assert [(t, d["cls"], d["seq0"], len(d["rows"])) for t, d, _ in world.carrier.sent] == [
        ("qeil/v1/acme/b1/up/evt/agent", "evt", 0, 1),
        ("qeil/v1/acme/b1/up/tlm/agent", "tlm", 0, 3),
    ]


def test_rows_leave_the_spool_on_the_backends_word_and_not_before(world):
    world.add(5)
    world.publisher.round()
    world.publisher.on_published(Publication(world.carrier.sent[0][2], 0))
    world.publisher.round()
    assert world.outbox.depth() == 5
    world.ack(cum=1, rng=[[3, 3]])
    assert [r.seq for r in world.outbox.recent(10)] == [2, 4]


def test_with_puback_rows_leave_when_the_broker_has_them(tmp_path):
    world = World(tmp_path, delete_on="puback")
    world.add(5)
    world.publisher.round()
    world.publisher.on_published(Publication(world.carrier.sent[0][2], 0))
    world.publisher.round()
    world.outbox.flush()
    assert world.outbox.depth() == 0
    world.outbox.stop()


def test_an_unacknowledged_row_is_sent_again_after_the_resend_time(world):
    world.add(1)
    world.publisher.round()
    world.publisher.on_published(Publication(world.carrier.sent[0][2], 0))
    world.clock.advance(29)
    world.publisher.round()
    assert len(world.carrier.sent) == 1
    world.clock.advance(11)
    world.publisher.round()
    assert len(world.carrier.sent) == 2


def test_where_nobody_acknowledges_resending_slows_down_until_somebody_does(world):
    world.add(1)
    for _ in range(600):
        world.publisher.round()
        for _, _, token in world.carrier.sent:
            world.publisher.on_published(Publication(token, 0))
        world.clock.advance(1)
    assert 3 <= len(world.carrier.sent) <= 6
    assert world.publisher.unacknowledged
    world.ack(cum=0)
    assert not world.publisher.unacknowledged


def test_a_reconnect_sends_everything_again(world):
    world.add(2)
    world.publisher.round()
    world.publisher.on_connected()
    world.publisher.round()
    assert [d["seq0"] for _, d, _ in world.carrier.sent] == [0, 0]


def test_without_a_connection_nothing_is_marked_as_sent(world):
    world.carrier.up = False
    world.add(2)
    world.publisher.round()
    world.carrier.up = True
    world.publisher.round()
    assert len(world.carrier.sent) == 1


def test_a_refusal_keeps_the_rows_waits_and_says_so(world):
    world.add(1)
    world.publisher.round()
    world.publisher.on_published(Publication(world.carrier.sent[0][2], 0x87))
    world.publisher.round()
    assert "0x87" in world.publisher.refused
    assert world.outbox.depth() == 1
    world.clock.advance(50)
    world.publisher.round()
    world.publisher.on_published(Publication(world.carrier.sent[1][2], 0))
    world.publisher.round()
    assert world.publisher.refused is None


def test_nobody_listening_is_counted_and_kept(world):
    world.add(1)
    world.publisher.round()
    world.publisher.on_published(Publication(world.carrier.sent[0][2], 0x10))
    world.publisher.round()
    assert (world.publisher.counters["no_subscriber"], world.outbox.depth()) == (1, 1)


def test_a_lost_connection_frees_the_window(world):
    world.add(1)
    world.publisher.round()
    world.publisher.on_published(Publication(world.carrier.sent[0][2], None))
    world.publisher.round()
    assert world.publisher._in_flight == {}


def test_a_row_larger_than_the_broker_takes_is_buried_and_the_rest_goes_on(world):
    world.add(1)
    world.outbox.append("tlm", {"big": "x" * 5000})
    world.outbox.append("tlm", {"after": 1})
    world.outbox.flush()
    for _ in range(4):
        world.publisher.round()
        for _, _, token in world.carrier.sent:
            world.publisher.on_published(Publication(token, 0))
        world.outbox.flush()
        world.clock.advance(60)
    assert world.outbox.counters["dead"] == 1
    assert "4096" in world.publisher.buried
    assert {row["seq0"] for _, row, _ in world.carrier.sent if row["cls"] == "tlm"} == {0, 2}
    gaps = [row["rows"] for _, row, _ in world.carrier.sent if row["cls"] == "gap"]
    assert gaps[0] == [{"reason": "too_large", "cls": "tlm", "boot": 1, "from": 1, "to": 1}]


def test_rows_in_flight_are_bounded(tmp_path):
    world = World(tmp_path, max_inflight=2)
    world.add(200)
    world.publisher.round()
    assert [len(d["rows"]) for _, d, _ in world.carrier.sent] == [BATCH_ROWS, BATCH_ROWS]
    world.publisher.round()
    assert len(world.carrier.sent) == 2
    world.outbox.stop()


@pytest.mark.parametrize(
    "payload",
    [
        b"{", b"[]", b"{}", b'{"boot":1}', b'{"boot":1,"cls":"tlm","rng":[[1]]}', b"\xff", b"[" * 100_000,
        b'{"boot":1,"cls":"tlm","cum":0.5}', b'{"boot":1,"cls":"tlm","cum":true}',
        b'{"boot":true,"cls":"tlm","cum":9}', b'{"boot":1,"cls":"tlm","rng":[[0,"9"]]}',
    ],
    ids=lambda payload: repr(payload[:40]),
)  # fmt: skip
def test_a_bad_acknowledgement_is_counted_and_deletes_nothing(world, payload):
    world.add(1)
    world.publisher.on_message("qeil/v1/acme/b1/down/ack", payload)
    world.publisher.round()
    assert (world.publisher.counters["bad_acks"], world.outbox.depth()) == (1, 1)


def test_acknowledgements_that_wait_are_bounded(world, monkeypatch):
    monkeypatch.setattr(publisher, "MAX_ACKS", 3)
    for _ in range(5):
        world.publisher.on_message("qeil/v1/acme/b1/down/ack", b'{"boot":1,"cls":"tlm","cum":0}')
    world.publisher.round()
    assert (world.publisher.counters["acks"], world.publisher.counters["acks_dropped"]) == (3, 2)


def test_foreign_topics_are_ignored(world):
    world.publisher.on_message("qeil/v1/acme/other/down/ack", b"{")
    world.publisher.round()
    assert world.publisher.counters["bad_acks"] == 0


def test_batches_break_at_gaps_boots_classes_and_the_limit():
    rows = [OutboxRow(1, "tlm", s, {}) for s in (0, 1, 3)] + [OutboxRow(2, "tlm", 4, {}), OutboxRow(2, "evt", 5, {})]
    assert [[r.seq for r in b] for b in batches(rows)] == [[0, 1], [3], [4], [5]]
    assert [len(b) for b in batches([OutboxRow(1, "tlm", s, {}) for s in range(BATCH_ROWS + 1)])] == [BATCH_ROWS, 1]
    assert json.loads(encode(rows[:2])) == {"v": 1, "boot": 1, "cls": "tlm", "seq0": 0, "rows": [{}, {}]}


def test_the_thread_delivers_by_itself(world):
    world.publisher.start(world.carrier)
    world.add(3)
    for _ in range(100):
        if world.carrier.sent:
            break
        world.outbox.wait_committed(0.02)
    assert world.publisher.alive()
    world.publisher.stop()
    assert world.carrier.sent
    assert not world.publisher.alive()
