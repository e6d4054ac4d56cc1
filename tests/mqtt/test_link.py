"""The link against a real mosquitto: birth, last will, outages, take-over, oversize – and nothing lost."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.errors import LinkError
from agent.mqtt.link import Link
from agent.mqtt.publisher import Publisher
from agent.mqtt.topics import Topics
from agent.schema.settings import MqttSettings
from agent.service.clock import SystemClock
from agent.storage.outbox import Outbox
from tests.broker import PATH, Broker
from tests.mqtt.ended import end
from tests.mqtt.payloads import validate

TOPICS = Topics("acme", "b1")


@pytest.fixture
def broker(tmp_path):
    made = Broker(tmp_path)
    yield made
    if made.process.poll() is None:
        made.stop()


class Backend:
    """A consumer that stores by key and acknowledges after it has stored."""

    def __init__(self, port: int, acknowledge: bool = True, name: str = "backend") -> None:
        self.documents: list[dict] = []
        self.rows: dict[tuple, dict] = {}
        self.duplicates = 0
        self.states: list[tuple[dict, bool, float]] = []
        self.acknowledge = acknowledge
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe([("qeil/v1/acme/+/up/#", 1)])
        self.client.on_message = self._message
        self.client.reconnect_delay_set(1, 1)
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600
        self.client.connect("127.0.0.1", port, clean_start=False, properties=session)
        self.client.loop_start()

    def _message(self, client, data, message) -> None:
        document = json.loads(message.payload)
        if message.topic.endswith("/up/state"):
            self.states.append((document, message.retain, time.monotonic()))
            return
        self.documents.append(document)
        for i, row in enumerate(document["rows"]):
            key = (document["boot"], document["cls"], document["seq0"] + i)
            self.duplicates += key in self.rows
            self.rows[key] = row
        if self.acknowledge:
            first, count = document["seq0"], len(document["rows"])
            ack = {"v": 1, "boot": document["boot"], "cls": document["cls"], "rng": [[first, first + count - 1]]}
            client.publish(TOPICS.ack, json.dumps(ack), 0)

    def close(self) -> None:
        end(self.client)


class Board:
    """Outbox, publisher and link as the agent composes them."""

    def __init__(self, folder, port: int, **options) -> None:
        options = {"host": "127.0.0.1", "port": port, "tenant": "acme", "keepalive_s": 5, "resend_s": 3, **options}
        settings = MqttSettings(**options)
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


def make_link(port: int, **options) -> Link:
    settings = MqttSettings(**{"host": "127.0.0.1", "port": port, "tenant": "acme", **options})
    return Link(settings, TOPICS, 1, SystemClock(), dict, lambda *_: None, lambda _: None, lambda: None)


def certificates(folder):
    """An authority, a certificate of localhost from it, and an authority that nobody trusts."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    ca, board, foreign = (folder / name for name in ("ca", "board", "foreign"))
    for made in (ca, foreign):
        subject = ["-x509", "-subj", f"/CN={made.name}", "-keyout", f"{made}.key", "-out", f"{made}.crt"]
        subprocess.run([openssl, "req", *key, *subject], check=True, capture_output=True)
    request = ["-subj", "/CN=localhost", "-keyout", f"{board}.key", "-out", f"{board}.csr"]
    subprocess.run([openssl, "req", *key[:-2], *request], check=True, capture_output=True)
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    signing = ["-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "2"]
    files = ["-in", f"{board}.csr", "-out", f"{board}.crt", "-extfile", str(folder / "names")]
    subprocess.run([openssl, "x509", "-req", *signing, *files], check=True, capture_output=True)
    return ca, board, foreign


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
    assert board.outbox.depth() == 0
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
    changed = until(lambda: [s for s, _, _ in backend.states if "policy" in s])[0]
    assert (changed["online"], changed["conn"]) == (True, 1)
    link.stop()
    backend.close()


@pytest.mark.broker
def test_kills_of_the_broker_while_rows_flow_lose_nothing_and_the_last_birth_is_the_newest(broker, tmp_path):
    backend = Backend(broker.port)
    board = Board(tmp_path, broker.port)
    for kill in range(3):
        until(lambda: board.link.status().connected)
        for i in range(400):
            board.outbox.append("tlm", {"i": kill * 400 + i})
            if i % 40 == 0:
                time.sleep(0.005)
        broker.kill()
        broker.start()
    until(lambda: len(backend.rows) == 1200, 60.0)
    until(lambda: board.outbox.depth() == 0)
    assert sorted(r["i"] for r in backend.rows.values()) == list(range(1200))
    assert sorted(seq for _, _, seq in backend.rows) == list(range(1200))
    late = Backend(broker.port, acknowledge=False, name="late")
    state, retained, _ = until(lambda: late.states)[-1]
    assert retained
    assert (state["online"], state["conn"]) == (True, board.link.status().connections)
    assert board.link.counters["callback_errors"] == 0
    for closing in (board, backend, late):
        closing.close()


@pytest.mark.broker
def test_with_puback_rows_written_during_an_outage_arrive_too(broker, tmp_path):
    backend = Backend(broker.port, acknowledge=False)
    board = Board(tmp_path, broker.port, delete_on="puback")
    until(lambda: board.link.status().connected)
    broker.stop()
    for i in range(300):
        board.outbox.append("tlm", {"i": i})
    time.sleep(1.0)
    broker.start()
    until(lambda: len(backend.rows) == 300, 30.0)
    until(lambda: board.outbox.depth() == 0)
    board.close()
    backend.close()


@pytest.mark.broker
def test_telemetry_on_the_wire_fits_its_schema(broker, tmp_path):
    backend = Backend(broker.port)
    board = Board(tmp_path, broker.port)
    board.outbox.append("evt", {"ts": 1.0, "mono": 1.0, "tq": "ntp", "event": "mode"})
    document = until(lambda: backend.documents)[0]
    validate("evt", document)
    board.close()
    will = until(lambda: [s for s, _, _ in backend.states if not s["online"]])[0]
    validate("state", will)
    backend.close()


@pytest.mark.broker
def test_a_second_client_with_our_id_is_noticed_damped_and_told(broker, tmp_path):
    board = Board(tmp_path, broker.port)
    thieves = []
    for _ in range(4):  # earlier thieves come back by themselves: the storm may be told before the fourth is sent
        until(lambda: board.link.status().connected or board.link.storm)
        if board.link.storm:
            break
        ended = board.link.counters["disconnects"]
        thief = paho.Client(CallbackAPIVersion.VERSION2, client_id=board.link.client_id, protocol=paho.MQTTv5)
        thief.connect("127.0.0.1", broker.port)
        thief.loop_start()
        thieves.append(thief)
        until(lambda ended=ended: board.link.counters["disconnects"] > ended)
    until(lambda: board.link.storm)
    assert "another client may use our client id acme-b1" in board.link.storm
    assert board.link.alive()
    begun_s = time.monotonic()
    board.close()
    assert time.monotonic() - begun_s < 5.0
    for thief in thieves:
        end(thief)


@pytest.mark.broker
def test_user_and_password_are_used_and_a_wrong_one_is_told(tmp_path):
    passwords = tmp_path / "passwords"
    tool = shutil.which("mosquitto_passwd", path=PATH)
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run([tool, "-b", "-c", str(passwords), "b1", "secret"], check=True, capture_output=True)
    made = Broker(tmp_path, f"password_file {passwords}", anonymous=False)
    (tmp_path / "good").write_text("secret\n")
    (tmp_path / "bad").write_text("wrong")
    link = make_link(made.port, username="b1", password_file=tmp_path / "good")
    link.start()
    until(lambda: link.status().connected)
    link.stop()
    link = make_link(made.port, username="b1", password_file=tmp_path / "bad")
    link.start()
    until(lambda: link.status().last_error)
    assert "the broker refused us: Not authorized" in link.status().last_error
    until(lambda: link.counters["attempts"] >= 2)
    assert not link.status().connected
    link.stop()
    made.stop()


@pytest.mark.broker
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho drops a socket whose TLS failed
def test_mutual_tls_connects_and_a_foreign_authority_is_told(tmp_path):
    ca, board, foreign = certificates(tmp_path)
    options = (
        f"cafile {ca}.crt\ncertfile {board}.crt\nkeyfile {board}.key\nrequire_certificate true\n"
        "use_identity_as_username true"
    )
    made = Broker(tmp_path, options, anonymous=False)
    tls = {"ca": f"{ca}.crt", "certificate": f"{board}.crt", "key": f"{board}.key"}
    backend_rows = Board(tmp_path, made.port, host="localhost", tls=tls, delete_on="puback")
    for i in range(200):
        backend_rows.outbox.append("tlm", {"i": i, "x": "y" * 300})
    until(lambda: backend_rows.outbox.counters["acknowledged"] == 200)
    backend_rows.close()
    link = make_link(made.port, host="localhost", tls={**tls, "ca": f"{foreign}.crt"})
    link.start()
    until(lambda: link.status().last_error)
    assert "certificate verify failed" in link.status().last_error
    link.stop()
    made.stop()
    gc.collect()  # what paho dropped warns here and not in a later test


def test_files_that_cannot_be_used_are_one_clear_error(tmp_path):
    with pytest.raises(LinkError, match=r"mqtt\.password_file: .*none"):
        make_link(9, username="b1", password_file=tmp_path / "none")
    (tmp_path / "ca").write_text("no certificate")
    with pytest.raises(LinkError, match=r"mqtt\.tls: "):
        make_link(9, tls={"ca": str(tmp_path / "ca")})


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
    begun_s = time.monotonic()
    link.stop()
    assert time.monotonic() - begun_s < 3.0
    assert not link.alive()


def test_a_name_that_does_not_resolve_is_told():
    link = make_link(9, host="no.such.host.invalid")
    link.start()
    until(lambda: link.status().last_error)
    assert "no.such.host.invalid:9 is unreachable" in link.status().last_error
    link.stop()


def requesting_link(port: int, got: list, acknowledge: bool = True) -> Link:
    def take(inbound):
        got.append(inbound)
        if acknowledge:
            inbound.acknowledge()

    settings = MqttSettings(host="127.0.0.1", port=port, tenant="acme")
    nothing = lambda *_: None  # noqa: E731
    return Link(settings, TOPICS, 1, SystemClock(), dict, nothing, nothing, lambda: None, take)


def publish(port: int, topic: str, payload: bytes, retain: bool = False, **properties) -> None:
    made = Properties(PacketTypes.PUBLISH)
    for key, value in properties.items():
        setattr(made, key, value)
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.publish(topic, payload, 1, retain, made).wait_for_publish(5)
    end(client)


@pytest.mark.broker
def test_a_request_that_was_not_acknowledged_comes_again_with_the_next_connection(broker):
    got: list = []
    link = requesting_link(broker.port, got, acknowledge=False)
    link.start()
    until(lambda: link.connected)
    publish(broker.port, TOPICS.command("plan"), b"once", ResponseTopic="there", CorrelationData=b"x" * 1000)
    first = until(lambda: got)[0]
    assert (first.topic, first.payload, first.response_topic) == (TOPICS.command("plan"), b"once", "there")
    assert first.correlation == b"x" * 256
    link.stop()
    again: list = []
    link = requesting_link(broker.port, again)
    link.start()
    assert until(lambda: again)[0].payload == b"once"
    link.stop()
    third: list = []
    link = requesting_link(broker.port, third)
    link.start()
    publish(broker.port, TOPICS.desired, b"later")
    until(lambda: third)
    assert [inbound.payload for inbound in third] == [b"later"]
    link.stop()


@pytest.mark.broker
def test_the_broker_sends_no_more_requests_than_may_wait(broker):
    got: list = []
    link = requesting_link(broker.port, got, acknowledge=False)
    link.start()
    until(lambda: link.connected)
    for i in range(40):
        publish(broker.port, TOPICS.command("plan"), str(i).encode())
    until(lambda: len(got) >= 16)
    time.sleep(0.3)
    assert len(got) == 16
    for inbound in tuple(got):
        inbound.acknowledge()
    until(lambda: len(got) > 16)
    link.stop()


@pytest.mark.broker
def test_a_retained_command_is_not_heard_and_a_retained_desired_state_is(broker):
    publish(broker.port, TOPICS.command("drain"), b"old", retain=True)
    publish(broker.port, TOPICS.desired, b"wish", retain=True)
    got: list = []
    link = requesting_link(broker.port, got)
    link.start()
    until(lambda: got)
    time.sleep(0.3)
    assert [inbound.payload for inbound in got] == [b"wish"]
    link.stop()


@pytest.mark.broker
def test_responses_find_room_beside_a_backlog_of_telemetry_and_never_exceed_what_the_broker_takes(broker, tmp_path):
    backend = Backend(broker.port)
    board = Board(tmp_path, broker.port, max_inflight=1000)
    until(lambda: board.link.connected)
    heard: list = []
    backend.client.message_callback_add(TOPICS.response("plan"), lambda _c, _d, message: heard.append(message))
    for i in range(2000):
        board.outbox.append("tlm", {"i": i, "x": "y" * 200})
    sent = 0
    end_s = time.monotonic() + 20.0
    while sent < 50 and time.monotonic() < end_s:
        sent += board.link.send(TOPICS.response("plan"), b'{"rows": []}', correlation=b"c")
    assert sent == 50
    until(lambda: len(heard) == 50)
    assert heard[0].properties.CorrelationData == b"c"
    until(lambda: len(backend.rows) == 2000)
    assert board.link.status().connections == 1
    assert not board.link.send("t", b"", retain=True) or board.link.connected
    board.close()
    assert not board.link.send(TOPICS.response("plan"), b"")
    backend.close()
