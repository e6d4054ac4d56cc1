"""Boards for tests of the controller: the agent's own outbox, publisher and link, and a bundle that ends as told."""

from __future__ import annotations

import json
import time

from agent.mqtt.topics import Topics
from agent.schema.settings import MqttSettings
from tests.mqtt.stack import Stack

STAMP = {"ts": 1.0, "mono": 1.0, "tq": "ntp"}


class Board(Stack):
    """Commands end as `ok`; a bundle's end is what `bundle_end(offer)` gives."""

    def __init__(self, folder, port: int, name: str, boot: int = 1, bundle_end=None) -> None:
        settings = MqttSettings.model_validate({"host": "127.0.0.1", "port": port, "tenant": "acme", "resend_s": 1.0})
        self.name, self.boot = name, boot
        self.topics = Topics("acme", name)
        self.requests: list[tuple[str, bytes]] = []
        self.bundle_end = bundle_end or (lambda offer: {"status": "kept", "figures": {}})
        super().__init__(folder / f"{name}.db", settings, self.topics, boot, self._birth, self._request)

    def _birth(self) -> dict:
        policy = {"name": "balanced", "sha256": "d"}
        return {**STAMP, "agent": "1.2.3", "profile": "testboard", "policy": policy, "cond": []}

    def _request(self, inbound) -> None:
        self.requests.append((inbound.topic, inbound.payload))
        inbound.acknowledge()
        if not inbound.payload:
            return
        document = json.loads(json.loads(inbound.payload)["doc"])
        if document["kind"] == "command":
            fields = {"id": document["id"], "command": document["command"], "status": "ok", "attempts": 1}
            self.tell(self.topics.response(document["command"]), **fields)
            self.outbox.append("evt", {**STAMP, "event": "command", **fields})
        elif document["kind"] == "desired":
            report = {"des_ver": document["ver"], "status": "applied"}
            self.tell(self.topics.reported, True, in_force_ver=document["ver"], **report)
        else:
            end = self.bundle_end(document)
            if end is not None:
                self.tell(self.topics.bundle_state, True, ver=document["ver"], in_force_ver=None, **end)

    def tell(self, topic: str, retain: bool = False, **fields) -> None:
        payload = json.dumps({"v": 1, "boot": self.boot, **STAMP, **fields}).encode()
        for _ in range(100):
            if self.link.send(topic, payload, retain):
                return
            time.sleep(0.01)

    def window(self, energy_j: float = 1.0, requests: int = 10) -> None:
        model = {"state": "ready", "requests": requests, "failed": 0, "energy_j": energy_j, "provenance": "measured"}
        lane = {"state": "ready", "restarts": 0, "temperature_c": {"last": 51.5}}
        self.outbox.append("tlm", {**STAMP, "mode": "ready", "models": {"m": model}, "accelerators": {"npu": lane}})

    def left(self) -> int:
        """Rows that nobody has acknowledged."""
        return sum(len(self.outbox.rows_after(cls, None, 1000)) for cls in ("evt", "gap", "tlm"))
