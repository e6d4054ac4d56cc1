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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from agent.errors import StorageError
from agent.ports import Clock, OutboxRow
from agent.storage.packing import DamagedRow, RowClass, Stored
from agent.storage.spans import Spans
from agent.storage.spool import DeadRow, Spool
from agent.storage.spool_file import NEWEST, ROWS, open_spool, recent_rows, rows_from, stored
from agent.storage.state_file import StorageFailing

__all__ = ["MAX_QUEUED_BYTES", "MAX_QUEUED_ROWS", "Outbox", "RowClass", "recent_rows"]

CLASSES: tuple[RowClass, ...] = ("evt", "gap", "tlm")
MAX_QUEUED_ROWS = 4096
MAX_QUEUED_BYTES = 4 * 1024 * 1024
"""Bounds of what waits in memory while the disk cannot take it; the oldest telemetry is then dropped and counted."""
MAX_ROW_BYTES = 256 * 1024
MAX_SPANS = 256
"""Acknowledged ranges that wait for a commit; more make it happen at once."""
COMMIT_ROWS, COMMIT_BYTES = 256, 128 * 1024
RETRY_S, STALL_S = 5.0, 120.0
"""Pause between attempts on a failing disk; a worn card may take its time, longer than this is a hang."""
_MAX_NUMBER = 2**63 - 1
_IO = Path("/proc/thread-self/io")

_log = structlog.get_logger("outbox")


