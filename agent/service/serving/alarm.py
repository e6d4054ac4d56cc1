"""Alarm: a thread that calls back when the next of several times has come; it ends when nothing is waited for."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Final

from agent.ports import Clock

LINGER_S: Final = 1.0
"""Without anything to wait for the thread stays this long, since the next time is often named soon."""


class Alarm:
    """Thread-safe. Its thread begins with the first time that is named."""

    def __init__(self, clock: Clock, due: Callable[[float], float]) -> None:
        """`due(now_s)` does what is due and returns when to be called again, infinity for never."""
        self._clock, self._due = clock, due
        self._news = threading.Condition()
        self._at_s = math.inf
        self._running = False

    def remind(self, at_s: float) -> None:
        """Call `due` at that time at the latest (monotonic seconds)."""
        with self._news:
            if at_s >= self._at_s:
                return
            self._at_s = at_s
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="batches", daemon=True).start()
            else:
                self._news.notify()

    def _run(self) -> None:
        while True:
            with self._news:
                left_s = min(self._at_s - self._clock.monotonic_s(), LINGER_S)
                if left_s > 0 and not self._news.wait(left_s) and math.isinf(self._at_s):
                    self._running = False
                    return
                if self._clock.monotonic_s() < self._at_s:
                    continue
                self._at_s = math.inf
            self.remind(self._due(self._clock.monotonic_s()))
