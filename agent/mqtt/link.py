"""Link: the broker connection. The only file that knows paho; its callbacks never raise and only enqueue.

MQTT 5, one stable client id, retained birth and last will on the state topic. Every connection has a paho client of its
own: nothing that an old connection left over (an old birth, half-sent batches) can come back after the new birth. The
thread, the waiting and the back-off are ours; `alive` proves that it runs.
"""

from __future__ import annotations

import json
import random
import secrets
import threading
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.errors import LinkError
from agent.mqtt.backoff import STABLE_S, Backoff
from agent.mqtt.credentials import Credentials
from agent.mqtt.in_flight import InFlight, Publication
from agent.mqtt.inbound import MAX_CORRELATION_BYTES, Inbound
from agent.mqtt.plain_messages import PlainReads
from agent.mqtt.poll_loop import BufferedReads, JoinedWrites, Wake, detect_dead_peers, turn
from agent.mqtt.topics import LinkTopics
from agent.ports import Clock, LinkStatus
from agent.schema.settings import MqttSettings

MAX_PAYLOAD_BYTES, MAX_INBOUND_BYTES = 256 * 1024, 512 * 1024
TURN_S, GOODBYE_S, _HEADER_BYTES = 0.5, 2.0, 512
SERVING_STALL_S, CONNECTING_STALL_S = 30.0, 180.0
"""Longer without a sign of life is a hang; name resolution alone may take a minute or two."""
_SESSION_TAKEN_OVER, _KEEP_RETAINED_AWAY = 0x8E, 2
SPARE_MESSAGES = 4
"""Room beside telemetry for the birth, reported state and responses."""

_log = structlog.get_logger("mqtt")


class _Client(PlainReads, BufferedReads, JoinedWrites, paho.Client):
    """paho's, with fewer system calls and less work for each message."""


