"""Outbox: the on-board spool of telemetry – SQLite, every commit on disk, deleted only when told that it arrived.

Rows get a gap-free number per (boot, class) when they are committed. Telemetry waits for its group commit; events are
committed at once. The spool is bounded: at its cap the oldest telemetry makes room, and a `gap` row says so.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import structlog

from agent.errors import StorageError
from agent.ports import Clock, OutboxRow

RowClass = Literal["tlm", "evt", "gap"]
MAX_QUEUED = 4096
"""Rows that wait in memory for a commit; more are dropped and counted while the disk cannot take them."""
EVICT_ROWS = 64
MIN_FREE_BYTES = 16 * 1024 * 1024
_ORDER = "CASE cls WHEN 'evt' THEN 0 WHEN 'gap' THEN 1 ELSE 2 END"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    boot INTEGER NOT NULL, cls TEXT NOT NULL, seq INTEGER NOT NULL, payload TEXT NOT NULL, sent_s REAL,
    PRIMARY KEY (boot, cls, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead (boot INTEGER, cls TEXT, seq INTEGER, bytes INTEGER, reason TEXT);
"""

_log = structlog.get_logger("outbox")


class Outbox:
    """Thread-safe. `append` never blocks on the disk."""

    def __init__(self, path: Path, boot: int, max_bytes: int, flush_s: float, clock: Clock) -> None:
        """Open or make the file. A damaged one is moved aside and `recovered` says so."""
        self.path = path
        self.boot = boot
        self.recovered: str | None = None
        self.counters = {"committed": 0, "dropped": 0, "evicted": 0, "acknowledged": 0, "dead": 0, "write_errors": 0}
        self._flush_s = flush_s
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: deque[tuple[RowClass, dict[str, Any]]] = deque()
        self._queue_lock = threading.Lock()
        self._urgent = threading.Event()
        self._stopping = False
        self._committed = threading.Event()
        self._db = self._open(max_bytes)
        self._next = self._next_numbers()
        self._unreported_drops = 0
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self.last_write_s = clock.monotonic_s()

    def _open(self, max_bytes: int) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return _connect(self.path, max_bytes)
        except sqlite3.DatabaseError as error:
            aside = self.path.with_suffix(f".damaged-{self.boot}")
            try:
                self.path.replace(aside)
                for suffix in ("-wal", "-shm"):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)
                self.recovered = f"{self.path.name} was damaged ({error}) and moved to {aside.name}"
                return _connect(self.path, max_bytes)
            except (OSError, sqlite3.Error) as second:
                raise StorageError(f"{self.path}: {second}; state_dir must be writable") from second
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}; state_dir must be writable") from error

    def _next_numbers(self) -> dict[str, int]:
        rows = self._db.execute("SELECT cls, MAX(seq) FROM rows WHERE boot = ? GROUP BY cls", (self.boot,))
        return {cls: seq + 1 for cls, seq in rows}

    # ------------------------------------------------------------------ writing

    def start(self) -> None:
        """Begin to commit."""
        self._thread.start()

    def append(self, cls: RowClass, payload: dict[str, Any]) -> bool:
        """Queue a row; False (and counted, and reported as a gap) if memory holds too many already."""
        with self._queue_lock:
            if len(self._queue) >= MAX_QUEUED:
                self.counters["dropped"] += 1
                self._unreported_drops += 1
                return False
            self._queue.append((cls, payload))
        if cls != "tlm":
            self._urgent.set()
        return True

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._urgent.wait(self._flush_s)
                self._urgent.clear()
                self.flush()
            self.flush()
        except Exception:  # noqa: BLE001  (thread root: alive() turns false and the watchdog is not fed)
            _log.exception("outbox died")

    def flush(self) -> None:
        """Commit everything queued. On a full or failing disk the rows stay queued and the next flush tries again."""
        with self._queue_lock:
            batch = list(self._queue)
            drops, self._unreported_drops = self._unreported_drops, 0
        self.last_write_s = self._clock.monotonic_s()
        if drops:
            batch.append(("gap", {"reason": "queue_full", "rows": drops}))
        if not batch:
            return
        try:
            with self._lock:
                self._insert(batch)
        except sqlite3.Error as error:
            self._unreported_drops += drops
            self.counters["write_errors"] += 1
            if self.counters["write_errors"] in {1, 10, 100}:
                _log.warning("outbox cannot write", cause=str(error))
            return
        with self._queue_lock:
            for _ in range(len(batch) - bool(drops)):
                self._queue.popleft()
        self.counters["committed"] += len(batch)
        self._committed.set()

    def _insert(self, batch: Sequence[tuple[RowClass, dict[str, Any]]]) -> None:
        numbers = dict(self._next)
        for attempt in range(8):
            try:
                with self._db:
                    for cls, payload in batch:
                        self._put(numbers, cls, payload)
                break
            except sqlite3.OperationalError as error:
                numbers = dict(self._next)
                if "full" not in str(error) or attempt == 7 or not self._evict():
                    raise
                numbers = dict(self._next)
        self._next = numbers

    def _put(self, numbers: dict[str, int], cls: RowClass, payload: dict[str, Any]) -> None:
        seq = numbers.get(cls, 0)
        text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
        self._db.execute("INSERT INTO rows VALUES (?, ?, ?, ?, NULL)", (self.boot, cls, seq, text))
        numbers[cls] = seq + 1

    def _evict(self) -> bool:
        """Make room: the oldest telemetry goes, or the oldest events where there is none; a gap row says which."""
        for cls in ("tlm", "evt"):
            query = "SELECT boot, seq FROM rows WHERE cls = ? ORDER BY boot, seq LIMIT ?"
            rows = self._db.execute(query, (cls, EVICT_ROWS)).fetchall()
            if not rows:
                continue
            boot = rows[0][0]
            numbers = [seq for b, seq in rows if b == boot]
            gap = {"reason": "spool_full", "cls": cls, "boot": boot, "from": numbers[0], "to": numbers[-1]}
            with self._db:
                self._db.execute(
                    "DELETE FROM rows WHERE boot = ? AND cls = ? AND seq BETWEEN ? AND ?",
                    (boot, cls, numbers[0], numbers[-1]),
                )
                updated = dict(self._next)
                self._put(updated, "gap", gap)
            self._next = updated
            self.counters["evicted"] += len(numbers)
            return True
        return False

    # ------------------------------------------------------------------ delivery

    def pending(self, limit: int, resend_before_s: float) -> list[OutboxRow]:
        """Rows not sent in this connection, or sent before `resend_before_s` (monotonic) and not acknowledged."""
        query = f"SELECT boot, cls, seq, payload FROM rows WHERE sent_s IS NULL OR sent_s < ? ORDER BY {_ORDER}, boot, seq LIMIT ?"  # noqa: S608, E501  (constant text)
        with self._lock:
            rows = self._db.execute(query, (resend_before_s, limit)).fetchall()
        return [OutboxRow(boot, cls, seq, json.loads(payload)) for boot, cls, seq, payload in rows]

    def mark_sent(self, rows: Iterable[OutboxRow], now_s: float) -> None:
        """Remember when rows were handed to the link; not worth a commit of its own, a crash only sends them again."""
        with self._lock, self._db:
            self._db.executemany(
                "UPDATE rows SET sent_s = ? WHERE boot = ? AND cls = ? AND seq = ?",
                [(now_s, r.boot, r.cls, r.seq) for r in rows],
            )

    def forget_sent(self) -> None:
        """After a reconnect everything unacknowledged is sent again."""
        with self._lock, self._db:
            self._db.execute("UPDATE rows SET sent_s = NULL WHERE sent_s IS NOT NULL")

    def acknowledge(self, boot: int, cls: str, cumulative: int | None, ranges: Sequence[tuple[int, int]] = ()) -> int:
        """Delete what the backend has committed: everything up to `cumulative`, and the ranges (both ends included)."""
        spans = [(0, cumulative)] if cumulative is not None else []
        spans += [(low, high) for low, high in ranges if low <= high]
        deleted = 0
        with self._lock, self._db:
            for low, high in spans:
                cursor = self._db.execute(
                    "DELETE FROM rows WHERE boot = ? AND cls = ? AND seq BETWEEN ? AND ?", (boot, cls, low, high)
                )
                deleted += cursor.rowcount
        self.counters["acknowledged"] += deleted
        return deleted

    def bury(self, row: OutboxRow, reason: str, size: int) -> None:
        """Take a row that can never be delivered out of the way; its number and reason stay."""
        with self._lock, self._db:
            self._db.execute("INSERT INTO dead VALUES (?, ?, ?, ?, ?)", (row.boot, row.cls, row.seq, size, reason))
            self._db.execute("DELETE FROM rows WHERE boot = ? AND cls = ? AND seq = ?", (row.boot, row.cls, row.seq))
        self.counters["dead"] += 1

    # ------------------------------------------------------------------ reading

    def wait_committed(self, timeout_s: float) -> bool:
        """Wait for a commit since the last wait."""
        happened = self._committed.wait(timeout_s)
        self._committed.clear()
        return happened

    def depth(self) -> int:
        """Rows in the spool."""
        with self._lock:
            return int(self._db.execute("SELECT COUNT(*) FROM rows").fetchone()[0])

    def recent(self, count: int) -> list[OutboxRow]:
        """The newest rows, oldest first; without a backend the spool is the local record."""
        with self._lock:
            return _recent(self._db, count)

    def alive(self) -> bool:
        """Whether the writer makes progress."""
        return self._thread.is_alive() and self._clock.monotonic_s() - self.last_write_s < self._flush_s + 30.0

    def stop(self) -> None:
        """Commit what is queued and close."""
        self._stopping = True
        self._urgent.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        else:
            self.flush()
        with self._lock:
            self._db.close()


