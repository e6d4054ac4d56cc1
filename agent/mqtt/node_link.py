"""Node link: a connection for bridges – no session, a last will of its own for each attempt, nothing retained.

`Link` is made for boards, whose birth and will are retained on one topic. What other protocols ask of a connection is
less: it is lived through in the caller's thread, one after the other.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion

from agent.mqtt.backoff import Backoff
from agent.mqtt.credentials import Credentials
from agent.mqtt.topics import Subscription
from agent.schema.settings import MqttSettings

TURN_S, GOODBYE_S = 0.5, 2.0
Message = tuple[str, bytes]
_log = structlog.get_logger("mqtt")


class NodeLink:
    """Used by one thread; nothing here raises but for bad credentials (LinkError)."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        subscriptions: Sequence[Subscription],
        will: Callable[[], Message],
        on_connected: Callable[[], Iterable[Message]],
        on_message: Callable[[str, bytes], Iterable[Message]],
    ) -> None:
        """`will` is asked before each attempt; `on_connected`, once the first of the subscriptions is there and before
        the others are asked for, and `on_message` give what is to be published."""
        self._settings = settings
        self._credentials = Credentials(settings)
        self._client_id = client_id
        self._subscriptions = tuple(subscriptions)
        self._will = will
        self._on_connected = on_connected
        self._on_message = on_message
        self._backoff = Backoff(random.Random(secrets.randbits(64)))  # noqa: S311  (jitter, not a secret)
        self._ready = False
        self.counters = {"sessions": 0, "published": 0, "received": 0}

    def run(self, stop: threading.Event) -> None:
        """Connect, and again after every end, until told to stop."""
        while not stop.is_set():
            begun_s = time.monotonic()
            self._ready = False
            self._session(stop)
            if not stop.is_set():
                now_s = time.monotonic()
                good = self._ready
                stop.wait(self._backoff.ended(now_s, now_s - begun_s, False) if good else self._backoff.refused())

    def _session(self, stop: threading.Event) -> None:
        will = self._will()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=self._client_id, protocol=paho.MQTTv5)
        self._credentials.show(client)
        client.will_set(*will, qos=1, retain=False)
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_message = self._message
        try:
            client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s)
            while not stop.is_set() and client.loop(TURN_S) == paho.MQTT_ERR_SUCCESS:
                pass
            if stop.is_set():
                self._goodbye(client, will)
        except (OSError, ValueError) as error:
            _log.warning("no broker", cause=str(error))

    def _goodbye(self, client: paho.Client, will: Message) -> None:
        """Who goes on purpose has no last will: it is said here."""
        said = client.publish(*will, 1)
        end_s = time.monotonic() + GOODBYE_S
        while not said.is_published() and time.monotonic() < end_s and client.loop(0.1) == paho.MQTT_ERR_SUCCESS:
            pass
        client.disconnect()

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            _log.warning("refused by the broker", cause=str(reason))
            return
        client.subscribe([(s.topic, s.qos) for s in self._subscriptions[:1]])

    def _subscribed(self, client: paho.Client, *_: Any) -> None:
        if self._ready:
            return
        self._ready = True
        self.counters["sessions"] += 1
        self._publish(client, self._on_connected())
        client.subscribe([(s.topic, s.qos) for s in self._subscriptions[1:]])

    def _message(self, client: paho.Client, _data: Any, message: Any) -> None:
        self.counters["received"] += 1
        self._publish(client, self._on_message(message.topic, message.payload))

    def _publish(self, client: paho.Client, messages: Iterable[Message]) -> None:
        for topic, payload in messages:
            client.publish(topic, payload, 0, retain=False)
            self.counters["published"] += 1
