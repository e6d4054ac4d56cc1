"""The link against a real mosquitto: birth, last will, outages, take-over, oversize – and nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.mqtt.link import Link
from agent.mqtt.publisher import Publisher
from agent.mqtt.topics import Topics
from agent.schema.settings import MqttSettings
from agent.service.clock import SystemClock
from agent.storage.outbox import Outbox
from tests.broker import Broker

TOPICS = Topics("acme", "b1")


@pytest.fixture
def broker(tmp_path):
    made = Broker(tmp_path)
    yield made
    if made.process.poll() is None:
        made.stop()


class Backend:
    """A consumer that stores by key and acknowledges after it has stored."""

    def __init__(self, port: int, acknowledge: bool = True) -> None:
        self.rows: dict[tuple, dict] = {}
        self.duplicates = 0
        self.states: list[tuple[dict, bool, float]] = []
        self.acknowledge = acknowledge
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="backend", protocol=paho.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe([("qeil/v1/acme/+/up/#", 1)])
        self.client.on_message = self._message
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port, clean_start=False)
        self.client.loop_start()

    def _message(self, client, data, message) -> None:
        document = json.loads(message.payload)
        if message.topic.endswith("/up/state"):
            self.states.append((document, message.retain, time.monotonic()))
            return
        for i, row in enumerate(document["rows"]):
            key = (document["boot"], document["cls"], document["seq0"] + i)
            self.duplicates += key in self.rows
            self.rows[key] = row
        if self.acknowledge:
            first, count = document["seq0"], len(document["rows"])
            ack = {"v": 1, "boot": document["boot"], "cls": document["cls"], "rng": [[first, first + count - 1]]}
            client.publish(TOPICS.ack, json.dumps(ack), 0)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Board:
    """Outbox, publisher and link as the agent composes them."""

    def __init__(self, folder, port: int, **options) -> None:
        settings = MqttSettings(host="127.0.0.1", port=port, tenant="acme", keepalive_s=5, resend_s=3, **options)
        clock = SystemClock()
        self.outbox = Outbox(folder / "outbox.db", 1, 1 << 24, 0.05, clock)
        self.publisher = Publisher(self.outbox, TOPICS, settings, clock)
        self.link = Link(
            settings, TOPICS, 1, clock, lambda: {"agent": "test"}, self.publisher.on_message,
            self.publisher.on_published, self.publisher.on_connected,
        )  # fmt: skip
        self.outbox.start()
        self.link.start()
        self.publisher.start(self.link)

    def close(self) -> None:
        self.publisher.stop()
        self.link.stop()
        self.outbox.stop()


def until(condition, timeout_s: float = 20.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("did not happen in time")


@pytest.mark.broker
def test_birth_is_retained_and_a_stop_says_that_it_was_one(broker, tmp_path):
    board = Board(tmp_path, broker.port)
    until(lambda: board.link.status().connected)
    late = Backend(broker.port)
    birth, retained, _ = until(lambda: late.states)[0]
    assert retained
    assert (birth["online"], birth["boot"], birth["conn"], birth["agent"]) == (True, 1, 1, "test")
    board.close()
    farewell = until(lambda: [s for s, _, _ in late.states if not s["online"]])[0]
    assert farewell["why"] == "stop"
    late.close()


@pytest.mark.broker
def test_the_last_will_of_a_killed_agent_arrives_within_a_second(broker, tmp_path):
    backend = Backend(broker.port)
    script = textwrap.dedent(
        """
        import sys, time
        from agent.mqtt.link import Link
        from agent.mqtt.topics import Topics
        from agent.schema.settings import MqttSettings
        from agent.service.clock import SystemClock
        settings = MqttSettings(host="127.0.0.1", port=int(sys.argv[1]), tenant="acme")
        nothing = lambda *_: None
        link = Link(settings, Topics("acme", "b1"), 7, SystemClock(), dict, nothing, nothing, nothing)
        link.start()
        time.sleep(60)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(broker.port)])
    until(lambda: any(s["online"] for s, _, _ in backend.states))
    killed_s = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    will, _, seen_s = until(lambda: [s for s in backend.states if not s[0]["online"]])[0]
    assert seen_s - killed_s < 1.0
    assert (will["boot"], will["conn"]) == (7, 1)
    backend.close()


