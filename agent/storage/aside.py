"""Aside: puts a database that cannot be used out of the way, with all that belongs to it, for whoever repairs it."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from agent.errors import StorageError
from agent.storage.state_file import full, nearly_full, sync_folder, unusable

MOST = 16
"""Files of one name that are kept aside; where there are more, something else is wrong."""
_NOT_OF_THE_FILE = ("unable to open", "readonly", "full", "disk I/O error")


def put_damaged_aside(path: Path, aside: Path, error: sqlite3.DatabaseError) -> str:
    """Move the file to that name or, where that is taken, to one like it; what is to be told of it.

    StorageError where the error is none of the file; StorageFull where a new one would find no room either, as on a
    disk that is nearly full SQLite's errors say little of what they are of.
    """
    cause = str(error)
    if "locked" in cause:
        raise StorageError(f"{path}: {error}; another process writes to it, end that first") from error
    if any(words in cause for words in _NOT_OF_THE_FILE):
        raise unusable(path, cause) from error
    if nearly_full(path.parent):
        raise full(path, cause) from error
    try:
        aside = _free(aside)
        put_aside(path, aside)
    except OSError as second:
        raise unusable(path, str(second)) from second
    return f"{path.name} was damaged ({cause}) and moved to {aside.name}"


def put_aside(path: Path, aside: Path) -> None:
    """Rename the file and its write-ahead log, which may hold what was committed last. OSError.

    Call it before the connection that found the damage is closed: SQLite deletes the log of that name then. The log
    goes first: it must never be found beside the new file, into which it would be written.
    """
    log = Path(f"{path}-wal")
    if log.exists():
        log.replace(f"{aside}-wal")
    try:
        path.replace(aside)
    except OSError:
        with suppress(OSError):
            Path(f"{aside}-wal").replace(log)
        raise
    with suppress(OSError):  # it is moved, and that must be told; a power cut may bring it back, to be moved again
        Path(f"{path}-shm").unlink(missing_ok=True)  # an index of the log, made anew from it
        sync_folder(path.parent)


def _free(aside: Path) -> Path:
    """What was put aside before is never replaced. OSError where there is too much of it."""
    for name in (aside, *(Path(f"{aside}-{n}") for n in range(2, MOST + 1))):
        if not name.exists() and not Path(f"{name}-wal").exists():
            return name
    raise FileExistsError(f"it is damaged, and {MOST} files like {aside.name} are here already: remove them")