class Link:
    """Connects in its own thread; every method but `stop` returns at once and may be called from any thread."""

    def __init__(
        self,
        settings: MqttSettings,
        topics: LinkTopics,
        boot: int,
        clock: Clock,
        birth: Callable[[], dict[str, Any]],
        on_message: Callable[[str, bytes], None],
        on_published: Callable[[Publication], None],
        on_connected: Callable[[], None],
        on_request: Callable[[Inbound], None] | None = None,
    ) -> None:
        """`birth()` gives the fields of the retained state message beside online, boot and conn.

        `on_request` gets commands and desired states and acknowledges them; without it they are not subscribed to.
        LinkError if the TLS files or the password file cannot be used.
        """
        self._settings = settings
        self._credentials = Credentials(settings)
        self._topics = topics
        self._boot = boot
        self._clock = clock
        self._birth = birth
        self._on_message = on_message
        self._on_published = on_published
        self._on_connected = on_connected
        self._on_request = on_request
        self.client_id = topics.client_id
        self.storm: str | None = None
        """Set while sessions end one after the other as soon as they begin."""
        self.counters = {"published": 0, "callback_errors": 0, "takeovers": 0, "disconnects": 0, "attempts": 0}
        self._connected = False
        self._since_s: float | None = None
        self._connections = 0
        self._last_error: str | None = None
        self._before = 0
        self._taken_over = self._renewing = False
        self._max_packet_bytes = MAX_PAYLOAD_BYTES
        self._receive_maximum = settings.max_inflight
        self._alive_s = clock.monotonic_s()
        self._backoff = Backoff(random.Random(secrets.randbits(64)))  # noqa: S311  (jitter, not a secret)
        self._stop = threading.Event()
        self._current = (self._make_client(), InFlight())
        self._wake = Wake()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def _make_client(self) -> paho.Client:
        client = _Client(CallbackAPIVersion.VERSION2, client_id=self.client_id, protocol=paho.MQTTv5, manual_ack=True)
        client.max_inflight_messages_set(self._settings.max_inflight + SPARE_MESSAGES)
        client.max_queued_messages_set(self._settings.max_inflight + 2 * SPARE_MESSAGES)
        client.on_connect = self._fenced(self._connect_done)
        client.on_disconnect = self._fenced(self._disconnected)
        client.on_publish = self._fenced(self._published)
        client.on_message = self._fenced(self._message)
        client.on_socket_open = self._fenced(lambda _client, _data, connection: detect_dead_peers(connection))
        client.on_socket_register_write = self._fenced(lambda *_: self._wake.ring())
        client.on_socket_unregister_write = self._fenced(lambda *_: None)
        self._credentials.show(client)
        properties = _properties(PacketTypes.WILLMESSAGE, WillDelayInterval=self._settings.will_delay_s)
        client.will_set(self._topics.state, self._state(False, self._connections + 1), 1, True, properties)
        return client

    def _fenced(self, callback: Callable[..., object]) -> Callable[..., None]:
        """A paho thread ends for good on an exception in a callback; ours are counted and logged instead."""

        def safe(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except Exception as error:  # noqa: BLE001  (root of what a foreign library calls)
                self.counters["callback_errors"] += 1
                _log.exception("mqtt callback failed", cause=str(error))

        return safe

    def _state(self, online: bool, connection: int, **fields: Any) -> bytes:
        document = {"v": 1, "online": online, "boot": self._boot, "conn": connection, **fields}
        return json.dumps(document, separators=(",", ":")).encode()

    # ------------------------------------------------------------------ any thread

    def start(self) -> None:
        """Connect in the background and keep trying."""
        self._thread.start()

    def stop(self) -> None:
        """Say that this was on purpose, then disconnect. Takes at most a few seconds."""
        self._stop.set()
        self._wake.ring()
        if self._thread.is_alive():
            self._thread.join(GOODBYE_S + 3.0)
        elif self._thread.ident is None:  # turned by a loop of many
            self._goodbye(self._current[0])
        if not self._thread.is_alive():
            self._wake.close()

    def publish(self, topic: str, payload: bytes, token: int) -> bool:
        """Hand over one QoS 1 message; False while there is no connection. The outcome arrives as a Publication."""
        if not self._connected or self._stop.is_set():
            return False
        self.counters["published"] += (taken := self._hand_over(topic, payload, token).rc == paho.MQTT_ERR_SUCCESS)
        return taken

    def send(
        self, topic: str, payload: bytes, retain: bool = False, correlation: bytes | None = None,
        expires_s: int | None = None,
    ) -> bool:  # fmt: skip
        """Hand over one QoS 1 message that nobody waits for and that a broker forgets after `expires_s`; False without
        a connection or room, or if it is too large."""
        room = min(self._settings.max_inflight + SPARE_MESSAGES, self._receive_maximum) - self._current[1].count()
        if not self._connected or self._stop.is_set() or room <= 0 or len(payload) > self.max_payload_bytes:
            return False
        properties = None  # making some costs more than all else of a message
        if correlation is not None or expires_s is not None:
            properties = _properties(PacketTypes.PUBLISH, CorrelationData=correlation, MessageExpiryInterval=expires_s)
        return self._hand_over(topic, payload, None, retain, properties).rc == paho.MQTT_ERR_SUCCESS

    def _hand_over(
        self, topic: str, payload: bytes, token: int | None, retain: bool = False, properties: Properties | None = None
    ) -> paho.MQTTMessageInfo:
        """Rows have a token; what nobody waits for has none."""
        client, in_flight = self._current
        info = client.publish(topic, payload, 1, retain, properties)
        if info.rc == paho.MQTT_ERR_SUCCESS and (early := in_flight.handed_over(info.mid, token)) is not None:
            self._on_published(early)
        return info

    def publish_birth(self) -> None:
        """Renew the retained state, for example after a policy change."""
        if self._connected and not self._stop.is_set():
            self._announce()

    def _announce(self) -> None:
        """The birth; without its details for a broker that ends connections over messages of that size."""
        state = self._state(True, self._connections, **self._birth())
        if len(state) > self.max_payload_bytes:
            _log.warning("birth without details", bytes=len(state), broker_takes=self.max_payload_bytes)
            state = self._state(True, self._connections)
        self._hand_over(self._topics.state, state, None, True)

    def renew(self) -> None:
        """Connect anew: brokers send what was not acknowledged only with the next connection."""
        self._renewing = self._connected
        self._wake.ring()

    @property
    def connected(self) -> bool:
        """Whether a message would be taken."""
        return self._connected

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload for the broker."""
        return min(MAX_PAYLOAD_BYTES, self._max_packet_bytes - _HEADER_BYTES)

    @property
    def max_inflight(self) -> int:
        """Rows' messages that broker (ReceiveMaximum) and settings let wait for their acknowledgement."""
        return max(1, min(self._settings.max_inflight, self._receive_maximum - SPARE_MESSAGES))

    def alive(self) -> bool:
        """Whether the thread runs and makes progress."""
        limit_s = SERVING_STALL_S if self._connected else CONNECTING_STALL_S
        return self._thread.is_alive() and self._clock.monotonic_s() - self._alive_s < limit_s

    def status(self) -> LinkStatus:
        """As shown in status and telemetry; `loop_alive_s` is the last sign of life."""
        alive_s = self._alive_s if self._thread.is_alive() else None
        facts = (self._connected, self._since_s, self._connections, self._last_error, alive_s)
        return LinkStatus(*facts, dict(self.counters))

    # ------------------------------------------------------------------ own thread

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                delay_s = self._session()
                until_s = self._clock.monotonic_s() + delay_s
                while not self._stop.is_set() and (left_s := until_s - self._clock.monotonic_s()) > 0:
                    self._alive_s = self._clock.monotonic_s()
                    self._stop.wait(min(1.0, left_s))
        except Exception:  # noqa: BLE001  (thread root: alive() turns false and the watchdog is not fed)
            _log.exception("mqtt died")

    def _session(self) -> float:
        """One connection from attempt to end; seconds to wait before the next."""
        refused_s = self.begin()
        if refused_s is not None:
            return refused_s
        while self.step(TURN_S) and not self._stop.is_set():
            pass
        if self._stop.is_set():
            self._goodbye(self._current[0])
            return 0.0
        return self.ended()

    def begin(self) -> float | None:
        """For a loop of many links, which calls this, `step` and `ended` instead of `start`: try to connect.

        None where that is under way, else seconds to wait before the next attempt.
        """
        self._alive_s = self._clock.monotonic_s()
        self.counters["attempts"] += 1
        self._before = self._connections
        try:
            client = self._make_client()
            self._current = (client, InFlight())
            self._connect(client)
        except (OSError, ValueError, LinkError) as error:
            self._unreachable(error)
            return self._backoff.refused()
        return None

    def step(self, timeout_s: float) -> bool:
        """Wait for work at most this long and do it; False when the connection is gone."""
        if self._renewing:
            self._leave(self._current[0], "connecting anew")
            return False
        if not turn(self._current[0], self._wake, timeout_s):
            return False
        self._alive_s = self._clock.monotonic_s()
        if self._connected and self._alive_s - (self._since_s or self._alive_s) >= STABLE_S:
            self.storm = None
        return True

    def fileno(self) -> int:
        """The connection's descriptor, -1 without one."""
        connection = self._current[0].socket()
        return -1 if connection is None else int(connection.fileno())

    def ended(self) -> float:
        """The connection is gone; seconds to wait before the next attempt."""
        return self._after(self._before)

    def _connect(self, client: paho.Client) -> None:
        to = self._settings
        properties = _properties(
            PacketTypes.CONNECT, SessionExpiryInterval=to.session_expiry_s,
            ReceiveMaximum=self._topics.receive_maximum, MaximumPacketSize=MAX_INBOUND_BYTES,
        )  # fmt: skip
        client.connect(to.host, to.port, to.keepalive_s, clean_start=False, properties=properties)

    def _unreachable(self, error: Exception) -> None:
        where = f"{self._settings.host}:{self._settings.port} is unreachable"
        cause = error.message if isinstance(error, LinkError) else f"{where}: {error}"
        if self._last_error != cause:
            _log.warning("no connection to the broker", cause=cause)
        self._last_error = cause

    def _after(self, connections_before: int) -> float:
        now_s = self._clock.monotonic_s()
        self._lost("connection lost")
        renewed, self._renewing, lived_s = self._renewing, False, now_s - (self._since_s or now_s)
        if self._connections == connections_before:
            return self._backoff.refused()
        self._since_s = None
        if renewed:
            return 0.0
        storms = self._backoff.storms
        delay_s = self._backoff.ended(now_s, lived_s, self._taken_over)
        if self._backoff.storms > storms:
            other = f"another client may use our client id {self.client_id}"
            self.storm = f"connections end within seconds ({self._last_error}); {other}"
            _log.warning("connection storm", cause=self.storm, pause_s=round(delay_s))
        return delay_s

    def _goodbye(self, client: paho.Client) -> None:
        """Replace the will by a farewell and disconnect in order."""
        if self._connected:
            farewell = self._state(False, self._connections, why="stop")
            info = self._hand_over(self._topics.state, farewell, None, True)
            until_s = self._clock.monotonic_s() + GOODBYE_S
            while info.rc == paho.MQTT_ERR_SUCCESS and not info.is_published() and self._clock.monotonic_s() < until_s:
                if not turn(client, self._wake, 0.1):
                    break
        self._leave(client, "stopped")

    def _leave(self, client: paho.Client, cause: str) -> None:
        """Disconnect in order, which publishes no will."""
        client.disconnect()
        while client.want_write() and turn(client, self._wake, 0.1):
            pass
        self._lost(cause)

    def _lost(self, cause: str) -> None:
        was, self._connected = self._connected, False
        if was and not self._stop.is_set():
            self.counters["disconnects"] += 1
            self._last_error = cause
            _log.warning("disconnected", cause=cause)
        for publication in self._current[1].lose():
            self._on_published(publication)

    # ------------------------------------------------------------------ paho's callbacks, in our thread

    def _connect_done(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._last_error = f"the broker refused us: {reason}"
            _log.warning("refused", cause=self._last_error)
            return
        self._max_packet_bytes = getattr(properties, "MaximumPacketSize", MAX_PAYLOAD_BYTES + _HEADER_BYTES)
        self._receive_maximum = getattr(properties, "ReceiveMaximum", self._settings.max_inflight + SPARE_MESSAGES)
        self._taken_over, self._since_s, self._last_error = False, self._clock.monotonic_s(), None
        self._connections += 1
        self._subscribe(client)
        self._announce()
        self._connected = True
        _log.info("connected", broker=f"{self._settings.host}:{self._settings.port}", connection=self._connections)
        self._on_connected()

    def _subscribe(self, client: paho.Client) -> None:
        wanted = [
            (entry.topic, SubscribeOptions(entry.qos, retainHandling=_KEEP_RETAINED_AWAY if entry.fresh else 0))
            for entry in self._topics.subscriptions(self._on_request is not None)
        ]
        if wanted:
            client.subscribe(wanted)

    def _disconnected(self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if getattr(reason, "value", 0) == _SESSION_TAKEN_OVER:
            self._taken_over = True
            self.counters["takeovers"] += 1
        self._lost(f"connection lost: {reason}")

    def _published(self, _client: paho.Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        publication = self._current[1].finished(mid, int(getattr(reason, "value", 0)))
        if publication is not None:
            self._on_published(publication)

    def _message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        if self._on_request is not None and self._topics.is_request(topic):
            response = getattr(message.properties, "ResponseTopic", None)
            correlation = getattr(message.properties, "CorrelationData", b"")[:MAX_CORRELATION_BYTES] or None
            mid, qos = message.mid, message.qos
            self._on_request(Inbound(topic, payload, response, correlation, lambda: self._fenced(client.ack)(mid, qos)))
            return
        try:
            self._on_message(topic, payload)
        finally:
            client.ack(message.mid, message.qos)


def _properties(packet_type: int, **values: object) -> Properties:
    """What packets of this type carry beside their payload; values that are None are left out."""
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]  # paho has no annotations here
    for name in [name for name, value in values.items() if value is not None]:
        setattr(properties, name, values[name])
    return properties
