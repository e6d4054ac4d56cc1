"""Command table: every signed command that was taken on, what became of it, and whether that was told – in SQLite.

A row is on disk before the broker hears that the command arrived, before the command begins, and before its end is
told; so a repeat never runs twice and nothing that was begun is forgotten. The table is bounded: rows go by expiry, and
commands that expired before the youngest row that went are refused, whatever the clock says by then.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from agent.errors import StorageError
from agent.records import record
from agent.schema.command import CommandState
from agent.storage.aside import put_damaged_aside
from agent.storage.state_file import unusable

LAYOUT = 1
MAX_ROWS = 4096
KEEP_S = 7 * 86_400.0
"""Results are kept this long after the command expired, while there is room."""
MAX_OUT_BYTES = 16 * 1024
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS commands (
    n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, name TEXT NOT NULL, args TEXT NOT NULL,
    asked_by TEXT, exp REAL NOT NULL, state TEXT NOT NULL, code TEXT, message TEXT, out TEXT,
    attempts INTEGER NOT NULL DEFAULT 0, response_topic TEXT, correlation BLOB, changed_s REAL NOT NULL,
    told INTEGER NOT NULL DEFAULT 0
)""",
    "CREATE INDEX IF NOT EXISTS by_exp ON commands (exp)",
    "CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value REAL NOT NULL)",
)
_COLUMNS = (
    "id, digest, name, args, asked_by, exp, state, code, message, out, attempts, response_topic, correlation, changed_s"
)
_FINAL = "('ok', 'failed', 'rejected', 'expired')"


@record(frozen=True)
class CommandRow:
    """One command. `digest` is the sha256 of the signed text: an id stands for one text only."""

    id: str
    digest: str
    name: str
    args: dict[str, Any]
    asked_by: str | None
    exp: float
    state: CommandState
    code: str | None = None
    message: str | None = None
    out: dict[str, Any] | None = None
    attempts: int = 0
    response_topic: str | None = None
    correlation: bytes | None = None
    changed_s: float = 0.0


