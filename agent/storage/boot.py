"""Boot: the number of this start of the agent, which is part of the key of every row that it stores and sends."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.storage import state_file
from agent.storage.state_file import StorageDamaged, StorageFull

FILE = "boot.json"


class Boot:
    """Nothing is stored or sent under the number before it is on disk: rows of two starts must never share a key."""

    def __init__(self, state_dir: Path, begin: int = 0) -> None:
        """Count this start, at once or, on a full disk, with a later `keep`. Raises StorageError for other troubles.

        begin: what the count goes on from where there is no state. Seconds since 1970 keep a board whose state was lost
        from using the numbers of its first life again: a backend would take its rows for duplicates.
        """
        self._path = state_dir / FILE
        self._kept = False
        self.number = _before(state_dir, begin) + 1
        with suppress(StorageFull):  # the outbox says so, and asks again
            self.keep()

    def keep(self) -> None:
        """Put the number on disk where it is not yet. Raises StorageFull, or StorageError."""
        if not self._kept:
            state_file.write_json(self._path, {"version": 1, "boot": self.number})
            self._kept = True


def _before(state_dir: Path, begin: int) -> int:
    """The number of the start before this one, `begin` for none."""
    path, spool = state_dir / FILE, state_dir / state_file.SPOOL_FILE
    try:
        found: Any = state_file.read_json(path)
    except StorageDamaged:
        return _lost_count(path)
    if found is None and spool.exists():
        return _lost_count(spool)
    return int(found["boot"]) if isinstance(found, dict) and isinstance(found.get("boot"), int) else begin


def _lost_count(witness: Path) -> int:
    """A number above every one that was ever counted one by one."""
    return int(witness.stat().st_mtime)
