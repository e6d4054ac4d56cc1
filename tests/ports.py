"""Ports for servers that are killed and come back, so that nobody else gets them meanwhile."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

LOWEST = 10_240
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_CHANCE = random.SystemRandom()  # the module's own is seeded alike in every test and in every run of a seed


def _lowest_of_clients() -> int:
    with contextlib.suppress(OSError, ValueError):
        return max(LOWEST + 1000, int(_RANGE.read_text().split()[0]))
    return 32_768


def free_port() -> int:
    """A loopback port that nobody uses and that the kernel gives to no client.

    A client's own port comes from the range that `bind(0)` takes from too: one that connects again and again to a
    server that is away may be given the server's port, connect to itself, and leave the server none.
    """
    for _ in range(1000):
        port = _CHANCE.randrange(LOWEST, _lowest_of_clients())
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is no free port")
