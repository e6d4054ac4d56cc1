"""State files: small JSON documents that survive a power cut whole – the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.errors import StorageError

SPOOL_FILE = "outbox.db"
MAX_BYTES = 16 * 1024 * 1024
_WHERE = "in the settings or QEIL_STATE_DIR"
_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "disk is full")
_MEDIUM, _FILE = "disk I/O error", "unable to open"
"""What SQLite says of a medium that fails and of a file that cannot be made; also where there is little room."""
_LITTLE_BYTES = 1024 * 1024
"""A disk with less than that free is as good as full: SQLite's own files may find no room there."""


class StorageDamaged(StorageError):
    """The file is there and readable, but what is in it is not a document."""

    code = "storage_damaged"


class StorageFailing(StorageError):
    """The medium fails; everything is as before, and may be tried again."""


class StorageFull(StorageFailing):
    """There is no room where state is kept; everything is as before, and may be tried again."""


def write_json(path: Path, document: Any) -> None:
    """Replace the file atomically: temporary file, fsync, rename, fsync of the folder. StorageError says what to do."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text = json.dumps(document, separators=(",", ":"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # what was begun would keep room that a full disk has not
            partial.unlink()
        raise _unwritable(path, error) from error


def read_json(path: Path) -> Any | None:
    """The document, or None where there is no file. StorageError if it cannot be read or is no JSON."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; check the owner and mode of state_dir") from error
    if len(data) > MAX_BYTES:
        raise StorageError(f"{path}: larger than {MAX_BYTES} bytes; it is not one of ours, remove it")
    try:
        return json.loads(data)
    except ValueError as error:
        raise StorageDamaged(f"{path}: damaged ({error}); remove it, it is made again") from error


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in it survive a power cut. OSError as from the system."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> StorageError:
    return unusable(error.filename or path, str(error.strerror))


def unusable(path: Path | str, cause: str) -> StorageError:
    """Why something of the state folder cannot be used, and what mends it, in the words of the system or of SQLite."""
    unclear = _MEDIUM in cause or _FILE in cause
    if any(text in cause for text in _FULL) or (unclear and nearly_full(Path(path).parent)):
        return full(path, cause)
    if _MEDIUM in cause:
        return StorageFailing(f"{path}: {cause}; replace the medium, or set another state_dir {_WHERE}")
    return StorageError(f"{path}: {cause}; state_dir must be writable: set it {_WHERE}")


def full(path: Path | str, cause: str) -> StorageFull:
    """There is no room for that file."""
    return StorageFull(f"{path}: {cause}; make room there, or set another state_dir {_WHERE}")


def nearly_full(folder: Path) -> bool:
    """Whether hardly anything more fits on the disk of that folder; False where nobody says."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _LITTLE_BYTES or (disk.f_files > 0 and disk.f_favail == 0)
