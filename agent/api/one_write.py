"""One write: an answer's head and the first piece of its body leave together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

JOINED_BYTES: Final = 65_536
"""Pieces up to this size are copied behind their head; more is handed over beside it."""


class OneWrite:
    """A transport that sends the head of an answer together with the first piece of its body: one system call, and
    the client wakes up once. A head without a body leaves with the loop's next turn.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self.is_closing = transport.is_closing  # asked several times a request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, after what is held back."""
        if self._head is None and data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self.flush)
        elif self._head is None:
            self._transport.write(data)
        elif len(data) <= JOINED_BYTES:
            head, self._head = self._head, None
            self._transport.write(head + data)
        else:
            self.flush()
            self._transport.write(data)

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Send all pieces, after what is held back, with one system call where the event loop can."""
        self.flush()
        self._transport.writelines(pieces)

    def flush(self) -> None:
        """Send a head that is held back."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)

    def close(self) -> None:
        """Close once everything is sent."""
        self.flush()
        self._transport.close()
