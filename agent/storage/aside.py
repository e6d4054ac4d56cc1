"""Aside: puts a database that cannot be used out of the way, with all that belongs to it, for whoever repairs it."""

from __future__ import annotations

from pathlib import Path

from agent.storage.state_file import sync_folder


def put_aside(path: Path, aside: Path) -> None:
    """Rename the file and its write-ahead log, which may hold what was committed last. OSError.

    Call it before the connection that found the damage is closed: SQLite deletes the log of that name then. The log
    goes first: it must never be found beside the new file, into which it would be written.
    """
    log = Path(f"{path}-wal")
    if log.exists():
        log.replace(f"{aside}-wal")
    path.replace(aside)
    Path(f"{path}-shm").unlink(missing_ok=True)  # an index of the log, made anew from it
    sync_folder(path.parent)
