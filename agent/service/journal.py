"""Journald's native protocol: one datagram per event, its facts as fields that `journalctl QEIL_MODEL=…` finds.

Format: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. Journald adds the sender's unit and process itself.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

SOCKET: Final = Path("/run/systemd/journal/socket")
PREFIX: Final = "QEIL_"
MAX_BYTES: Final = 128 * 1024
"""Of one event; what is larger goes to stderr as before."""
_KIND: Final = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
_OWN: Final = frozenset({"timestamp", "level"})
"""Facts that journald has of its own."""


class Journal:
    """Sends; never waits and never raises."""

    def __init__(self, address: Path = SOCKET) -> None:
        self._address = str(address)

    def send(self, message: str, priority: int, facts: Mapping[str, Any]) -> bool:
        """Whether journald has taken it. `message` is what a reader without fields sees."""
        fields = {"MESSAGE": message, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": "qeil"}
        fields |= {field(key): str(value) for key, value in facts.items() if value is not None and key not in _OWN}
        datagram = b"".join(encoded(name, value) for name, value in fields.items())
        if len(datagram) > MAX_BYTES:
            return False
        try:
            with socket.socket(socket.AF_UNIX, _KIND) as sender:
                sender.sendto(datagram, self._address)
        except OSError:
            return False
        return True


def field(key: str) -> str:
    """A fact's name as journald takes it: capitals, digits and underscores, at most 64."""
    return (PREFIX + re.sub(r"[^A-Z0-9]", "_", key.upper()))[:64]


def encoded(name: str, value: str) -> bytes:
    """One field; a value of several lines is sent with its length."""
    content = value.encode("utf-8", "backslashreplace")
    if b"\n" not in content:
        return f"{name}=".encode() + content + b"\n"
    return f"{name}\n".encode() + len(content).to_bytes(8, "little") + content + b"\n"
