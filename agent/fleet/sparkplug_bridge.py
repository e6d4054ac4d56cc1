"""Sparkplug bridge: a tenant's telemetry from the broker back to it as Sparkplug B; a start needs no earlier state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from agent.errors import BadInput
from agent.fleet.messages import MessageRefused, Rows, Told, parse
from agent.fleet.sparkplug import EdgeNode, Message
from agent.mqtt.node_link import NodeLink
from agent.mqtt.topics import ROOT, Subscription
from agent.schema.settings import MqttSettings


class SparkplugBridge:
    """`run` belongs to one thread. Boards' retained births come first with every connection, so nothing is kept."""

    def __init__(
        self, mqtt: MqttSettings, client_id: str, tenant: str, group: str, node: str, wall_s: Callable[[], float]
    ) -> None:
        """BadInput for names that Sparkplug does not take; LinkError for credentials, when it runs."""
        for name in (group, node):
            if not name or any(sign in name for sign in "/+#") or not name.isprintable():
                raise BadInput(f"{name!r} is no name for Sparkplug: neither empty nor with /, + or #")
        self.node = EdgeNode(group, node)
        self.refused = 0
        self._wall_s = wall_s
        base = f"{ROOT}/{tenant}/+/up"
        listened = [Subscription(self.node.command_topic, 1)]
        listened += [Subscription(f"{base}/state", 1), Subscription(f"{base}/tlm/agent", 0)]
        self.link = NodeLink(mqtt, client_id, listened, self._will, self._birth, self._heard)

    def run(self, stop: threading.Event) -> None:
        """Until told to stop; a broker that is away is waited for."""
        self.link.run(stop)

    def _now_ms(self) -> int:
        return int(1000 * self._wall_s())

    def _will(self) -> Message:
        return self.node.will(self._now_ms())

    def _birth(self) -> Iterable[Message]:
        return self.node.birth(self._now_ms())

    def _heard(self, topic: str, payload: bytes) -> Iterable[Message]:
        if topic == self.node.command_topic:
            return self.node.asked(payload, self._now_ms())
        try:
            message = parse(topic, payload)
        except MessageRefused:
            self.refused += 1
            return ()
        if isinstance(message, Told):
            return self.node.told(message, self._now_ms())
        return self.node.rows(message, self._now_ms()) if isinstance(message, Rows) else ()
