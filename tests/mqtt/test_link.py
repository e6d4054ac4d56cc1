"""The link against a real mosquitto: birth, last will, sessions, and what ends nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import threading
from unittest.mock import Mock

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt.link import Link
from agent.schema.settings import MqttSettings
from agent.service.clock import SystemClock
from tests.broker import Broker
from tests.mqtt.ended import end
from tests.mqtt.linked import TOPICS, Backend, Board, make_link
from tests.mqtt.stack import until


@pytest.mark.broker
def test_birth_is_retained_and_a_stop_says_that_it_was_one(broker, tmp_path):
    early = Backend(broker.port, name="early")
    board = Board(tmp_path, broker.port)
    until(lambda: early.states)  # the broker has it, so who comes now finds what was retained
    early.close()
    late = Backend(broker.port)
    birth, retained = until(lambda: late.states)[0]
    assert retained
    assert (birth["online"], birth["boot"], birth["conn"], birth["agent"]) == (True, 1, 1, "test")
    board.close()
    farewell = until(lambda: [s for s, _ in late.states if not s["online"]])[0]
    assert farewell["why"] == "stop"
    late.close()


@pytest.mark.broker
def test_a_broker_that_takes_small_messages_only_hears_a_bare_birth_and_ends_no_connection(tmp_path, monkeypatch):
    log = Mock()
    monkeypatch.setattr("agent.mqtt.link._log", log)
    broker = Broker(tmp_path)
    broker.stop()
    broker.config.write_text(broker.config.read_text().replace("max_packet_size 65536", "max_packet_size 600"))
    broker.start()
    backend = Backend(broker.port)
    settings = MqttSettings(host="127.0.0.1", port=broker.port, tenant="acme")
    birth = lambda: {"agent": "x" * 2000}  # noqa: E731
    link = Link(settings, TOPICS, 1, SystemClock(), birth, lambda *_: None, lambda _: None, lambda: None)
    link.start()
    state, _ = until(lambda: backend.states)[0]
    assert (state["online"], "agent" in state) == (True, False)
    ((told,), sizes) = log.warning.call_args
    assert (told, sizes["broker_takes"]) == ("birth without details", 600 - 512)
    assert not link.send(TOPICS.reported, b"x" * 2000)
    assert until(lambda: link.send(TOPICS.reported, b'{"boot": 1, "cls": "tlm", "seq0": 0, "rows": []}'))
    until(lambda: backend.documents)
    assert (link.status().connections, link.counters["disconnects"]) == (1, 0)
    link.stop()
    backend.close()
    broker.stop()


@pytest.mark.broker
def test_the_last_will_of_a_killed_agent_arrives_without_waiting_for_a_keepalive(broker, tmp_path):
    backend = Backend(broker.port)
    script = textwrap.dedent(
        """
        import sys, time
        from agent.mqtt.link import Link
        from agent.mqtt.topics import Topics
        from agent.schema.settings import MqttSettings
        from agent.service.clock import SystemClock
        settings = MqttSettings(host="127.0.0.1", port=int(sys.argv[1]), tenant="acme", keepalive_s=3600)
        nothing = lambda *_: None
        link = Link(settings, Topics("acme", "b1"), 7, SystemClock(), dict, nothing, nothing, nothing)
        link.start()
        time.sleep(600)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(broker.port)])
    try:
        until(lambda: any(s["online"] for s, _ in backend.states))
    finally:
        process.kill()
        process.wait()
    will = until(lambda: [s for s, _ in backend.states if not s["online"]])[0]
    assert (will["boot"], will["conn"]) == (7, 1)
    backend.close()


@pytest.mark.broker
def test_the_session_outlives_the_agent_and_what_waits_in_it_arrives(broker):
    def visit(act):
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="acme-b1", protocol=paho.MQTTv5)
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600
        present = []
        client.on_connect = lambda c, d, flags, *_: (act(c), present.append(flags.session_present))
        acted = threading.Event()
        client.on_subscribe = lambda *_: acted.set()
        client.connect("127.0.0.1", broker.port, clean_start=False, properties=session)
        client.loop_start()
        until(lambda: present)
        until(lambda: acted.is_set() or present[0])
        end(client)
        return present[0]

    assert not visit(lambda c: c.subscribe("qeil/v1/acme/b1/down/later", 1))
    other = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    other.connect("127.0.0.1", broker.port)
    other.loop_start()
    other.publish("qeil/v1/acme/b1/down/later", b"kept", 1).wait_for_publish(5)
    end(other)
    link, messages = make_link(broker.port), []
    link._on_message = lambda *message: messages.append(message)
    link.start()
    assert until(lambda: messages) == [("qeil/v1/acme/b1/down/later", b"kept")]
    link.stop()
    assert visit(lambda c: None)


@pytest.mark.broker
def test_the_brokers_receive_maximum_is_kept_and_dead_peers_are_noticed(broker):
    link = make_link(broker.port, max_inflight=1000)
    link.start()
    until(lambda: link.status().connected)
    assert link.max_inflight == 16
    connection = link._current[0].socket()
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500
    link.stop()


@pytest.mark.broker
def test_a_changed_state_is_retained_under_the_same_connection(broker):
    backend = Backend(broker.port)
    link = make_link(broker.port)
    link.start()
    until(lambda: backend.states)
    link._birth = lambda: {"policy": {"name": "new", "sha256": "d"}}
    link.publish_birth()
    changed = until(lambda: [s for s, _ in backend.states if "policy" in s])[0]
    assert (changed["online"], changed["conn"]) == (True, 1)
    link.stop()
    backend.close()


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
    end(publisher)
    link.stop()


def test_an_unreachable_broker_is_an_error_in_status_and_not_an_exception():
    link = make_link(9)
    assert not link.publish("t", b"", 1)
    assert not link.alive()
    link.publish_birth()
    link.start()
    until(lambda: link.status().last_error)
    assert "127.0.0.1:9 is unreachable" in link.status().last_error
    assert link.alive()
    link.stop()
    until(lambda: not link._thread.is_alive())
    assert not link.alive()


def test_a_name_that_does_not_resolve_is_told():
    link = make_link(9, host="no.such.host.invalid")
    link.start()
    until(lambda: link.status().last_error)
    assert "no.such.host.invalid:9 is unreachable" in link.status().last_error
    link.stop()
