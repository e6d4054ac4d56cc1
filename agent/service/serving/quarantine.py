"""Quarantine: the inputs that the guard refused and kept, in the state folder, bounded in number and bytes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import structlog

from agent.ports import Tensor

_log = structlog.get_logger("quarantine")

MAX_FILES = 32
MAX_BYTES = 16 * 1024 * 1024
"""Of one input; a larger one is refused and not kept."""
MAX_WAITING = 8


class Quarantine:
    """Written by a thread of its own that begins with the first input; whatever does not fit is counted and dropped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = self.dropped = 0
        self._queue: queue.Queue[tuple[str, dict[str, Tensor]]] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def keep(self, name: str, inputs: Mapping[str, Tensor]) -> None:
        """Keep a copy of an input under a name; returns at once."""
        numeric = {k: v for k, v in inputs.items() if v.dtype.kind != "O"}
        if not numeric or sum(v.nbytes for v in numeric.values()) > MAX_BYTES:
            self.dropped += 1
            return
        try:
            self._queue.put_nowait((name, {k: np.array(v, v.dtype.type) for k, v in numeric.items()}))
        except queue.Full:
            self.dropped += 1
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="quarantine", daemon=True)
                self._thread.start()

    def settle(self) -> None:
        """Wait until everything that was handed over is written."""
        self._queue.join()

    def _run(self) -> None:
        while True:
            name, inputs = self._queue.get()
            try:
                self._write(name, inputs)
            except (OSError, ValueError) as error:
                self.dropped += 1
                _log.warning("input not kept", name=name, cause=str(error))
            finally:
                self._queue.task_done()

    def _write(self, name: str, inputs: dict[str, Tensor]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kept += 1
        target = self.folder / f"{name}.npz"
        partial = target.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.savez(stream, *inputs.values())
        partial.replace(target)
        for old in sorted(self.folder.glob("*.npz"), key=lambda p: p.stat().st_mtime_ns)[:-MAX_FILES]:
            old.unlink(missing_ok=True)