@pytest.mark.broker
def test_rows_written_while_the_broker_is_down_arrive_when_it_returns(broker, tmp_path):
    backend = Backend(broker.port)
    board = Board(tmp_path, broker.port)
    until(lambda: board.link.status().connected)
    board.outbox.append("tlm", {"i": 0})
    until(lambda: len(backend.rows) == 1)

    broker.kill()
    until(lambda: not board.link.status().connected)
    for i in range(1, 60):
        board.outbox.append("tlm", {"i": i})
        time.sleep(0.01)
    broker.start()

    until(lambda: len(backend.rows) == 60, 30.0)
    until(lambda: board.outbox.depth() == 0)
    assert sorted(r["i"] for r in backend.rows.values()) == list(range(60))
    assert board.link.status().connections >= 2
    board.close()
    backend.close()


@pytest.mark.broker
def test_without_a_backend_puback_deletes(broker, tmp_path):
    board = Board(tmp_path, broker.port, delete_on="puback")
    for i in range(100):
        board.outbox.append("tlm", {"i": i})
    until(lambda: board.outbox.counters["acknowledged"] == 100)
    board.close()


@pytest.mark.broker
def test_a_row_larger_than_the_broker_takes_does_not_end_the_connection(broker, tmp_path):
    backend = Backend(broker.port)
    board = Board(tmp_path, broker.port)
    until(lambda: board.link.status().connected)
    board.outbox.append("tlm", {"big": "x" * 100_000})
    board.outbox.append("tlm", {"small": 1})
    until(lambda: any("small" in r for r in backend.rows.values()))
    assert board.outbox.counters["dead"] == 1
    assert board.link.status().connections == 1
    board.close()
    backend.close()


@pytest.mark.broker
def test_a_second_client_with_our_id_is_noticed_and_told(broker, tmp_path):
    board = Board(tmp_path, broker.port)
    until(lambda: board.link.status().connected)
    thief = paho.Client(CallbackAPIVersion.VERSION2, client_id="acme-b1", protocol=paho.MQTTv5)
    thief.connect("127.0.0.1", broker.port)
    thief.loop_start()
    until(lambda: board.link.counters["disconnects"] >= 1)
    thief.disconnect()
    thief.loop_stop()
    until(lambda: board.link.status().connected)
    board.close()


@pytest.mark.broker
def test_a_callback_that_raises_ends_nothing(broker, tmp_path):
    clock = SystemClock()
    messages = []

    def bad(*_):
        raise ValueError("bug")

    settings = MqttSettings(host="127.0.0.1", port=broker.port, tenant="acme")
    link = Link(settings, TOPICS, 1, clock, dict, lambda *m: messages.append(m), bad, bad)
    link.start()
    until(lambda: link.status().connected)
    assert link.publish("qeil/v1/acme/b1/up/x", b"{}", 1)
    until(lambda: link.counters["callback_errors"] >= 2)
    assert link.status().loop_alive_s is not None
    publisher = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    publisher.connect("127.0.0.1", broker.port)
    publisher.loop_start()
    publisher.publish(TOPICS.ack, b"hello", 1).wait_for_publish(5)
    until(lambda: messages)
    publisher.disconnect()
    publisher.loop_stop()
    link.stop()


def test_an_unreachable_broker_is_an_error_in_status_and_not_an_exception():
    nothing = threading.Event().set
    settings = MqttSettings(host="127.0.0.1", port=9, tenant="acme")
    link = Link(settings, TOPICS, 1, SystemClock(), dict, lambda *_: None, lambda _: None, nothing)
    assert not link.publish("t", b"", 1)
    link.start()
    until(lambda: link.status().last_error)
    assert "127.0.0.1:9 is unreachable" in link.status().last_error
    link.stop()
