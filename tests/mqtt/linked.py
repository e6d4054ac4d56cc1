"""A board and a backend over a real mosquitto, as tests of the link compose them."""

from __future__ import annotations

import json
import shutil
import subprocess

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt.link import Link
from agent.mqtt.topics import Topics
from agent.schema.settings import MqttSettings
from agent.service.clock import SystemClock
from tests.mqtt.ended import end
from tests.mqtt.stack import Stack

TOPICS = Topics("acme", "b1")


class Backend:
    """A consumer that stores by key and acknowledges after it has stored."""

    def __init__(self, port: int, acknowledge: bool = True, name: str = "backend") -> None:
        self.documents: list[dict] = []
        self.rows: dict[tuple, dict] = {}
        self.duplicates = 0
        self.states: list[tuple[dict, bool]] = []
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
            self.states.append((document, message.retain))
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


class Board(Stack):
    """The board of TOPICS."""

    def __init__(self, folder, port: int, **options) -> None:
        options = {"host": "127.0.0.1", "port": port, "tenant": "acme", "keepalive_s": 5, "resend_s": 3, **options}
        super().__init__(folder / "outbox.db", MqttSettings(**options), TOPICS, 1, lambda: {"agent": "test"})

    def close(self) -> None:
        self.stop()


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


def requesting_link(port: int, got: list, acknowledge: bool = True) -> Link:
    def take(inbound):
        if acknowledge:
            inbound.acknowledge()  # first: who sees it in `got` may stop the link at once
        got.append(inbound)

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
