"""Outbox: the on-board spool of telemetry – SQLite, every commit on disk, deleted only when told that it arrived.

One thread writes. Rows get a gap-free number per (boot, class) when they are committed; telemetry waits for its group
commit, events are committed at once, acknowledged rows are deleted in the same commits. The spool is bounded: at its
cap the oldest telemetry makes room, and a `gap` row, delivered like any other, says so.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import structlog

from agent.ports import Clock, OutboxRow
from agent.storage.spans import Spans
from agent.storage.spool_file import at_cap, newest, open_reader, open_spool, recent_rows, rows_from

__all__ = ["MAX_QUEUED_BYTES", "MAX_QUEUED_ROWS", "Outbox", "RowClass", "recent_rows"]

RowClass = Literal["tlm", "evt", "gap"]
MAX_QUEUED_ROWS = 4096
MAX_QUEUED_BYTES = 4 * 1024 * 1024
"""Bounds of what waits in memory while the disk cannot take it; the oldest telemetry is then dropped and counted."""
MAX_SPANS = 256
"""Acknowledged ranges that wait for a commit; more make it happen at once."""
COMMIT_ROWS, EVICT_ROWS, DEAD_ROWS = 256, 64, 1000
RETRY_S = 5.0

_log = structlog.get_logger("outbox")


class Outbox:
    """Thread-safe. Nothing blocks on the disk but `flush` and `stop`, and nothing raises because of it."""

    def __init__(self, path: Path, boot: int, max_bytes: int, flush_s: float, clock: Clock) -> None:
        """Open or make the file. A damaged one is moved aside and `recovered` says so. Raises StorageError."""
        self.path = path
        self.boot = boot
        self.failing: str | None = None
        """Why the last commit failed; None when it did not."""
        self.counters = {
            "committed": 0, "dropped": 0, "evicted": 0, "acknowledged": 0, "dead": 0, "rejected": 0,
            "write_errors": 0, "read_errors": 0, "written_bytes": 0,
        }  # fmt: skip
        self._flush_s = flush_s
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: deque[tuple[RowClass, str]] = deque()
        self._queued_bytes = 0
        self._drops: dict[tuple[str, str], int] = {}
        self._removed: dict[tuple[str, int], Spans] = {}
        self._dead: list[tuple[str, int, int, int, str]] = []
        self._urgent = threading.Event()
        self._committed = threading.Event()
        self._stopping = False
        self._write_lock = threading.Lock()
        self._writing: deque[tuple[RowClass, str]] = deque()
        self._db, self.recovered = open_spool(path, boot, max_bytes)
        query = "SELECT cls, MAX(seq) + 1 FROM rows WHERE boot = ? GROUP BY cls"
        self._next: dict[str, int] = dict(self._db.execute(query, (boot,)))
        self._read_lock = threading.Lock()
        self._reader = open_reader(path)
        self._gap_read = self._next.get("gap", 0)
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self.last_write_s = clock.monotonic_s()

    # ------------------------------------------------------------------ any thread: into memory

    def start(self) -> None:
        """Begin to commit."""
        self._thread.start()

    def append(self, cls: RowClass, payload: dict[str, Any]) -> bool:
        """Queue a row. False if it cannot be kept, which is counted and reported as a gap row."""
        try:
            text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            _log.error("telemetry row is not JSON", cls=cls, cause=str(error))
            with self._lock:
                self.counters["rejected"] += 1
                self._drop(cls, "not_json")
            return False
        with self._lock:
            kept = self._make_room(cls, len(text))
            if kept:
                self._queue.append((cls, text))
                self._queued_bytes += len(text)
        if cls != "tlm":
            self._urgent.set()
        return kept

    def _make_room(self, cls: RowClass, size: int) -> bool:
        """Drop the oldest queued telemetry where memory holds too much; a row that is no telemetry drops last."""
        while self._queue and (
            len(self._queue) + len(self._writing) >= MAX_QUEUED_ROWS or self._queued_bytes + size > MAX_QUEUED_BYTES
        ):
            victim = next((i for i, row in enumerate(self._queue) if row[0] == "tlm"), None if cls == "tlm" else 0)
            if victim is None:
                break
            dropped, text = self._queue[victim]
            del self._queue[victim]
            self._queued_bytes -= len(text)
            self._drop(dropped, "queue_full")
        fits = len(self._queue) + len(self._writing) < MAX_QUEUED_ROWS and size <= MAX_QUEUED_BYTES
        if not fits:
            self._drop(cls, "queue_full")
        return fits

    def _drop(self, cls: str, reason: str) -> None:
        self.counters["dropped"] += 1
        self._drops[cls, reason] = self._drops.get((cls, reason), 0) + 1

    def acknowledge(self, boot: int, cls: str, cumulative: int | None, ranges: Sequence[tuple[int, int]] = ()) -> None:
        """The backend holds everything up to `cumulative`, and the ranges (both ends included): they may go."""
        with self._lock:
            spans = self._removed.setdefault((cls, boot), Spans())
            for low, high in [(0, -1 if cumulative is None else cumulative), *ranges]:
                spans.add(low, high)
            many = sum(len(s) for s in self._removed.values()) > MAX_SPANS
        if many:
            self._urgent.set()

    def bury(self, row: OutboxRow, reason: str, size_bytes: int) -> None:
        """Take a row that can never be delivered out of the way; a gap row tells its number and the reason."""
        with self._lock:
            self._dead.append((row.cls, row.boot, row.seq, size_bytes, reason))
            self._removed.setdefault((row.cls, row.boot), Spans()).add(row.seq, row.seq)
        self._urgent.set()

    # ------------------------------------------------------------------ the writer

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._urgent.wait(min(self._flush_s, RETRY_S) if self.failing else self._flush_s)
                self._urgent.clear()
                self.flush()
            self.flush()
        except Exception:  # noqa: BLE001  (thread root: alive() turns false and the watchdog is not fed)
            _log.exception("outbox died")

    def flush(self) -> None:
        """Commit everything queued. On a full or failing disk it stays queued and the next flush tries again."""
        with self._write_lock:
            self.last_write_s = self._clock.monotonic_s()
            with self._lock:
                self._writing.extend(self._queue)
                self._queue.clear()
                drops, self._drops = self._drops, {}
                removed = {key: list(spans) for key, spans in self._removed.items()}
                dead, self._dead = self._dead, []
            gaps = [{"reason": reason, "cls": cls, "rows": rows} for (cls, reason), rows in drops.items()]
            gaps += [{"reason": f[4], "cls": f[0], "boot": f[1], "from": f[2], "to": f[2]} for f in dead]
            try:
                before = _written_bytes()
                if removed or dead or gaps:
                    self._commit_removals(removed, dead, gaps)
                self._forget(removed)
                while self._writing:
                    self._commit_rows()
                self.counters["written_bytes"] += _written_bytes() - before
            except sqlite3.Error as error:
                with self._lock:
                    if gaps and not self._writing_done(removed):
                        self._drops.update({key: self._drops.get(key, 0) + rows for key, rows in drops.items()})
                        self._dead = dead + self._dead
                self._failed(error)
            else:
                self._recovered()

    def _failed(self, error: sqlite3.Error) -> None:
        self.counters["write_errors"] += 1
        if self.failing is None:
            _log.warning("outbox cannot write", cause=str(error))
        self.failing = str(error)
