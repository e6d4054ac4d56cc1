"""Bundle fetch: gets an archive by its URL, or in pieces over MQTT that the board asks for in its report."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.ports import Clock
from agent.schema.bundle import Offer
from agent.storage.bundle_archive import BundleRefused
from agent.storage.bundle_download import download
from agent.storage.bundle_store import Pieces

MAX_WAITING = 32
"""Pieces in memory; the broker's flow control stops far below it."""
ASKED = 16
"""Pieces asked for at once."""
ATTEMPTS, RETRY_S = 5, 5.0
SILENCE_S = 600.0
"""Without a piece for this long the fetch is given up; what arrived stays."""

Pause = Callable[[str, dict[str, Any], float], None]


class Fetch:
    """One archive. `run` belongs to one thread; `piece` and `wanted` may be called from any."""

    def __init__(self, offer: Offer, part: Path, clock: Clock) -> None:
        self._offer = offer
        self._part = part
        self._clock = clock
        self._arrived: queue.Queue[tuple[int, bytes]] = queue.Queue(MAX_WAITING)
        self._pieces: Pieces | None = None
        self.rejected = 0

    def run(self, pause: Pause) -> None:
        """Complete the part file. `pause(phase, progress, seconds)` reports, waits, and raises to stop. BundleRefused
        where it cannot be had; StorageError."""
        if self._offer.url is not None:
            self._download(self._offer.url, pause)
        else:
            self._collect(pause)

    def _download(self, url: str, pause: Pause) -> None:
        attempt = 1
        while not self._downloaded(url, pause, last=attempt == ATTEMPTS):
            pause("fetching", {"problem": "the connection ended; it goes on where it stopped"}, RETRY_S * attempt)
            attempt += 1

    def _downloaded(self, url: str, pause: Pause, last: bool) -> bool:
        try:
            download(url, self._part, self._offer.bytes, lambda s: pause("fetching", {"share": round(s, 3)}, 0.0))
        except BundleRefused as refused:
            if refused.code != "unreachable" or last:
                raise
            return False
        return True

    def _collect(self, pause: Pause) -> None:
        assert self._offer.chunk_bytes is not None  # noqa: S101  (the schema asks for one of the two)
        pieces = self._pieces = Pieces(self._part, self._offer.bytes, self._offer.chunk_bytes)
        heard_s = self._clock.monotonic_s()
        while not pieces.complete:
            pause("fetching", {"share": round(pieces.share, 3)}, 0.0)
            try:
                number, content = self._arrived.get(timeout=1.0)
            except queue.Empty:
                if self._clock.monotonic_s() - heard_s > SILENCE_S:
                    raise BundleRefused("unreachable", f"no piece came for {SILENCE_S:.0f} s") from None
                continue
            heard_s = self._clock.monotonic_s()
            self.rejected += not pieces.add(number, content)

    def piece(self, sha256: str, number: int, content: bytes) -> None:
        """A piece that came; one that finds no room is asked for again."""
        if sha256 == self._offer.sha256 and not self._arrived.full():
            self._arrived.put_nowait((number, content))

    def wanted(self) -> dict[str, Any]:
        """What the report asks for: digest, size of pieces, and the numbers of the first that are missing."""
        pieces = self._pieces
        missing = [] if pieces is None else pieces.missing(ASKED)
        return {"sha256": self._offer.sha256, "chunk_bytes": self._offer.chunk_bytes, "pieces": missing}
