"""Backend of the fleet benchmark: stores rows by key and acknowledges them after its commit, and only then."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import defaultdict
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

BATCH, BATCH_S = 500, 0.05


class Backend:
    """One consumer in one thread."""

    def __init__(self, folder: Path, port: int, certificates: Path) -> None:
        self._db = sqlite3.connect(folder / "backend.db")
        self._db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
            "CREATE TABLE IF NOT EXISTS rows (board TEXT, boot INTEGER, cls TEXT, seq INTEGER, received INTEGER,"
            " PRIMARY KEY (board, boot, cls, seq)) WITHOUT ROWID;"
        )
        self._waiting: list[tuple[paho.MQTTMessage, str, dict]] = []
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="fleet-backend", protocol=paho.MQTTv5, manual_ack=True
        )
        self.client.tls_set(str(certificates / "ca.crt"), str(certificates / "fleet-backend.crt"),
                            str(certificates / "fleet-backend.key"))  # fmt: skip
        self.client.on_connect = lambda client, *_: client.subscribe("qeil/v1/+/+/up/#", 1)
        self.client.on_message = self._message
        self._session = Properties(PacketTypes.CONNECT)
        self._session.SessionExpiryInterval = 3600
        self._session.ReceiveMaximum = 2000
        self._port = port

    def _message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        _, _, _, board, _, part = message.topic.split("/", 5)
        document = json.loads(message.payload) if part != "state" else {}
        self._waiting.append((message, board, document))

    def serve(self) -> None:
        """For ever; reconnects by itself."""
        while True:
            try:
                self.client.connect("localhost", self._port, 60, clean_start=False, properties=self._session)
            except OSError:
                time.sleep(0.2)
                continue
            self._waiting.clear()
            commit_s = time.monotonic()
            while self.client.loop(0.02) == paho.MQTT_ERR_SUCCESS:
                if len(self._waiting) >= BATCH or time.monotonic() - commit_s >= BATCH_S:
                    self._commit()
                    commit_s = time.monotonic()

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        rows = [
            (board, document["boot"], document["cls"], document["seq0"] + i)
            for _, board, document in waiting
            for i in range(len(document.get("rows", ())))
        ]
        with self._db:
            self._db.executemany(
                "INSERT INTO rows VALUES (?, ?, ?, ?, 1)"
                " ON CONFLICT (board, boot, cls, seq) DO UPDATE SET received = received + 1",
                rows,
            )
        acks: dict[tuple[str, int, str], list[list[int]]] = defaultdict(list)
        for message, board, document in waiting:
            self.client.ack(message.mid, message.qos)
            if "rows" in document:
                first = document["seq0"]
                acks[board, document["boot"], document["cls"]].append([first, first + len(document["rows"]) - 1])
        for (board, boot, cls), ranges in acks.items():
            ack = json.dumps({"v": 1, "boot": boot, "cls": cls, "rng": ranges})
            self.client.publish(f"qeil/v1/acme/{board}/down/ack", ack, 0)


def serve(folder: str, port: int, certificates: str) -> None:
    """A process's life."""
    Backend(Path(folder), port, Path(certificates)).serve()
