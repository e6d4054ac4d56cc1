"""Spool file: how the outbox's SQLite file is opened, laid out and capped, and how other processes read it."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path

from agent.errors import StorageError
from agent.ports import OutboxRow
from agent.storage.aside import put_damaged_aside
from agent.storage.packing import DamagedRow, RowClass, Stored
from agent.storage.state_file import unusable

LAYOUT = 3
"""PRAGMA user_version; the one before is brought to it, a file of another is moved aside, never guessed at."""
_FROM_2 = "ALTER TABLE rows ADD COLUMN base INTEGER"
MIN_FREE_BYTES = 16 * 1024 * 1024
"""Left to the file system beside the spool: its write-ahead log, state files, logs."""
MIN_BYTES, LARGEST_COMMIT_BYTES = 1024 * 1024, 640 * 1024
"""Room for the largest row beside what it displaces, and what one commit may need."""
PAGE_BYTES = 1024
"""Packed rows of a minute fill one; with pages of 4096 a day of them writes a third to two thirds more."""
WAL_LIMIT_BYTES = 4 * 1024 * 1024
COPIES = 5
"""Attempts at a copy during which the log does not begin anew, which it does each few megabytes."""
_WAL_HEAD_BYTES = 32
ROWS = "SELECT cls, boot, seq, payload, (SELECT text FROM bases WHERE bases.id = base), base FROM rows"
NEWEST = f"{ROWS} WHERE payload IS NOT NULL ORDER BY id DESC LIMIT ?"
_NEWEST_OF_2 = "SELECT cls, boot, seq, payload, NULL, NULL FROM rows WHERE payload IS NOT NULL ORDER BY id DESC LIMIT ?"

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS rows (
    id INTEGER PRIMARY KEY, cls TEXT NOT NULL, boot INTEGER NOT NULL, seq INTEGER NOT NULL, payload BLOB,
    base INTEGER, UNIQUE (cls, boot, seq)
)""",
    "CREATE TABLE IF NOT EXISTS bases (id INTEGER PRIMARY KEY, text BLOB NOT NULL)",
    """CREATE TABLE IF NOT EXISTS dead (
    id INTEGER PRIMARY KEY, cls TEXT NOT NULL, boot INTEGER NOT NULL, seq INTEGER NOT NULL,
    bytes INTEGER NOT NULL, reason TEXT NOT NULL
)""",
    f"PRAGMA user_version = {LAYOUT}",
)


