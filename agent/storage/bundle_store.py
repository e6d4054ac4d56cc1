"""Bundle store: where bundles lie on disk, what is half fetched, and the record of which one is tried, kept or refused.

state_dir/bundles: incoming/SHA256.part (and .json, which pieces it has), SHA256/ unpacked, and bundles.json beside it.
"""

from __future__ import annotations

import json
import os
import shutil
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from agent.errors import StorageError
from agent.schema.base import FileModel
from agent.storage import state_file
from agent.storage.bundle_archive import Unpacked

RECORD = "bundles.json"
SAVE_EVERY = 64
"""Pieces between two notes of which are there; after a power cut these come again."""

Phase = Literal["none", "offered", "fetching", "trial", "kept", "refused", "reverted"]


class Record(FileModel):
    """What is on disk. `text` is the offer that is being worked on or was last settled, `kept` the one in force."""

    version: Literal[1] = 1
    ver: int = 0
    digest: str = ""
    phase: Phase = "none"
    text: str | None = None
    kept: str | None = None
    kept_ver: int | None = None
    code: str | None = None
    message: str | None = None
    starts: int = 0
    trial: dict[str, Any] = {}  # noqa: RUF012  (pydantic copies defaults)


class BundleStore:
    """Used by one thread. Methods raise StorageError."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.folder = state_dir / "bundles"
        self._incoming = self.folder / "incoming"

    def read(self) -> Record:
        """The record; an empty one where there is none. StorageError or ValidationError where it is damaged."""
        found = state_file.read_json(self._state_dir / RECORD)
        return Record() if found is None else Record.model_validate(found)

    def write(self, record: Record) -> None:
        """Replace the record, on disk when this returns."""
        state_file.write_json(self._state_dir / RECORD, record.model_dump(mode="json"))

    def unpacked(self, sha256: str) -> Unpacked | None:
        """A bundle that lies here whole."""
        folder = self.target(sha256)
        return Unpacked(folder) if folder.is_dir() else None

    def target(self, sha256: str) -> Path:
        """Where it is unpacked."""
        return self.folder / sha256

    def part(self, sha256: str) -> Path:
        """The archive while it is fetched."""
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self._incoming}: {error.strerror}") from error
        return self._incoming / f"{sha256}.part"

    def prune(self, keep: set[str]) -> None:
        """Remove every bundle and half fetched archive but these."""
        for place in (self.folder, self._incoming):
            for path in place.iterdir() if place.is_dir() else ():
                name = path.name.split(".")[0]
                if path != self._incoming and name not in keep:
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink(missing_ok=True)


class Pieces:
    """An archive that arrives in numbered pieces, in any order, over any number of starts."""

    def __init__(self, part: Path, size_bytes: int, chunk_bytes: int) -> None:
        self._part = part
        self._notes = part.with_suffix(".json")
        self._size_bytes, self._chunk_bytes = size_bytes, chunk_bytes
        self.count = -(-size_bytes // chunk_bytes)
        self._there = self._noted() if part.exists() else set()
        self._unsaved = 0

    def _noted(self) -> set[int]:
        try:
            noted = json.loads(self._notes.read_text(encoding="ascii"))
            if noted["chunk_bytes"] != self._chunk_bytes:
                return set()
            return {n for n in noted["there"] if type(n) is int and 0 <= n < self.count}
        except (OSError, ValueError, KeyError, TypeError):
            return set()

    @property
    def share(self) -> float:
        """How much of it is there."""
        return len(self._there) / self.count

    @property
    def complete(self) -> bool:
        """Whether all pieces are there."""
        return len(self._there) == self.count

    def missing(self, most: int) -> list[int]:
        """Numbers of the first pieces that are not there."""
        there = frozenset(self._there)
        return list(islice((n for n in range(self.count) if n not in there), most))

    def add(self, number: int, content: bytes) -> bool:
        """Write one piece; False for one that does not belong there. StorageError."""
        if not 0 <= number < self.count or len(content) != min(
            self._chunk_bytes, self._size_bytes - number * self._chunk_bytes
        ):
            return False
        if number not in self._there:
            try:
                with os.fdopen(os.open(self._part, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as stream:
                    stream.seek(number * self._chunk_bytes)
                    stream.write(content)
                    self._there.add(number)
                    self._unsaved += 1
                    if self._unsaved >= SAVE_EVERY or self.complete:
                        stream.flush()
                        os.fsync(stream.fileno())
                if self._unsaved >= SAVE_EVERY or self.complete:
                    self._unsaved = 0
                    state_file.write_json(self._notes, {"chunk_bytes": self._chunk_bytes, "there": sorted(self._there)})
            except OSError as error:
                raise StorageError(f"{self._part}: {error.strerror}") from error
        return True
