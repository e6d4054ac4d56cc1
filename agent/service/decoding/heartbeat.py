"""Heartbeat: signs of life of a decoder's process, written on a thread of its own.

A thread writes nothing while native code keeps the interpreter, as the reading of a vocabulary for grammars does: 0.7 s
of a quick core, many seconds where the board is slow or busy. `silence` says so beforehand, by a sign dated ahead. The
date stays while it lasts, so that what then hangs is found when it is past, also where other threads go on.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from agent.backends.vitals import VitalsPage, rss_bytes
from agent.backends.waiting import HEARTBEAT_S

_NS_PER_S = 1e9


class Heartbeat:
    """Thread-safe. Beats from `with` on until its end."""

    def __init__(self, page: VitalsPage) -> None:
        self._page = page
        self._silent_until_ns = 0
        self._writing = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Heartbeat:
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()

    @contextlib.contextmanager
    def silence(self, longest_s: float) -> Iterator[None]:
        """The process is well for so long, whatever is heard of it meanwhile."""
        self._beat(time.monotonic_ns() + int(longest_s * _NS_PER_S))
        try:
            yield
        finally:
            self._beat(0)

    def _beat(self, silent_until_ns: int | None = None) -> None:
        # Under the lock, so that no sign of before a silence is written over the one that announces it.
        with self._writing:
            if silent_until_ns is not None:
                self._silent_until_ns = silent_until_ns
            self._page.beat(self._silent_until_ns or time.monotonic_ns(), rss_bytes())

    def _run(self) -> None:
        while True:
            self._beat()
            if self._over.wait(HEARTBEAT_S):
                return