def open_spool(
    path: Path, boot: int, max_bytes: int, moved: Callable[[str], None] = lambda _: None
) -> sqlite3.Connection:
    """Open or make the file for writing. `moved` hears what was found damaged and is aside, even if no new one opens.

    StorageError if the folder cannot be written, or another process holds the file; StorageFailing where trying again
    may do.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = _opened(path)
    except (OSError, sqlite3.Error) as error:
        raise unusable(path, getattr(error, "strerror", None) or str(error)) from error
    try:
        _prepare(db, path, boot, max_bytes)
    except sqlite3.DatabaseError as error:
        try:
            moved(put_damaged_aside(path, path.with_suffix(f".damaged-{boot}"), error))
        finally:
            db.close()
        return _anew(path, boot, max_bytes)
    except BaseException:
        db.close()
        raise
    return db


def _anew(path: Path, boot: int, max_bytes: int) -> sqlite3.Connection:
    db = _opened(path)
    try:
        _prepare(db, path, boot, max_bytes)
    except sqlite3.Error as error:
        db.close()
        raise unusable(path, str(error)) from error
    return db


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, check_same_thread=False, timeout=5.0)


def _prepare(db: sqlite3.Connection, path: Path, boot: int, max_bytes: int) -> None:
    """Settings, layout and cap; sqlite3.DatabaseError where it is no file of ours."""
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found not in {2, LAYOUT} and db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
        raise sqlite3.DatabaseError(f"layout {found}, this version writes {LAYOUT}")
    # Nobody else gets in, so the index of the write-ahead log is in memory and no mapped file, whose pages would be
    # written to flash anew after each commit: twice what the rows themselves take.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = OFF")  # some builds write zeros over all that goes: a third of a day's wear
    db.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    db.execute(f"PRAGMA wal_autocheckpoint = {WAL_LIMIT_BYTES // PAGE_BYTES}")
    if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("integrity check failed")
    _lay_out(db)
    with db:
        db.execute("DELETE FROM rows WHERE payload IS NULL AND boot <> ?", (boot,))
    _cap(db, path, max_bytes)


def _lay_out(db: sqlite3.Connection) -> None:
    """Bring it to this layout, in one transaction: a kill leaves the layout before, whole.

    Earlier builds added the column in a commit of its own; a file that they left so is taken over too.
    """
    with db:
        db.execute("BEGIN IMMEDIATE")
        columns = {row[1] for row in db.execute("PRAGMA table_info(rows)")}
        for statement in (*([_FROM_2] if columns and "base" not in columns else []), *_SCHEMA):
            db.execute(statement)


def _cap(db: sqlite3.Connection, path: Path, max_bytes: int) -> None:
    """A full disk would block DELETE too: stay below what is free, so that making room always works."""
    page = int(db.execute("PRAGMA page_size").fetchone()[0])
    used = int(db.execute("PRAGMA page_count").fetchone()[0]) * page
    free = shutil.disk_usage(path.parent).free
    cap = max(min(max_bytes, used + max(0, free - MIN_FREE_BYTES)), MIN_BYTES)
    db.execute(f"PRAGMA max_page_count = {cap // page}")


def at_cap(db: sqlite3.Connection) -> bool:
    """Whether the file itself is full – not the disk under it: the largest commit may not fit any more."""
    names = ("max_page_count", "page_count", "page_size")
    limit, count, page = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
    return (limit - count) * page <= LARGEST_COMMIT_BYTES


def stored(found: Iterable[tuple[RowClass, int, int, bytes | str, bytes | None, int | None]]) -> list[Stored]:
    """What `ROWS` selects. A base that is gone leaves what cannot be unpacked."""
    return [
        Stored(cls, boot, seq, payload, b"" if number is not None and base is None else base)
        for cls, boot, seq, payload, base, number in found
    ]


def rows_from(found: Iterable[Stored]) -> list[OutboxRow]:
    """As rows; those that the medium damaged are left out."""
    rows = []
    for row in found:
        with suppress(DamagedRow):
            rows.append(OutboxRow(row.boot, row.cls, row.seq, row.document()))
    return rows


def recent_rows(path: Path, count: int) -> list[OutboxRow]:
    """Read the newest rows of a spool that another process owns, from a copy. StorageError if there is none.

    Never from the process that owns it, which would lose its lock on the file: that asks its outbox.
    """
    if not path.is_file():
        raise StorageError(f"{path}: there is no outbox yet")
    try:
        with tempfile.TemporaryDirectory(prefix="qeil-outbox-") as folder:
            copy = copied(path, Path(folder))
            with closing(sqlite3.connect(copy)) as db:
                packed = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'bases'").fetchone()
                query = NEWEST if packed else _NEWEST_OF_2
                return rows_from(reversed(stored(db.execute(query, (count,)).fetchall())))
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise StorageError(f"{path}: {error}") from error


def copied(path: Path, folder: Path, copy: Callable[[Path, Path], object] = shutil.copyfile) -> Path:
    """A copy of what is committed, of a file that is being written and locked.

    The log begins anew only after all of it is in the file, and with another head. Where its head is the same before
    and after, whatever a checkpoint wrote to the file meanwhile stands in the log as well, and the log makes good for a
    file that was copied half old, half new. A commit that the copy got half of ends before it. OSError.
    """
    target, log = folder / path.name, Path(f"{path}-wal")
    for _ in range(COPIES):
        head = _head(log)
        copy(path, target)
        if head:
            with suppress(FileNotFoundError):
                copy(log, Path(f"{target}-wal"))
        if _head(log) == head:
            return target
        Path(f"{target}-wal").unlink(missing_ok=True)
    raise BlockingIOError(errno.EAGAIN, "it is being written too fast to be read", str(path))


def _head(log: Path) -> bytes:
    try:
        with log.open("rb") as stream:
            return stream.read(_WAL_HEAD_BYTES)
    except FileNotFoundError:
        return b""
