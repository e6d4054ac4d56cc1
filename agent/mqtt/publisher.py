"""Publisher: drains the outbox over the link in batches, and deletes rows when the backend (or the broker) has them."""

from __future__ import annotations

import json
import random
import secrets
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

import structlog

from agent.mqtt.delivery import Delivery, RowSource
from agent.mqtt.in_flight import Publication
from agent.mqtt.topics import Topics
from agent.ports import Clock, OutboxRow
from agent.schema.settings import MqttSettings

BATCH_ROWS = 32
MAX_ACKS, MAX_RANGES = 1000, 1000
"""Acknowledgements that wait for the next round, and ranges read of one; the rest comes again with a resend."""
_REFUSED = 0x80
_NO_SUBSCRIBER = 0x10

_log = structlog.get_logger("publisher")


class Spool(RowSource, Protocol):
    """What the publisher needs of the outbox."""

    def acknowledge(self, boot: int, cls: str, cumulative: int | None, ranges: Sequence[tuple[int, int]] = ()) -> None:
        """They arrived."""
        ...

    def bury(self, row: OutboxRow, reason: str, size_bytes: int) -> None:
        """It can never be delivered."""
        ...

    def wait_committed(self, timeout_s: float) -> bool:
        """Wait for new rows."""
        ...


class Carrier(Protocol):
    """What the publisher needs of the link."""

    @property
    def connected(self) -> bool:
        """Whether a message would be taken."""
        ...

    @property
    def max_inflight(self) -> int:
        """Messages the broker lets wait for their acknowledgement at once."""
        ...

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload the broker takes."""
        ...

    def publish(self, topic: str, payload: bytes, token: int) -> bool:
        """Hand over one message."""
        ...


class Publisher:
    """One thread. Rows in flight are bounded; duplicates after a reconnect are the backend's key to remove."""

    def __init__(self, spool: Spool, topics: Topics, settings: MqttSettings, clock: Clock) -> None:
        self._spool = spool
        self._topics = topics
        self._settings = settings
        self._clock = clock
        self._carrier: Carrier | None = None
        now_s = clock.monotonic_s()
        rng = random.Random(secrets.randbits(64))  # noqa: S311  (jitter, not a secret)
        self._delivery = Delivery(spool, settings.resend_s, now_s, rng)
        self._lock = threading.Lock()
        self._in_flight: dict[int, tuple[OutboxRow, ...]] = {}
        self._token = 0
        self._stopping = False
        self._reconnected = False
        self._acks: deque[bytes] = deque()
        self._done: list[Publication] = []
        self._paused_until_s = now_s
        self.refused: str | None = None
        """What the broker says about our telemetry while it refuses it."""
        self.buried: str | None = None
        """The last row that was too large to be delivered."""
        self.counters = {
            "batches": 0, "rows": 0, "resent": 0, "refused": 0, "no_subscriber": 0, "acks": 0, "bad_acks": 0,
            "acks_dropped": 0,
        }  # fmt: skip
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.last_round_s = now_s

    @property
    def unacknowledged(self) -> bool:
        """Rows were sent and nobody acknowledged any for longer than the resend time."""
        return self._delivery.silent and self._settings.delete_on == "backend_ack"

    @property
    def idle(self) -> bool:
        """Whether nothing that was handed over waits for its outcome."""
        return not self._in_flight

    # ------------------------------------------------------------------ from the link's thread

    def on_message(self, topic: str, payload: bytes) -> None:
        """Enqueue an acknowledgement."""
        if topic == self._topics.ack:
            with self._lock:
                if len(self._acks) >= MAX_ACKS:
                    self._acks.popleft()
                    self.counters["acks_dropped"] += 1
                self._acks.append(payload)

    def on_published(self, publication: Publication) -> None:
        """Enqueue the outcome of a publish."""
        with self._lock:
            self._done.append(publication)

    def on_connected(self) -> None:
        """A new connection: whatever was not acknowledged is sent again."""
        with self._lock:
            self._reconnected = True

    # ------------------------------------------------------------------ own thread

    def start(self, carrier: Carrier) -> None:
        """Begin."""
        self.attach(carrier)
        self._thread.start()

    def attach(self, carrier: Carrier) -> None:
        """Where to send; a program with many publishers calls this and `round` instead of `start`."""
        self._carrier = carrier

    def stop(self) -> None:
        """End; what is not delivered stays in the spool."""
        self._stopping = True
        self._thread.join(3.0)

    def alive(self) -> bool:
        """Whether it makes progress."""
        return self._thread.is_alive() and self._clock.monotonic_s() - self.last_round_s < 10.0

    def _run(self) -> None:
        try:
            while not self._stopping:
                self.round()
                self._spool.wait_committed(0.25)
        except Exception:  # noqa: BLE001  (thread root: alive() turns false)
            _log.exception("publisher died")

    def round(self) -> None:
        """Handle what came back, then send what fits into the window."""
        now_s = self._clock.monotonic_s()
        self.last_round_s = now_s
        with self._lock:
            acks, self._acks = self._acks, deque()
            done, self._done = self._done, []
            reconnected, self._reconnected = self._reconnected, False
        if reconnected:
            self._delivery.reconnected()
        for payload in acks:
            self._acknowledged(payload)
        for publication in done:
            self._finished(publication, now_s)
        if self._carrier is not None and self._carrier.connected and now_s >= self._paused_until_s:
            self._send(self._carrier, now_s)

    def _send(self, carrier: Carrier, now_s: float) -> None:
        room = min(self._settings.max_inflight, carrier.max_inflight) - len(self._in_flight)
        if room <= 0:
            return
        rows = self._delivery.next_rows(now_s)
        for batch, payload in self._fitting(batches(rows), carrier.max_payload_bytes):
            if room <= 0:
                return
            self._token += 1
            self._in_flight[self._token] = tuple(batch)
            if not carrier.publish(self._topics.rows(batch[0].cls), payload, self._token):
                del self._in_flight[self._token]
                return
            room -= 1
            self._delivery.sent(batch, now_s)
            self.counters["batches"] += 1
            self.counters["rows"] += len(batch)
        self.counters["resent"] = self._delivery.resent

    def _fitting(
        self, wanted: Iterable[Sequence[OutboxRow]], max_bytes: int
    ) -> Iterator[tuple[Sequence[OutboxRow], bytes]]:
        """Batches with their payload; one that is too large goes row by row, a row that is too large is buried."""
        for batch in wanted:
            payload = encode(batch)
            if len(payload) <= max_bytes:
                yield batch, payload
            elif len(batch) > 1:
                yield from self._fitting([[row] for row in batch], max_bytes)
            else:
                self._delivery.skipped(batch[0])
                self._spool.bury(batch[0], "too_large", len(payload))
                self.buried = f"a row of {len(payload)} bytes, and the broker takes {max_bytes}"

    def _finished(self, publication: Publication, now_s: float) -> None:
        rows = self._in_flight.pop(publication.token, None)
        if rows is None or publication.reason_code is None:
            return
        code = publication.reason_code
        if code >= _REFUSED:
            self.counters["refused"] += 1
            self.refused = f"the broker refuses our telemetry (reason 0x{code:02x})"
            self._paused_until_s = now_s + self._settings.resend_s
            return
        self.refused = None
        if code == _NO_SUBSCRIBER:
            self.counters["no_subscriber"] += 1
        if self._settings.delete_on == "puback":
            self._remove(rows[0].boot, rows[0].cls, None, [(rows[0].seq, rows[-1].seq)])

    def _acknowledged(self, payload: bytes) -> None:
        """{"v":1,"boot":41,"cls":"tlm","cum":1187,"rng":[[1190,1263]]}"""
        try:
            document = json.loads(payload)
            ranges = [(_number(low), _number(high)) for low, high in document.get("rng", [])[:MAX_RANGES]]
            cumulative = document.get("cum")
            through = None if cumulative is None else _number(cumulative)
            self._remove(_number(document["boot"]), str(document["cls"]), through, ranges)
            self.counters["acks"] += 1
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.counters["bad_acks"] += 1

    def _remove(self, boot: int, cls: str, cumulative: int | None, ranges: Sequence[tuple[int, int]]) -> None:
        self._spool.acknowledge(boot, cls, cumulative, ranges)
        self._delivery.acknowledged(boot, cls, cumulative, ranges)


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"not a row number: {value!r}")
    return value


def batches(rows: Sequence[OutboxRow]) -> list[list[OutboxRow]]:
    """Rows of one boot and class with consecutive numbers, at most BATCH_ROWS together."""
    made: list[list[OutboxRow]] = []
    for _, run in groupby(rows, key=lambda r: (r.boot, r.cls)):
        for row in run:
            last = made[-1] if made else []
            fits = last and (last[-1].boot, last[-1].cls, last[-1].seq + 1) == (row.boot, row.cls, row.seq)
            if fits and len(last) < BATCH_ROWS:
                last.append(row)
            else:
                made.append([row])
    return made


def encode(rows: Sequence[OutboxRow]) -> bytes:
    """The wire form: row i of the batch has the number seq0 + i."""
    first = rows[0]
    document: dict[str, Any] = {
        "v": 1, "boot": first.boot, "cls": first.cls, "seq0": first.seq, "rows": [r.payload for r in rows],
    }  # fmt: skip
    return json.dumps(document, separators=(",", ":")).encode()
