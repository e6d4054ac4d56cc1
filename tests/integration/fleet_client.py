"""The fleet's end of the line in tests: stores rows by key and acknowledges them, sends commands, hears responses."""

from __future__ import annotations

import json
import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.mqtt.ended import end
from tests.mqtt.payloads import validate
from tests.mqtt.signed import command_text, signed

BASE = "qeil/v1/acme/b1"


class FleetClient:
    """Connects at once; keeps everything it hears."""

    def __init__(self, port: int, name: str = "fleet") -> None:
        self.port = port
        self.rows: dict[tuple, dict] = {}
        self.duplicates = 0
        self.responses: list[tuple[str, dict, bytes | None]] = []
        self.reported: list[dict] = []
        self.errors: list[Exception] = []
        self.lock = threading.Lock()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        self.subscribed = threading.Event()
        self.client.on_connect = lambda client, *_: client.subscribe(f"{BASE}/up/#", 1)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self._message
        self.client.reconnect_delay_set(1, 1)
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600
        self.client.connect("127.0.0.1", port, clean_start=False, properties=session)
        self.client.loop_start()
        assert self.subscribed.wait(60)

    def _message(self, client, data, message) -> None:
        document = json.loads(message.payload)
        try:
            self._take(client, message, document)
        except Exception as error:  # paho's thread would end without a word
            self.errors.append(error)
            raise

    def _take(self, client, message, document) -> None:
        part = message.topic.removeprefix(f"{BASE}/up/")
        with self.lock:
            if part.startswith("res/"):
                correlation = getattr(message.properties, "CorrelationData", None)
                validate("res", document)
                self.responses.append((part.removeprefix("res/"), document, correlation))
            elif part == "rep":
                validate("rep", document)
                self.reported.append(document)
            elif "rows" in document:
                validate(document["cls"], document)
                self._store(client, document)

    def _store(self, client, document) -> None:
        for i, row in enumerate(document["rows"]):
            key = (document["boot"], document["cls"], document["seq0"] + i)
            self.duplicates += key in self.rows
            self.rows[key] = row
        first, count = document["seq0"], len(document["rows"])
        ack = {"v": 1, "boot": document["boot"], "cls": document["cls"], "rng": [[first, first + count - 1]]}
        client.publish(f"{BASE}/down/ack", json.dumps(ack), 0)

    def publish(self, topic: str, payload: bytes, retain: bool = False, **properties) -> None:
        made = Properties(PacketTypes.PUBLISH)
        for key, value in properties.items():
            setattr(made, key, value)
        for _ in range(3000):
            if self.client.is_connected():
                break
            time.sleep(0.02)
        self.client.publish(f"{BASE}/down/{topic}", payload, 1, retain, made).wait_for_publish(60)

    def retained(self, topic: str, timeout_s: float = 60.0) -> dict:
        """What a newcomer finds there."""
        found: list[bytes] = []
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.on_connect = lambda c, *_: c.subscribe(topic)
        client.on_message = lambda _c, _d, message: found.append(message.payload)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        end_s = time.monotonic() + timeout_s
        while not found and time.monotonic() < end_s:
            time.sleep(0.02)
        end(client)
        return json.loads(found[0])

    def command(self, name: str, args: dict | None = None, **fields) -> str:
        """Sign and send; the id."""
        text = command_text(name, args=args or {}, **fields)
        self.publish(f"cmd/{name}", signed(text))
        return json.loads(text)["id"]

    def of(self, command_id: str) -> list[dict]:
        with self.lock:
            return [d for _, d, _ in self.responses if d["id"] == command_id]

    def final(self, command_id: str, timeout_s: float = 180.0) -> dict:
        """The response with the command's final state."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for document in self.of(command_id):
                if document["status"] in {"ok", "failed", "rejected", "expired"}:
                    return document
            time.sleep(0.02)
        raise AssertionError(f"no final state of {command_id}: {self.of(command_id)}")

    def run(self, name: str, args: dict | None = None, **fields) -> dict:
        return self.final(self.command(name, args, **fields))

    def close(self) -> None:
        assert self.errors == []
        end(self.client)
