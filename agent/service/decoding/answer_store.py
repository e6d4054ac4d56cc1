"""Answer store: the answer book's document on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.storage import state_file


class AnswerStore:
    """`answer_book.Store` as one file that survives a power cut whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Any | None:
        """The document; None where there is none. Raises StorageError."""
        return state_file.read_json(self._path)

    def save(self, document: Any) -> None:
        """Replace it. Raises StorageError."""
        state_file.write_json(self._path, document)
