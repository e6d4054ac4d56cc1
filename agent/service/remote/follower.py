"""Follower: the life of a thread that follows what the fleet wishes: begins where it ended, works through notes."""

from __future__ import annotations

import threading
from typing import Any

import structlog

from agent.service.remote.commands import Interrupted

CHECK_S = 1.0
STOP_S = 3.0
_log = structlog.get_logger("follower")


class Follower:
    """One thread of its own, which calls `resume` once and then `round` whenever it is woken, at least each second."""

    def __init__(self, name: str) -> None:
        """`name` is the thread's, and how its death is logged."""
        self._reported: dict[str, Any] | None = None
        """What was told last; None: tell it anew."""
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Bring what was kept into force, then follow what comes."""
        self._thread.start()

    def stop(self) -> None:
        """End; the next start goes on with what is being done."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def on_connected(self) -> None:
        """Report anew: the broker may have lost it. From any thread."""
        self._reported = None
        self._wake.set()

    def resume(self) -> None:
        """As after a start."""
        raise NotImplementedError

    def round(self) -> None:
        """Do what there is to do."""
        raise NotImplementedError

    def _run(self) -> None:
        try:
            self.resume()
            while not self._stopping.is_set():
                self.round()
                self._wake.wait(CHECK_S)
                self._wake.clear()
        except Interrupted:
            return
        except Exception:  # noqa: BLE001  (thread root: alive() turns false and the watchdog is not fed)
            _log.exception("thread died", thread=self._thread.name)