class Outbox:
    """Thread-safe. Nothing blocks on the disk but `flush` and `stop`, and nothing raises because of it."""

    def __init__(
        self, path: Path, boot: int, max_bytes: int, flush_s: float, clock: Clock,
        keep_boot: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Open or make the file; on a full or failing disk rows wait in memory, and each commit tries again.

        keep_boot: called before the file is opened; StorageFull while nothing may be stored under this boot yet.
        Raises StorageError for other troubles.
        """
        self.path = path
        self.boot = boot
        self.recovered: str | None = None
        """What was found damaged and moved aside."""
        self.failing: str | None = None
        """Why the last commit failed; None when it did not."""
        self.counters = {
            "committed": 0, "evicted": 0, "dropped": 0, "rejected": 0, "acknowledged": 0, "dead": 0,
            "write_errors": 0, "read_errors": 0, "written_bytes": 0,
        }  # fmt: skip
        self._flush_s = flush_s
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: deque[tuple[RowClass, str]] = deque()
        self._queued_bytes = 0
        self._drops: dict[tuple[str, str], int] = {}
        self._removed: dict[tuple[str, int], Spans] = {}
        self._removing: dict[tuple[str, int], Spans] = {}
        self._dead: list[DeadRow] = []
        self._urgent = threading.Event()
        self._committed = threading.Event()
        self._stopping = False
        self._write_lock = threading.Lock()
        self._writing: deque[tuple[RowClass, str]] = deque()
        self._max_bytes = max_bytes
        self._keep_boot = keep_boot
        self._spool: Spool | None = None
        try:
            self._opened()
        except StorageFailing as error:
            self.failing = error.message
            _log.warning("outbox cannot be opened", cause=error.message)
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self.last_write_s = clock.monotonic_s()

    def _opened(self) -> Spool:
        """What the rows go into. Raises StorageFailing, or StorageError."""
        if self._spool is None:
            self._keep_boot()
            self._spool = Spool(open_spool(self.path, self.boot, self._max_bytes, self._moved), self.boot)
        return self._spool

    def _moved(self, told: str) -> None:
        self.recovered = told if self.recovered is None else f"{self.recovered}; {told}"

    @property
    def opened(self) -> bool:
        """Whether the file is open; rows wait in memory until it is."""
        return self._spool is not None

    # ------------------------------------------------------------------ any thread: into memory

    def start(self) -> None:
        """Begin to commit."""
        self._thread.start()

    def append(self, cls: RowClass, payload: dict[str, Any]) -> bool:
        """Queue a row. False if it cannot be kept, which is counted and reported as a gap row."""
        try:
            text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
            if len(text) > MAX_ROW_BYTES:
                raise ValueError(f"{len(text)} bytes, more than {MAX_ROW_BYTES}")
        except (TypeError, ValueError) as error:
            _log.error("telemetry row cannot be kept", cls=cls, cause=str(error))
            with self._lock:
                self.counters["rejected"] += 1
                self._drop(cls, "not_storable")
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
        while self._queue and not self._fits(size):
            victim = next((i for i, row in enumerate(self._queue) if row[0] == "tlm"), None if cls == "tlm" else 0)
            if victim is None:
                break
            dropped, text = self._queue[victim]
            del self._queue[victim]
            self._queued_bytes -= len(text)
            self._drop(dropped, "queue_full")
        if not self._fits(size):
            self._drop(cls, "queue_full")
            return False
        return True

    def _fits(self, size: int) -> bool:
        rows = len(self._queue) + len(self._writing)
        return rows < MAX_QUEUED_ROWS and self._queued_bytes + size <= MAX_QUEUED_BYTES

    def _drop(self, cls: str, reason: str) -> None:
        self.counters["dropped"] += 1
        self._drops[cls, reason] = self._drops.get((cls, reason), 0) + 1

    def acknowledge(self, boot: int, cls: str, cumulative: int | None, ranges: Sequence[tuple[int, int]] = ()) -> None:
        """The backend holds everything up to `cumulative`, and the ranges (both ends included): they may go."""
        if cls not in CLASSES or not 0 <= boot <= _MAX_NUMBER:
            return
        with self._lock:
            spans = self._removed.setdefault((cls, boot), Spans())
            for low, high in [(0, -1 if cumulative is None else cumulative), *ranges]:
                spans.add(max(0, low), min(high, _MAX_NUMBER))
            many = sum(len(s) for s in self._removed.values()) > MAX_SPANS
        if many:
            self._urgent.set()

    def bury(self, row: OutboxRow, reason: str, size_bytes: int) -> None:
        """Take a row that can never be delivered out of the way; a gap row tells its number and the reason."""
        with self._lock:
            self._dead.append(DeadRow(row.cls, row.boot, row.seq, size_bytes, reason))
            self._removed.setdefault((row.cls, row.boot), Spans()).add(row.seq, row.seq)
        self._urgent.set()

    def flush_every(self, flush_s: float) -> None:
        """Longest time that a telemetry row waits for its commit, from the next commit on."""
        self._flush_s = flush_s

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
                if not (self._writing or self._removed or self._dead or self._drops or self.failing):
                    return
            before = _written_bytes()
            try:
                spool = self._opened()
                self._commit_removals(spool)
                while self._writing:
                    self._commit_rows(spool, self._batch())
            except (sqlite3.Error, StorageError) as error:
                self.counters["write_errors"] += 1
                if self.failing is None:
                    _log.warning("outbox cannot write", cause=str(error))
                self.failing = str(error)
                with self._lock:
                    self._queue.extendleft(reversed(self._writing))
                    self._writing.clear()
            else:
                if self.failing is not None:
                    _log.info("outbox writes again")
                self.failing = None
            self.counters["written_bytes"] += _written_bytes() - before
            if self._spool is not None:
                if self._spool.committed > self.counters["committed"]:
                    self._committed.set()
                self.counters.update(committed=self._spool.committed, evicted=self._spool.evicted)

    def _commit_removals(self, spool: Spool) -> None:
        """Delete what was acknowledged or buried, write the gap rows of what memory had to drop, and the first rows."""
        with self._lock:
            removed, dead, drops = self._removed, self._dead, self._drops
            self._removed, self._dead, self._drops = {}, [], {}
            self._removing = removed
        gaps = [{"reason": reason, "cls": cls, "rows": rows} for (cls, reason), rows in drops.items()]
        gaps += [{"reason": d.reason, "cls": d.cls, "boot": d.boot, "from": d.seq, "to": d.seq} for d in dead]
        try:
            if removed or gaps:
                batch = self._batch()
                gone = spool.exchange(batch, removed, dead, gaps)
                if gone is None:
                    gone = spool.remove(removed, dead, gaps)
                else:
                    self._written(batch)
                self.counters["acknowledged"] += gone - len(dead)
                self.counters["dead"] += len(dead)
        except sqlite3.Error:
            with self._lock:
                self._put_back(removed, dead, drops)
            raise
        finally:
            self._removing = {}

    def _put_back(
        self,
        removed: dict[tuple[str, int], Spans],
        dead: list[DeadRow],
        drops: dict[tuple[str, str], int],
    ) -> None:
        for key, spans in removed.items():
            for low, high in spans:
                self._removed.setdefault(key, Spans()).add(low, high)
        self._dead = dead + self._dead
        for drop, rows in drops.items():
            self._drops[drop] = self._drops.get(drop, 0) + rows

    def _batch(self) -> list[tuple[RowClass, str]]:
        """The oldest rows that wait, as many as one commit takes."""
        batch: list[tuple[RowClass, str]] = []
        size = 0
        for row in self._writing:
            if batch and (len(batch) >= COMMIT_ROWS or size + len(row[1]) > COMMIT_BYTES):
                break
            batch.append(row)
            size += len(row[1])
        return batch

    def _commit_rows(self, spool: Spool, batch: list[tuple[RowClass, str]]) -> None:
        spool.put(batch)
        self._written(batch)

    def _written(self, batch: list[tuple[RowClass, str]]) -> None:
        """They are on disk and wait no more."""
        with self._lock:
            for _, text in batch:
                self._writing.popleft()
                self._queued_bytes -= len(text)

    # ------------------------------------------------------------------ any thread: out of the file

    def rows_after(self, cls: str, after: tuple[int, int] | None, limit: int) -> list[OutboxRow]:
        """Committed, unacknowledged rows of a class behind the key (boot, seq), in order. Empty if unreadable."""
        spool = self._spool
        if cls != "gap" or spool is None:
            return self._rows_after(cls, after, limit)
        with spool.gap_lock:
            rows = self._rows_after(cls, after, limit)
            spool.gaps_read(r.seq for r in rows if r.boot == self.boot)
            return rows

    def _rows_after(self, cls: str, after: tuple[int, int] | None, limit: int) -> list[OutboxRow]:
        with self._lock:
            hidden = [(key, spans) for d in (self._removed, self._removing) for key, spans in d.items()]
        rows: list[OutboxRow] = []
        for row in self._scan(cls, after or (-1, -1), limit):
            if not any(key == (cls, row.boot) and row.seq in spans for key, spans in hidden):
                rows.append(row)
                if len(rows) == limit:
                    break
        return rows

    def _scan(self, cls: str, after: tuple[int, int], limit: int) -> Iterator[OutboxRow]:
        query = f"{ROWS} WHERE cls = ? AND (boot, seq) > (?, ?) AND payload IS NOT NULL ORDER BY boot, seq LIMIT ?"
        while True:
            found = stored(self._read(query, (cls, *after, limit)))
            yield from (row for one in found if (row := self._row(one)) is not None)
            if len(found) < limit:
                return
            after = (found[-1].boot, found[-1].seq)

    def _row(self, found: Stored) -> OutboxRow | None:
        """Unpacked; one that the medium damaged is buried, as nobody will ever read it."""
        bare = OutboxRow(found.boot, found.cls, found.seq, {})
        try:
            return replace(bare, payload=found.document())
        except DamagedRow as error:
            if self._hidden(bare):
                return None
            _log.warning("telemetry row is damaged", cause=str(error))
            self.counters["read_errors"] += 1
            self.bury(bare, "damaged", len(found.payload))
            return None

    def _hidden(self, row: OutboxRow) -> bool:
        """Whether it goes with the next commit."""
        with self._lock:
            found = [d.get((row.cls, row.boot)) for d in (self._removed, self._removing)]
        return any(spans is not None and row.seq in spans for spans in found)

    def _read(self, query: str, arguments: tuple[object, ...] = ()) -> list[Any]:
        if self._spool is None:
            return []
        try:
            return self._spool.read(query, arguments)
        except sqlite3.Error as error:
            self.counters["read_errors"] += 1
            self.failing = self.failing or str(error)
            return []

    def wait_committed(self, timeout_s: float) -> bool:
        """Wait for a commit since the last wait."""
        happened = self._committed.wait(timeout_s)
        self._committed.clear()
        return happened

    def depth(self) -> int:
        """Rows in the spool; 0 if it is unreadable, which `failing` says."""
        found = self._read("SELECT COUNT(*) FROM rows WHERE payload IS NOT NULL")
        return int(found[0][0]) if found else 0

    def recent(self, count: int) -> list[OutboxRow]:
        """The newest rows, oldest first; without a backend the spool is the local record."""
        return rows_from(reversed(stored(self._read(NEWEST, (count,)))))

    def alive(self) -> bool:
        """Whether the writer makes progress."""
        return self._thread.is_alive() and self._clock.monotonic_s() - self.last_write_s < self._flush_s + STALL_S

    def stop(self) -> None:
        """Commit what is queued and close."""
        self._stopping = True
        self._urgent.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        self.flush()
        with self._write_lock:
            if self._spool is not None:
                self._spool.close()


def _written_bytes() -> int:
    """Bytes this thread caused to be sent to storage (proc(5), io: write_bytes); 0 where the kernel does not count."""
    try:
        for line in _IO.read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
    except (OSError, ValueError):
        return 0
    return 0
