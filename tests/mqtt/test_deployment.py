"""The shipped broker configuration, tested by delivery: what counts is what arrives, not what the broker grants."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.mqtt.link import Link
from agent.mqtt.topics import Topics
from agent.schema.settings import MqttSettings
from agent.service.clock import SystemClock
from tests.broker import Broker
from tests.mqtt.ended import end

pytestmark = pytest.mark.broker

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "mosquitto"
B1, B2 = Topics("acme", "b1"), Topics("acme", "b2")


class Deployment(Broker):
    """The files as shipped, with only paths and port of this test."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self.certificates = folder / "qeil"
        self.make("authority")
        self.make("broker", "localhost", "127.0.0.1")
        for name in ("acme/b1", "acme/b2", "fleet-backend", "home-assistant"):
            self.make("client", name)
        shutil.copy(DEPLOY / "qeil.acl", self.certificates)
        super().__init__(folder)

    def make(self, *arguments: str) -> None:
        command = [str(DEPLOY / "make-certificates"), str(self.certificates), *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def start(self) -> None:
        text = (DEPLOY / "qeil.conf").read_text()
        text = text.replace("/etc/mosquitto/qeil", str(self.certificates))
        assert "listener 8883\n" in text
        text = text.replace("listener 8883\n", f"listener {self.port} 127.0.0.1\n")
        self.config.write_text(f"user root\npersistence_location {self.folder}/\n{text}")
        super().start()

    def tls(self, name: str) -> dict[str, str]:
        base = self.certificates / name
        return {"ca": str(self.certificates / "ca.crt"), "certificate": f"{base}.crt", "key": f"{base}.key"}


class Peer:
    """A client with somebody's certificate that may try anything."""

    def __init__(self, deployment: Deployment, certificate: str, client_id: str, will: str | None = None) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.reasons: list[int] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
        files = deployment.tls(certificate)
        self.client.tls_set(files["ca"], files["certificate"], files["key"])
        self.client.on_message = lambda _c, _d, message: self.got.append((message.topic, message.payload))
        self.client.on_publish = lambda _c, _d, _m, reason, _p: self.reasons.append(reason.value)
        if will is not None:
            self.client.will_set(will, b"spoofed will", 1, True)
        self.client.connect("localhost", deployment.port, clean_start=True)
        self.client.loop_start()
        until(self.client.is_connected)

    def subscribe(self, *topics: str) -> None:
        answered: list[int] = []
        self.client.on_subscribe = lambda *_: answered.append(1)
        for topic in topics:
            count = len(answered)
            self.client.subscribe(topic, 1)
            until(lambda count=count: len(answered) > count)

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> int:
        """The broker's reason code."""
        count = len(self.reasons)
        self.client.publish(topic, payload, 1, retain)
        until(lambda: len(self.reasons) > count)
        return self.reasons[-1]

    def vanish(self) -> None:
        """As a crash: the broker sends the will."""
        self.client.loop_stop()
        self.client._reset_sockets()

    def close(self) -> None:
        end(self.client)


def until(condition, timeout_s=60.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    made = Deployment(tmp_path_factory.mktemp("deployment"))
    yield made
    made.stop()


@pytest.fixture
def world(deployment):
    """The backend, board b1 as the agent connects it, and a rogue that holds the certificate of board b2."""
    backend = Peer(deployment, "fleet-backend", "anything")
    backend.subscribe("qeil/v1/+/+/up/#")
    heard: list[tuple[str, bytes]] = []
    settings = MqttSettings(host="localhost", port=deployment.port, tenant="acme", tls=deployment.tls("acme.b1"))
    link = Link(
        settings, B1, 1, SystemClock(), dict, lambda *m: heard.append(m), lambda _: None, lambda: None,
        lambda inbound: (heard.append((inbound.topic, inbound.payload)), inbound.acknowledge()),
    )  # fmt: skip
    link.start()
    until(lambda: link.connected)
    rogue = Peer(deployment, "acme.b2", "rogue")
    yield backend, link, heard, rogue
    rogue.close()
    link.stop()
    backend.close()


def settled(backend: Peer, link: Link) -> None:
    """Everything sent before has been delivered: the broker keeps the order."""
    marker = f"marker {time.monotonic_ns()}".encode()
    link.publish(B1.rows("evt"), marker, 1)
    until(lambda: any(payload == marker for _, payload in backend.got))


def test_a_board_says_and_hears_what_is_its_own(world):
    backend, link, heard, _ = world
    until(lambda: any(t == B1.state and json.loads(p).get("online") for t, p in backend.got if t == B1.state))
    link.publish(B1.rows("tlm"), b"{}", 1)
    until(lambda: (B1.rows("tlm"), b"{}") in backend.got)
    for topic in (B1.ack, B1.command("plan"), B1.desired):
        assert backend.publish(topic, b"for b1") == 0
        until(lambda topic=topic: (topic, b"for b1") in heard)


def test_a_board_cannot_speak_as_another(deployment, world):
    backend, link, _, rogue = world
    for topic in (B1.rows("tlm"), B1.state, B1.response("x"), B1.reported, "qeil/v1/acme/b3/up/state"):
        assert rogue.publish(topic, b"spoofed", retain=True) == 135
    settled(backend, link)
    assert not any(payload == b"spoofed" for _, payload in backend.got)
    late = Peer(deployment, "fleet-backend", "late")
    late.subscribe("qeil/v1/+/+/up/#")
    until(lambda: any(t == B1.state for t, _ in late.got))
    assert not any(payload == b"spoofed" for _, payload in late.got)
    late.close()


def test_a_board_cannot_command_another_or_itself(world):
    backend, link, heard, rogue = world
    for topic in (B1.command("drain"), B1.desired, B1.ack, B2.command("drain"), B2.desired):
        assert rogue.publish(topic, b"spoofed", retain=True) == 135
    backend.publish(B1.command("plan"), b"marker")
    until(lambda: (B1.command("plan"), b"marker") in heard)
    assert not any(payload == b"spoofed" for _, payload in heard)
    assert link.connected


def test_a_board_hears_nothing_of_others_whatever_it_subscribes_to(world):
    backend, link, heard, rogue = world
    rogue.subscribe("#", "qeil/#", "qeil/v1/acme/+/down/#", B1.commands, B1.desired, B1.state, "+/+/+/+/up/#", "$SYS/#")
    backend.publish(B1.command("plan"), b"secret")
    backend.publish(B1.desired, b"secret", retain=True)
    until(lambda: (B1.desired, b"secret") in heard)
    link.publish(B1.rows("tlm"), b"secret", 1)
    settled(backend, link)
    backend.publish(B2.command("plan"), b"for b2")
    until(lambda: (B2.command("plan"), b"for b2") in rogue.got)
    assert {topic for topic, _ in rogue.got} == {B2.command("plan")}
    backend.publish(B1.desired, b"", retain=True)


def test_home_assistant_hears_boards_and_their_own_announcements_and_commands_none(deployment, world):
    backend, link, heard, rogue = world
    home = Peer(deployment, "home-assistant", "ha")
    home.subscribe("homeassistant/#", B1.state, B1.rows("tlm"))
    assert rogue.publish("homeassistant/device/acme/b1/config", b"spoofed", retain=True) == 135
    assert rogue.publish("homeassistant/device/acme/b2/config", b"own") == 0
    link.publish("homeassistant/device/acme/b1/config", b"mine", 1)
    until(lambda: ("homeassistant/device/acme/b1/config", b"mine") in home.got)
    assert (b"spoofed") not in [payload for _, payload in home.got]
    assert home.publish(B1.command("drain"), b"spoofed") == 135
    assert home.publish(B1.state, b"spoofed") == 135
    backend.publish(B1.command("plan"), b"after")
    until(lambda: (B1.command("plan"), b"after") in heard)
    assert b"spoofed" not in [payload for _, payload in heard]
    home.close()


@pytest.mark.parametrize("client_id", ["acme/b1", "acme-b1", "fleet-backend"])
def test_a_foreign_client_id_takes_over_nobody(deployment, world, client_id):
    backend, link, _, _ = world
    impostor = Peer(deployment, "acme.b2", client_id)
    time.sleep(0.3)
    settled(backend, link)
    assert link.status().connections == 1
    assert backend.client.is_connected()
    impostor.close()


def test_a_last_will_cannot_speak_as_another(deployment, world):
    backend, link, _, rogue = world
    rogue.close()  # it has the same certificate, and so the same client id
    dying = Peer(deployment, "acme.b2", "dying", will=B1.state)
    dying.vanish()
    time.sleep(0.5)
    settled(backend, link)
    assert not any(payload == b"spoofed will" for _, payload in backend.got)


def test_without_a_certificate_of_our_authority_nobody_gets_in(deployment, tmp_path):
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.tls_set(deployment.tls("acme.b1")["ca"])
    connected: list[int] = []
    client.on_connect = lambda *_: connected.append(1)
    try:
        client.connect("localhost", deployment.port)
        for _ in range(20):
            client.loop(0.05)
    except OSError:
        pass
    client._reset_sockets()
    assert connected == []


@pytest.mark.parametrize("name", ["acme/b1/x", "acme/#", "+", "Acme/B1", "/b1", "acme/"])
def test_a_name_that_would_reach_further_gets_no_certificate(deployment, name):
    command = [str(DEPLOY / "make-certificates"), str(deployment.certificates), "client", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected TENANT/BOARD" in done.stderr
