"""Publisher: drains the outbox over the link in batches, and deletes rows when the backend (or the broker) has them."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import structlog

from agent.mqtt.link import Publication
from agent.mqtt.topics import Topics
from agent.ports import Clock, OutboxRow
from agent.schema.settings import MqttSettings

WINDOW_ROWS = 256
BATCH_ROWS = 32
MAX_RESEND_S = 3600.0
_REFUSED = 0x80
_NO_SUBSCRIBER = 0x10

_log = structlog.get_logger("publisher")


class Spool(Protocol):
    """What the publisher needs of the outbox."""

    def pending(self, limit: int, resend_before_s: float) -> list[OutboxRow]:
        """Rows to send."""
        ...

    def mark_sent(self, rows: Sequence[OutboxRow], now_s: float) -> None:
        """They were handed over."""
        ...

    def forget_sent(self) -> None:
        """Send everything again."""
        ...

    def acknowledge(self, boot: int, cls: str, cumulative: int | None, ranges: Sequence[tuple[int, int]] = ()) -> int:
        """They arrived."""
        ...

    def bury(self, row: OutboxRow, reason: str, size: int) -> None:
        """It can never be delivered."""
        ...

    def wait_committed(self, timeout_s: float) -> bool:
        """Wait for new rows."""
        ...


class Carrier(Protocol):
    """What the publisher needs of the link."""

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload the broker takes."""
        ...

    def publish(self, topic: str, payload: bytes, token: int) -> bool:
        """Hand over one message."""
        ...


@dataclass(frozen=True)
class _Batch:
    rows: tuple[OutboxRow, ...]
    sent_s: float


class Publisher:
    """One thread. Rows in flight are bounded; duplicates after a reconnect are the backend's key to remove."""

    def __init__(self, spool: Spool, topics: Topics, settings: MqttSettings, clock: Clock) -> None:
        self._spool = spool
        self._topics = topics
        self._settings = settings
        self._clock = clock
        self._carrier: Carrier | None = None
        self._lock = threading.Lock()
        self._in_flight: dict[int, _Batch] = {}
        self._token = 0
        self._stopping = False
        self._reconnected = False
        self._acks: list[bytes] = []
        self._done: list[Publication] = []
        self._paused_until_s = 0.0
        self._resend_s = settings.resend_s
        self._last_resend_s = clock.monotonic_s()
        self.refused: str | None = None
        self.unacknowledged = False
        """No acknowledgement for longer than the resend time."""
        self.counters = {"batches": 0, "refused": 0, "acks": 0, "bad_acks": 0, "no_subscriber": 0}
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.last_round_s = clock.monotonic_s()

    # ------------------------------------------------------------------ from the link's thread

    def on_message(self, topic: str, payload: bytes) -> None:
        """Enqueue an acknowledgement."""
        if topic == self._topics.ack:
            with self._lock:
                self._acks = [*self._acks[-999:], payload]

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
        self._carrier = carrier
        self._thread.start()

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
            acks, self._acks = self._acks, []
            done, self._done = self._done, []
            reconnected, self._reconnected = self._reconnected, False
        if reconnected:
            self._resend_s = self._settings.resend_s
            self._in_flight.clear()
            self._spool.forget_sent()
        for payload in acks:
            self._acknowledged(payload)
        for publication in done:
            self._finished(publication, now_s)
        if now_s >= self._paused_until_s:
            self._send(now_s)

    def _send(self, now_s: float) -> None:
        assert self._carrier is not None  # noqa: S101  (start sets it)
        waiting = sum(len(b.rows) for b in self._in_flight.values())
        if waiting >= WINDOW_ROWS or len(self._in_flight) >= self._settings.max_inflight:
            return
        jitter_s = self._resend_s * random.uniform(1.0, 1.3)  # noqa: S311  (jitter, not a secret)
        rows = self._spool.pending(WINDOW_ROWS - waiting, now_s - jitter_s)
        self._slow_down(now_s)
        for batch, payload in self._fitting(batches(rows), self._carrier.max_payload_bytes):
            if len(self._in_flight) >= self._settings.max_inflight:
                return
            self._token += 1
            self._in_flight[self._token] = _Batch(tuple(batch), now_s)
            if not self._carrier.publish(self._topics.rows(batch[0].cls), payload, self._token):
                del self._in_flight[self._token]
                return
            self._spool.mark_sent(batch, now_s)
            self.counters["batches"] += 1

    def _slow_down(self, now_s: float) -> None:
        """Where nobody acknowledges, sending the whole spool again and again helps nobody: wait twice as long."""
        if self._settings.delete_on == "backend_ack" and now_s - self._last_resend_s >= self._resend_s:
            self._last_resend_s = now_s
            self._resend_s = min(MAX_RESEND_S, 2 * self._resend_s)
            self.unacknowledged = True

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
                self._spool.bury(batch[0], "larger than the broker takes", len(payload))

    def _finished(self, publication: Publication, now_s: float) -> None:
        batch = self._in_flight.pop(publication.token, None)
        if batch is None or publication.reason_code is None:
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
            first, last = batch.rows[0], batch.rows[-1]
            self._spool.acknowledge(first.boot, first.cls, None, [(first.seq, last.seq)])

    def _acknowledged(self, payload: bytes) -> None:
        """{"v":1,"boot":41,"cls":"tlm","cum":1187,"rng":[[1190,1263]]}"""
        try:
            document = json.loads(payload)
            ranges = [(int(low), int(high)) for low, high in document.get("rng", [])]
            cumulative = document.get("cum")
            self._spool.acknowledge(int(document["boot"]), str(document["cls"]), cumulative, ranges)
            self.counters["acks"] += 1
            self._resend_s = self._settings.resend_s
            self._last_resend_s = self._clock.monotonic_s()
            self.unacknowledged = False
        except (ValueError, KeyError, TypeError, AttributeError):
            self.counters["bad_acks"] += 1


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
