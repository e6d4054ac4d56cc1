"""Claim: one agent per state folder. Two would tear each other's outbox, boot counter and calibration apart."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agent.errors import ConfigError, StorageError
from agent.storage.state_file import StorageFull, unusable

LOCK_FILE = "agent.lock"


class Claim:
    """Holds the folder until `release`, or until the process ends however it ends."""

    def __init__(self, state_dir: Path) -> None:
        """Raises ConfigError where another agent holds it, StorageError where it cannot be written."""
        path = state_dir / LOCK_FILE
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(path, str(error.strerror)) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise ConfigError(
                f"{state_dir}: another agent uses this state_dir (process {holder}); give each agent its own"
            ) from error
        try:
            self._name_holder(path)
        except StorageFull:
            pass  # the folder is held all the same; others only cannot say by whom
        except StorageError:
            self.release()
            raise

    def _name_holder(self, path: Path) -> None:
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise unusable(path, str(error.strerror)) from error

    def release(self) -> None:
        """Let another agent have the folder; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
