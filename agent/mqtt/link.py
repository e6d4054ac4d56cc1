"""Link: the broker connection. The only file that knows paho; its callbacks never raise and only enqueue.

MQTT 5, one stable client id, retained birth and last will on the state topic, own jittered back-off. paho's thread can
die silently, so `loop_alive_s` proves that it runs.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.errors import LinkError
from agent.mqtt.topics import Topics
from agent.ports import Clock, LinkStatus
from agent.schema.settings import MqttSettings

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 60.0
TAKEOVER_WINDOW_S, TAKEOVERS, TAKEOVER_PAUSE_S = 60.0, 3, 300.0
MAX_PAYLOAD_BYTES = 256 * 1024
_SESSION_TAKEN_OVER = 0x8E
_USER_TIMEOUT_MS = 1500

_log = structlog.get_logger("mqtt")


@dataclass(frozen=True)
class Publication:
    """Outcome of one publish: the broker's reason code, or None where the connection was lost first."""

    token: int
    reason_code: int | None


class Link:
    """Connects in paho's own thread; every method returns at once and may be called from any thread."""

    def __init__(
        self,
        settings: MqttSettings,
        topics: Topics,
        boot: int,
        clock: Clock,
        birth: Callable[[], dict[str, Any]],
        on_message: Callable[[str, bytes], None],
        on_published: Callable[[Publication], None],
        on_connected: Callable[[], None],
    ) -> None:
        """`birth()` gives the fields of the retained state message beside online, boot and conn."""
        self._settings = settings
        self._topics = topics
        self._boot = boot
        self._clock = clock
        self._birth = birth
        self._on_message = on_message
        self._on_published = on_published
        self._on_connected = on_connected
        self._lock = threading.Lock()
        self._tokens: dict[int, int] = {}
        self._connected = False
        self._since_s: float | None = None
        self._connections = 0
        self._last_error: str | None = None
        self._takeovers: list[float] = []
        self._backoff_s = BACKOFF_FIRST_S
        self._max_packet = MAX_PAYLOAD_BYTES
        self._alive_s: float | None = None
        self._stopping = False
        self.counters = {"published": 0, "callback_errors": 0, "takeovers": 0, "disconnects": 0}
        self._client = self._make_client()

    def _make_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"{self._topics.tenant}-{self._topics.board}",
            protocol=paho.MQTTv5, reconnect_on_failure=True,
        )  # fmt: skip
        client.max_inflight_messages_set(self._settings.max_inflight)
        client.max_queued_messages_set(self._settings.max_inflight * 2)
        client.on_connect = self._fenced(self._connect_done)
        client.on_disconnect = self._fenced(self._disconnected)
        client.on_connect_fail = self._fenced(self._connect_failed)
        client.on_publish = self._fenced(self._published)
        client.on_message = self._fenced(self._message)
        client.on_socket_open = self._fenced(self._socket_open)
        if self._settings.username is not None:
            client.username_pw_set(self._settings.username, self._password())
        if self._settings.tls is not None:
            tls = self._settings.tls
            try:
                certificate = str(tls.certificate) if tls.certificate else None
                client.tls_set(str(tls.ca), certificate, str(tls.key) if tls.key else None)
            except (OSError, ssl.SSLError) as error:
                raise LinkError(f"mqtt.tls: {error}") from error
        self._redraw(client)
        return client

    def _password(self) -> str | None:
        if self._settings.password_file is None:
            return None
        try:
            return self._settings.password_file.read_text().strip()
        except OSError as error:
            raise LinkError(f"mqtt.password_file: {error.filename}: {error.strerror}") from error

    def _fenced(self, callback: Callable[..., None]) -> Callable[..., None]:
        """paho's thread ends for good on an exception in a callback; ours are counted and logged instead."""

        def safe(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except Exception as error:  # noqa: BLE001  (thread root of a foreign thread)
                self.counters["callback_errors"] += 1
                _log.exception("mqtt callback failed", cause=str(error))

        return safe

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Connect in the background and keep trying."""
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._settings.session_expiry_s
        self._set_will()
        self._client.connect_async(
            self._settings.host, self._settings.port, self._settings.keepalive_s, clean_start=False,
            properties=properties,
        )  # fmt: skip
        self._client.loop_start()

    def _set_will(self) -> None:
        """The will of the coming connection carries the number that its birth will carry."""
        properties = _properties(PacketTypes.WILLMESSAGE)
        properties.WillDelayInterval = self._settings.will_delay_s
        self._client.will_set(self._topics.state, self._state(False, self._connections + 1), 1, True, properties)

    def _state(self, online: bool, connection: int, **fields: Any) -> bytes:
        document = {"v": 1, "online": online, "boot": self._boot, "conn": connection, **fields}
        return json.dumps(document, separators=(",", ":")).encode()

    def stop(self) -> None:
        """Say that this was on purpose, then disconnect."""
        self._stopping = True
        if self._connected:
            info = self._client.publish(self._topics.state, self._state(False, self._connections, why="stop"), 1, True)
            with contextlib.suppress(RuntimeError, ValueError):
                info.wait_for_publish(2.0)
        self._client.disconnect()
        self._client.loop_stop()

    # ------------------------------------------------------------------ use

    def publish(self, topic: str, payload: bytes, token: int) -> bool:
        """Hand over one QoS 1 message; False while there is no connection. The outcome arrives as a Publication."""
        with self._lock:
            if not self._connected:
                return False
            info = self._client.publish(topic, payload, 1)
            if info.rc != paho.MQTT_ERR_SUCCESS:
                return False
            self._tokens[info.mid] = token
        self.counters["published"] += 1
        return True

    def publish_birth(self) -> None:
        """Renew the retained state, for example after a policy change."""
        if self._connected:
            self._client.publish(self._topics.state, self._state(True, self._connections, **self._birth()), 1, True)

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload the broker takes, less room for the header."""
        return min(MAX_PAYLOAD_BYTES, self._max_packet - 512)

    def status(self) -> LinkStatus:
        """As shown in status and telemetry."""
        thread = getattr(self._client, "_thread", None)
        running = thread is not None and thread.is_alive()
        alive_s = self._clock.monotonic_s() if running else None
        return LinkStatus(
            self._connected, self._since_s, self._connections, self._last_error, alive_s, dict(self.counters)
        )

    # ------------------------------------------------------------------ paho's thread

    def _socket_open(self, _client: paho.Client, _data: Any, sock: Any) -> None:
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)

    def _connect_done(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._last_error = f"the broker refused us: {reason}"
            self._redraw(client)
            return
        self._max_packet = (
            getattr(properties, "MaximumPacketSize", MAX_PAYLOAD_BYTES) if properties else MAX_PAYLOAD_BYTES
        )
        client.subscribe(self._topics.ack, 0)
        with self._lock:
            self._connected = True
            self._connections += 1
            self._tokens.clear()
        self._since_s = self._clock.monotonic_s()
        self._backoff_s = BACKOFF_FIRST_S
        self._last_error = None
        client.publish(self._topics.state, self._state(True, self._connections, **self._birth()), 1, True)
        self._set_will()
        _log.info("connected", broker=f"{self._settings.host}:{self._settings.port}", connection=self._connections)
        self._on_connected()

    def _disconnected(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        with self._lock:
            was, self._connected = self._connected, False
            lost, self._tokens = list(self._tokens.values()), {}
        self._since_s = None
        if not self._stopping:
            self._last_error = f"connection lost: {reason}"
            if was:
                self.counters["disconnects"] += 1
                _log.warning("disconnected", cause=str(reason))
        if getattr(reason, "value", 0) == _SESSION_TAKEN_OVER:
            self._taken_over()
        self._redraw(client)
        for token in lost:
            self._on_published(Publication(token, None))

    def _connect_failed(self, client: paho.Client, _data: Any) -> None:
        if self._last_error is None or "unreachable" not in self._last_error:
            _log.warning("broker unreachable", broker=f"{self._settings.host}:{self._settings.port}")
        self._last_error = f"{self._settings.host}:{self._settings.port} is unreachable"
        self._redraw(client)

    def _taken_over(self) -> None:
        """Somebody else uses our client id; fighting over it would take both down."""
        now_s = self._clock.monotonic_s()
        self.counters["takeovers"] += 1
        self._takeovers = [t for t in self._takeovers if now_s - t < TAKEOVER_WINDOW_S] + [now_s]
        self._last_error = "another client uses our client id"
        if len(self._takeovers) > TAKEOVERS:
            self._backoff_s = TAKEOVER_PAUSE_S

    def _redraw(self, client: paho.Client) -> None:
        """paho's back-off has no jitter: give it a fixed delay that is drawn anew each time."""
        delay_s = max(1, round(self._backoff_s * random.uniform(0.5, 1.5)))  # noqa: S311  (jitter, not a secret)
        client.reconnect_delay_set(delay_s, delay_s)
        if self._backoff_s < BACKOFF_MAX_S:
            self._backoff_s = min(BACKOFF_MAX_S, self._backoff_s * 2)

    def _published(self, _client: paho.Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        with self._lock:
            token = self._tokens.pop(mid, None)
        if token is not None:
            self._on_published(Publication(token, int(getattr(reason, "value", 0))))

    def _message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._on_message(message.topic, bytes(message.payload))


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call]  # paho has no annotations here