def _connect(path: Path, max_bytes: int) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 4194304")
        free = shutil.disk_usage(path.parent).free
        page = int(db.execute("PRAGMA page_size").fetchone()[0])
        used = int(db.execute("PRAGMA page_count").fetchone()[0]) * page
        cap = max(used, min(max_bytes, used + max(0, free - MIN_FREE_BYTES)), 64 * page)
        db.execute(f"PRAGMA max_page_count = {cap // page}")
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("integrity check failed")
        db.executescript(_SCHEMA)
        with db:
            db.execute("UPDATE rows SET sent_s = NULL WHERE sent_s IS NOT NULL")
    except BaseException:
        db.close()
        raise
    return db


def _recent(db: sqlite3.Connection, count: int) -> list[OutboxRow]:
    rows = db.execute(
        "SELECT boot, cls, seq, payload FROM rows ORDER BY boot DESC, cls DESC, seq DESC LIMIT ?", (count,)
    )
    return [OutboxRow(boot, cls, seq, json.loads(text)) for boot, cls, seq, text in reversed(rows.fetchall())]


def recent_rows(path: Path, count: int) -> list[OutboxRow]:
    """Read the newest rows of a spool that another process owns. StorageError if there is none."""
    if not path.is_file():
        raise StorageError(f"{path}: there is no outbox yet")
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)
    try:
        return _recent(db, count)
    except sqlite3.Error as error:
        raise StorageError(f"{path}: {error}") from error
    finally:
        db.close()