class CommandTable:
    """Thread-safe; every change is on disk when its method returns. Methods raise StorageError."""

    def __init__(self, path: Path, wall_s: float) -> None:
        """Open or make the file. A damaged one is moved aside, and all commands issued before now are then refused."""
        self.path = path
        self.recovered: str | None = None
        """What was found damaged."""
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db, self.recovered = _connect(path, wall_s)
        except (OSError, sqlite3.Error) as error:
            raise unusable(path, str(error)) from error

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock, self._db:
                yield self._db
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: {error}") from error

    # ------------------------------------------------------------------ marks below which nothing is taken

    def refuses(self, iat: float, exp: float) -> bool:
        """Whether a command may have been here and been forgotten, so that only refusing it is safe."""
        return exp <= self._mark("expired") or iat <= self._mark("issued")

    def _mark(self, name: str) -> float:
        with self._change() as db:
            found = db.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
            return float(found[0]) if found else float("-inf")

    # ------------------------------------------------------------------ a command's life

    def get(self, command_id: str) -> CommandRow | None:
        """The command with that id."""
        found = self._rows("WHERE id = ?", (command_id,))
        return found[0] if found else None

    def add(self, row: CommandRow, wall_s: float) -> None:
        """A new command, to be run or refused for good. Rows long expired make room."""
        with self._change() as db:
            self._forget(db, wall_s)
            db.execute(
                "INSERT INTO commands (id, digest, name, args, asked_by, exp, state, code, message, response_topic,"
                " correlation, changed_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row.id, row.digest, row.name, json.dumps(row.args), row.asked_by, row.exp, row.state, row.code,
                    row.message, row.response_topic, row.correlation, wall_s,
                ),
            )  # fmt: skip

    @staticmethod
    def _forget(db: sqlite3.Connection, wall_s: float) -> None:
        """Drop what expired long ago; at the bound also what expires first. Only ends that were told may go."""
        told = f"told = 1 AND state IN {_FINAL}"
        count = int(db.execute("SELECT COUNT(*) FROM commands").fetchone()[0])
        excess = max(0, count + 1 - MAX_ROWS)
        victims = db.execute(
            f"SELECT n, exp FROM commands WHERE {told} AND exp < ?"  # noqa: S608  (constants)
            f" UNION SELECT n, exp FROM (SELECT n, exp FROM commands WHERE {told} ORDER BY exp LIMIT ?)",
            (wall_s - KEEP_S, excess),
        ).fetchall()
        if victims:
            db.executemany("DELETE FROM commands WHERE n = ?", [(n,) for n, _ in victims])
            db.execute(
                "INSERT INTO marks VALUES ('expired', ?)"
                " ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
                (max(exp for _, exp in victims),),
            )

    def begin(self, command_id: str, wall_s: float) -> None:
        """It runs from now on."""
        with self._change() as db:
            db.execute(
                "UPDATE commands SET state = 'running', attempts = attempts + 1, changed_s = ? WHERE id = ?",
                (wall_s, command_id),
            )

    def wait_again(self, command_id: str, wall_s: float) -> None:
        """It was cut off and will be begun once more."""
        with self._change() as db:
            db.execute("UPDATE commands SET state = 'accepted', changed_s = ? WHERE id = ?", (wall_s, command_id))

    def finish(
        self,
        command_id: str,
        state: CommandState,
        code: str | None,
        message: str | None,
        out: dict[str, Any] | None,
        wall_s: float,
    ) -> None:
        """Its final state. An `out` larger than MAX_OUT_BYTES is left out, and said to be."""
        text = None if out is None else json.dumps(out)
        if text is not None and len(text) > MAX_OUT_BYTES:
            text = json.dumps({"left_out_bytes": len(text)})
        with self._change() as db:
            db.execute(
                "UPDATE commands SET state = ?, code = ?, message = ?, out = ?, changed_s = ? WHERE id = ?",
                (state, code, message, text, wall_s, command_id),
            )

    def told(self, command_id: str) -> None:
        """Its end is safely on the way to the backend."""
        with self._change() as db:
            db.execute("UPDATE commands SET told = 1 WHERE id = ?", (command_id,))

    # ------------------------------------------------------------------ lists

    def waiting(self) -> list[CommandRow]:
        """Taken on and not begun, first come first."""
        return self._rows("WHERE state = 'accepted' ORDER BY n", ())

    def running(self) -> list[CommandRow]:
        """Begun and not ended; right after a start these were cut off."""
        return self._rows("WHERE state = 'running' ORDER BY n", ())

    def untold(self) -> list[CommandRow]:
        """Ended, and the end was not told yet."""
        return self._rows(f"WHERE told = 0 AND state IN {_FINAL} ORDER BY n LIMIT 64", ())

    def recent(self, count: int) -> list[CommandRow]:
        """The newest, oldest first."""
        return self._rows("ORDER BY n DESC LIMIT ?", (count,))[::-1]

    def _rows(self, clause: str, arguments: tuple[object, ...]) -> list[CommandRow]:
        with self._change() as db:
            found = db.execute(f"SELECT {_COLUMNS} FROM commands {clause}", arguments).fetchall()  # noqa: S608
        return [
            CommandRow(
                r[0], r[1], r[2], json.loads(r[3]), r[4], r[5], cast(CommandState, r[6]), r[7], r[8],
                None if r[9] is None else json.loads(r[9]), r[10], r[11], r[12], r[13],
            )
            for r in found
        ]  # fmt: skip


def _connect(path: Path, wall_s: float) -> tuple[sqlite3.Connection, str | None]:
    """The table, and what was found damaged and moved aside."""
    moved = None
    while True:
        db = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
        try:
            lost = _prepare(db, path, wall_s)
        except sqlite3.DatabaseError as error:
            try:
                if moved is not None:
                    raise
                moved = put_damaged_aside(path, path.with_suffix(".damaged"), error)
            finally:
                db.close()
        except BaseException:
            db.close()
            raise
        else:
            return db, moved or lost


def _prepare(db: sqlite3.Connection, path: Path, wall_s: float) -> str | None:
    """Settings and layout; what is to be told where the one before is aside."""
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found not in {0, LAYOUT}:
        raise sqlite3.DatabaseError(f"layout {found}, this version writes {LAYOUT}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA journal_size_limit = 1048576")
    if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("integrity check failed")
    if found == LAYOUT:
        return None
    asides = sorted(p.name for p in path.parent.glob(f"{path.stem}.damaged*") if not p.name.endswith("-wal"))
    _lay_out(db, wall_s if asides else None)
    return f"{path.name} was damaged and is in {', '.join(asides)}" if asides else None


def _lay_out(db: sqlite3.Connection, issued_s: float | None) -> None:
    """In one transaction with the mark: a disk that fills up, or a kill, leaves no table that forgot silently."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            db.execute(statement)
        if issued_s is not None:
            db.execute("INSERT OR REPLACE INTO marks VALUES ('issued', ?)", (issued_s,))
        db.execute(f"PRAGMA user_version = {LAYOUT}")
