"""Eagerness: whether a lane's process waits for its next call awake, and for how long.

To wake a process whose core has gone idle takes 20 to 40 µs, which is most of what the way into it and back costs. A
process whose calls follow each other closely looks for the next one a little longer before it sleeps. It gives its core
up at every look, so that whoever else has work there runs first.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import Final

AWAKE_NS: Final = 150_000
"""Longest wait awake. A gap longer than this ends it, a shorter one begins it."""
CROWDED_NS: Final = 20_000
"""Between two looks, which take one: whoever was given the core meanwhile has work for it."""
ASLEEP_NS: Final = 100_000_000
"""How long a process whose core was wanted waits asleep."""


class Eagerness:
    """Not thread-safe: of the thread that receives."""

    def __init__(self, sock: socket.socket, cores: int | None = None) -> None:
        """`cores`: of the machine. On a single one whoever makes the next call would wait for this process."""
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._possible = (os.cpu_count() or 1 if cores is None else cores) > 1
        self._until_ns = 0
        self._asleep_until_ns = 0
        self._answered_ns = 0
        self._close = False

    def came(self, now_ns: int) -> None:
        """A call came: the gap since the last answer tells whether the next one is worth waiting for."""
        self._close = now_ns - self._answered_ns <= AWAKE_NS

    def answered(self, now_ns: int, paced: bool) -> None:
        """It was answered. A lane that is held back for its heat spends none on waiting."""
        self._answered_ns = now_ns
        awake = self._close and self._possible and not paced and now_ns >= self._asleep_until_ns
        self._until_ns = now_ns + AWAKE_NS if awake else 0

    def wait(self) -> bool:
        """Look until something came or the time is over; whether something came. At once where it does not pay."""
        poll, until_ns = self._poll.poll, self._until_ns
        now_ns = time.monotonic_ns()
        while now_ns < until_ns:
            if poll(0):
                return True
            os.sched_yield()
            looked_ns, now_ns = now_ns, time.monotonic_ns()
            if now_ns - looked_ns > CROWDED_NS:
                self._asleep_until_ns = now_ns + ASLEEP_NS
                return False
        return False
