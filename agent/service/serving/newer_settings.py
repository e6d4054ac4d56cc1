"""Newer settings: whether the settings file was changed after this agent read it, for who asks in vain for a new model.

Models are read at the start only, so a client that asks for one that was added since is told to restart the agent.
"""

from __future__ import annotations

import threading
from pathlib import Path

from agent.errors import ConfigError
from agent.storage import yaml_files


class NewerSettings:
    """The file as it is now beside what this agent began with; thread-safe, and read again only when it changed."""

    def __init__(self, path: Path | None) -> None:
        """`path`: the settings that were read just now; None: there is no such file."""
        self._path = path
        self._lock = threading.Lock()
        self._began = self._known = self._stamp()
        self._names: frozenset[str] = frozenset()

    def names(self, model: str) -> bool:
        """Whether the file was changed since and names the model now. A file with mistakes names nothing."""
        stamp = self._stamp()
        if stamp is None or stamp == self._began:
            return False
        with self._lock:
            if stamp != self._known:
                self._known, self._names = stamp, self._read()
            return model in self._names

    def hint(self, model: str) -> str:
        """What to do, as the end of a sentence; nothing where the file says nothing of the model."""
        if not self.names(model):
            return ""
        return f"; {self._path} names it since this agent was started: restart the agent, only its policy is read anew"

    def _stamp(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> frozenset[str]:
        if self._path is None:
            return frozenset()
        try:
            return frozenset(m.name for m in yaml_files.load_settings(self._path).models)
        except ConfigError:
            return frozenset()
