"""Command reports: tells the caller at once (a response) and the backend for sure (an event row in the outbox)."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog

from agent.mqtt.topics import Topics
from agent.ports import Clock
from agent.service.remote.command_intake import Refusal
from agent.storage.command_table import CommandRow

MAX_UNSENT = 32
REFUSALS_A_MINUTE = 30
"""Refused messages that are answered, logged and recorded; of the others only the number is."""

_log = structlog.get_logger("commands")


class Recorder(Protocol):
    """What reports need of reporting and its outbox."""

    def record(self, kind: str, fields: Mapping[str, Any]) -> bool:
        """Append an event row."""
        ...

    def flushed(self) -> bool:
        """Wait until what was appended is on disk; False if it is not yet."""
        ...

    def stamp(self) -> dict[str, Any]:
        """Wall clock, monotonic clock and what is known of the former."""
        ...


class CommandReports:
    """Thread-safe; nothing here waits for the network."""

    def __init__(
        self,
        topics: Topics,
        boot: int,
        recorder: Recorder,
        send: Callable[[str, bytes, bytes | None], bool],
        clock: Clock,
    ) -> None:
        """`send(topic, payload, correlation)` hands a message to the link; False if it cannot take it now."""
        self._topics = topics
        self._boot = boot
        self._recorder = recorder
        self._send = send
        self._clock = clock
        self._lock = threading.Lock()
        self._unsent: deque[tuple[str, bytes, bytes | None]] = deque(maxlen=MAX_UNSENT)
        self._refused: deque[float] = deque(maxlen=REFUSALS_A_MINUTE)
        self._suppressed = 0
        self._appended: set[str] = set()
        """Ends whose event waits for the disk. Used by the worker's thread alone."""
        self.counters = {"refused": 0, "responses": 0, "unsent": 0}

    def state(self, row: CommandRow, repeat: bool = False) -> None:
        """Where a command stands."""
        self._respond(row, _fields(row) | ({"repeat": True} if repeat else {}))

    def progress(self, row: CommandRow, message: str, share: float | None) -> None:
        """How far a running command is; lost where there is no connection."""
        told: dict[str, Any] = {"message": message}
        if share is not None:
            told["share"] = round(min(1.0, max(0.0, share)), 3)
        self._respond(row, {**_fields(row), "status": "running", "progress": told}, keep=False)

    def ended(self, row: CommandRow) -> bool:
        """The final state, as response and as event; True once the event is on disk."""
        self.state(row)
        return self.recorded(row)

    def recorded(self, row: CommandRow) -> bool:
        """The event alone, for an end whose response was given before: appended once, however long the disk refuses
        it – ten minutes of that would else displace telemetry with its copies."""
        if row.id not in self._appended:
            fields = {**_fields(row), **({"by": row.asked_by} if row.asked_by else {})}
            if not self._recorder.record("command", fields):
                return False
            self._appended.add(row.id)
        if not self._recorder.flushed():
            return False
        self._appended.discard(row.id)
        return True

    def refused(self, refusal: Refusal) -> None:
        """A message that was not taken on."""
        now_s = self._clock.monotonic_s()
        self.counters["refused"] += 1
        if len(self._refused) == REFUSALS_A_MINUTE and now_s - self._refused[0] < 60.0:
            self._suppressed += 1
            return
        self._refused.append(now_s)
        fields: dict[str, Any] = {
            "id": refusal.command_id, "command": refusal.name, "status": "rejected", "code": refusal.code,
            "message": refusal.message[:500],
        }  # fmt: skip
        if self._suppressed:
            fields["suppressed"], self._suppressed = self._suppressed, 0
        _log.warning("message refused", **fields)
        self._recorder.record("command_refused", fields)
        self._publish(self._topics.response("refused"), fields, None, keep=False)

    def retry(self) -> None:
        """Hand over what the link could not take before."""
        with self._lock:
            waiting = list(self._unsent)
            self._unsent.clear()  # what cannot go holds up nobody else: it may be larger than this broker takes
            self._unsent.extend(message for message in waiting if not self._send(*message))

    def _respond(self, row: CommandRow, fields: dict[str, Any], keep: bool = True) -> None:
        topic = row.response_topic or self._topics.response(row.name)
        self._publish(topic, fields, row.correlation, keep)

    def _publish(self, topic: str, fields: dict[str, Any], correlation: bytes | None, keep: bool) -> None:
        document = {"v": 1, "boot": self._boot, **self._recorder.stamp(), **fields}
        payload = json.dumps(document, separators=(",", ":")).encode()
        with self._lock:
            if self._send(topic, payload, correlation):
                self.counters["responses"] += 1
            elif keep:
                self._unsent.append((topic, payload, correlation))
                self.counters["unsent"] += 1


def _fields(row: CommandRow) -> dict[str, Any]:
    always: dict[str, Any] = {"id": row.id, "command": row.name, "status": row.state, "attempts": row.attempts}
    more = {"code": row.code, "message": row.message, "out": row.out}
    return {**always, **{key: value for key, value in more.items() if value is not None}}
