"""Archives: hands boards the pieces of a bundle that they ask for in their reports."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import structlog

from agent.fleet.messages import BoardKey, Told
from agent.fleet.outgoing import Send
from agent.mqtt.topics import Topics
from agent.schema.bundle import MAX_CHUNK_BYTES

MAX_PIECES = 16
_DIGEST = re.compile(r"[0-9a-f]{64}")
_log = structlog.get_logger("archives")


class Archives:
    """Files FOLDER/SHA256.tar. Used by every writer's thread; a piece that cannot be sent is asked for again."""

    def __init__(self, folder: Path | None, send: Send) -> None:
        self._folder = folder
        self._send = send
        self._lock = threading.Lock()
        self.counters = {"pieces": 0, "unknown": 0}

    def on_told(self, told: Told) -> None:
        """A board's document; only a bundle report that asks for pieces matters."""
        wanted = told.document.get("wanted") if told.kind == "bundle" else None
        if self._folder is None or not isinstance(wanted, dict):
            return
        digest, size, pieces = wanted.get("sha256"), wanted.get("chunk_bytes"), wanted.get("pieces")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not isinstance(pieces, list):
            return
        if type(size) is not int or not 1024 <= size <= MAX_CHUNK_BYTES:
            return
        self._hand_out(told.board, self._folder / f"{digest}.tar", digest, size, pieces[:MAX_PIECES])

    def _hand_out(self, board: BoardKey, path: Path, digest: str, size: int, pieces: list[Any]) -> None:
        try:
            with path.open("rb") as stream:
                for number in pieces:
                    if type(number) is not int or not 0 <= number < 2**31:
                        continue
                    stream.seek(number * size)
                    content = stream.read(size)
                    if content and self._send(Topics(*board).piece(digest, number), content, False, 600):
                        self._count("pieces")
        except OSError as error:
            self._count("unknown")
            _log.warning("no such archive", file=path.name, board="/".join(board), cause=error.strerror)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counters[what] += 1
