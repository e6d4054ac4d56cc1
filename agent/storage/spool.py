"""Spool: what the outbox's writer does to its file – number rows, delete them, make room and say what had to go.

One thread writes, any may `read`. Everything here raises sqlite3.Error and then has changed nothing.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from agent.storage.packing import Packer
from agent.storage.spans import Spans
from agent.storage.spool_file import at_cap

EVICT_ROWS, EVICTIONS, DEAD_ROWS = 64, 64, 1000
_ALL = 2**63 - 1
_OLDEST_BASE = "SELECT base FROM rows WHERE payload IS NOT NULL AND base IS NOT NULL ORDER BY id LIMIT 1"
"""In the order of commits, which bases follow too."""


class DeadRow(NamedTuple):
    """A row that could never be delivered."""

    cls: str
    boot: int
    seq: int
    size_bytes: int
    reason: str


class _Base(NamedTuple):
    """What rows are packed against, and its number in the file: later ones have higher numbers."""

    number: int
    packer: Packer


class Spool:
    """The rows of one file, written under one boot number."""

    def __init__(self, database: sqlite3.Connection, boot: int) -> None:
        self.committed = 0
        self.evicted = 0
        self.lock = threading.RLock()
        """Held for every transaction; whoever reads takes it too, as all share one connection."""
        self.gap_lock = threading.Lock()
        """Held while gap rows are read: only a gap row that nobody has read may still grow. Taken before `lock`."""
        self._db = database
        self._boot = boot
        query = "SELECT cls, MAX(seq) + 1 FROM rows WHERE boot = ? GROUP BY cls"
        self._next: dict[str, int] = dict(database.execute(query, (boot,)))
        self._gap: dict[str, Any] = {}
        self._gap_read = self._next.get("gap", 0)
        self._base: _Base | None = None
        self._next_base: _Base | None = None

    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        """Commit (class, JSON text) under the next numbers."""
        self._transaction(lambda: self._insert(rows))
        self._count(rows)

    def remove(
        self, spans: Mapping[tuple[str, int], Spans], dead: Sequence[DeadRow], gaps: Sequence[dict[str, Any]]
    ) -> int:
        """Delete rows by (class, boot), keep a note of the dead ones and tell the gaps. How many rows went."""
        texts = [("gap", _text(gap)) for gap in gaps]
        gone = self._transaction(lambda: self._remove(spans, dead, texts))
        self._count(texts)
        return gone

    def exchange(
        self,
        rows: Sequence[tuple[str, str]],
        spans: Mapping[tuple[str, int], Spans],
        dead: Sequence[DeadRow],
        gaps: Sequence[dict[str, Any]],
    ) -> int | None:
        """`remove` and `put` in one commit, which writes and syncs half as much.

        None where that does not fit, and nothing was changed: `put` makes room once `remove` is done, and must not
        tell rows to be lost that were acknowledged.
        """
        texts = [*(("gap", _text(gap)) for gap in gaps), *rows]
        gone = None
        with suppress(_Full), self.lock, self._db:
            gone = self._or_full(lambda: self._remove(spans, dead, texts))
        if gone is not None:
            self._count(texts)
        return gone

    def _remove(
        self, spans: Mapping[tuple[str, int], Spans], dead: Sequence[DeadRow], texts: Sequence[tuple[str, str]]
    ) -> int:
        """Within a transaction: delete, note, insert."""
        gone = sum(self._delete(cls, boot, *pair) for (cls, boot), pairs in spans.items() for pair in pairs)
        insert = "INSERT INTO dead (cls, boot, seq, bytes, reason) VALUES (?, ?, ?, ?, ?)"
        if dead:
            self._db.executemany(insert, dead)
            self._db.execute("DELETE FROM dead WHERE id <= (SELECT MAX(id) FROM dead) - ?", (DEAD_ROWS,))
        self._insert(texts)
        return gone

    def read(self, query: str, arguments: Sequence[object] = ()) -> list[Any]:
        """Rows as committed. Waits for a commit that is under way."""
        with self.lock:
            return self._db.execute(query, arguments).fetchall()

    def gaps_read(self, numbers: Iterable[int]) -> None:
        """These gap rows were read and may be on their way: they stay as they are. Call under `gap_lock`."""
        self._gap_read = max([self._gap_read, *(n + 1 for n in numbers)])

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._db.close()

    def _transaction(self, work: Callable[[], int]) -> int:
        """Do it; where the file has reached its cap, make room and do it again."""
        for _ in range(EVICTIONS):
            with suppress(_Full), self.lock, self._db:
                return self._or_full(work)
            with self.lock:
                full = at_cap(self._db)
            if not full or not self._evict():
                break
        raise sqlite3.OperationalError("database or disk is full")

    def _or_full(self, work: Callable[[], int]) -> int:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise _Full from error
            raise

    def _insert(self, rows: Sequence[tuple[str, str]]) -> int:
        numbers = dict(self._next)
        self._next_base = self._base
        for cls, text in rows:
            seq = numbers.get(cls, 0)
            payload, base = self._packed(text) if cls == "tlm" else (text, None)
            insert = "INSERT INTO rows (cls, boot, seq, payload, base) VALUES (?, ?, ?, ?, ?)"
            self._db.execute(insert, (cls, self._boot, seq, payload, base))
            numbers[cls] = seq + 1
        for cls in {row[0] for row in rows}:
            emptied = "DELETE FROM rows WHERE cls = ? AND boot = ? AND seq = ? AND payload IS NULL"
            self._db.execute(emptied, (cls, self._boot, self._next.get(cls, 0) - 1))
        return len(rows)

    def _packed(self, text: str) -> tuple[bytes | str, int | None]:
        """A row of telemetry as it is stored, and against what; a new base where there is none or it is worn."""
        base = self._next_base
        if base is None or base.packer.worn:
            oldest = self._db.execute(_OLDEST_BASE).fetchone()
            self._db.execute("DELETE FROM bases WHERE id < ?", (oldest[0] if oldest else _ALL,))
            packer = Packer(text)
            made = self._db.execute("INSERT INTO bases (text) VALUES (?)", (packer.stored,)).lastrowid
            self._next_base = base = _Base(made or 0, packer)
        packed = base.packer.pack(text)
        return (text, None) if packed is None else (packed, base.number)

    def _count(self, rows: Sequence[tuple[str, str]]) -> None:
        self.committed += len(rows)
        self._base = self._next_base
        for cls, added in Counter(row[0] for row in rows).items():
            self._next[cls] = self._next.get(cls, 0) + added
            if cls == "gap":
                self._gap = {}

    def _delete(self, cls: str, boot: int, low: int, high: int) -> int:
        """Remove rows; the newest of this boot keeps its place without content, so that no number is used twice."""
        gone, newest = 0, self._next.get(cls, 0) - 1
        if boot == self._boot and low <= newest <= high:
            empty = "UPDATE rows SET payload = NULL WHERE cls = ? AND boot = ? AND seq = ? AND payload IS NOT NULL"
            gone = self._db.execute(empty, (cls, boot, newest)).rowcount
            high = newest - 1
        delete = "DELETE FROM rows WHERE cls = ? AND boot = ? AND seq BETWEEN ? AND ?"
        return gone + self._db.execute(delete, (cls, boot, low, high)).rowcount

    def _evict(self) -> bool:
        """Make room: the oldest telemetry goes, or the oldest events where there is none; a gap row says which."""
        query = "SELECT boot, seq FROM rows WHERE cls = ? AND payload IS NOT NULL ORDER BY boot, seq LIMIT ?"
        for cls in ("tlm", "evt"):
            found = self.read(query, (cls, EVICT_ROWS))
            if found:
                boot, first = found[0]
                run = next((i for i, key in enumerate(found) if key != (boot, first + i)), len(found))
                with self.gap_lock, suppress(_Full):
                    self._replace_by_gap(cls, boot, first, first + run - 1)
                    return True
        return False

    def _replace_by_gap(self, cls: str, boot: int, first: int, last: int) -> None:
        """Delete a run of rows and tell it, in the last gap row where that is the same gap and nobody has read it."""
        seq, old = self._next.get("gap", 0) - 1, self._gap
        longer = (old.get("cls"), old.get("boot"), old.get("to")) == (cls, boot, first - 1) and seq >= self._gap_read
        gap = {"reason": "spool_full", "cls": cls, "boot": boot, "from": old["from"] if longer else first, "to": last}
        told = [] if longer else [("gap", _text(gap))]
        with self.lock, self._db:
            self._or_full(lambda: self._delete(cls, boot, first, last) + self._insert(told))
            if longer:
                update = "UPDATE rows SET payload = ? WHERE cls = 'gap' AND boot = ? AND seq = ?"
                self._db.execute(update, (_text(gap), self._boot, seq))
        self._count(told)
        self._gap = gap
        self.evicted += last - first + 1


class _Full(Exception):
    """The file cannot grow; raised through the transaction so that it rolls back."""


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
