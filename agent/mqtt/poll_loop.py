"""Poll loop: one turn of a client's network work with poll(2), which has no limit on descriptor numbers as select has.

A `Wake` interrupts the wait when another thread has something to send.
"""

from __future__ import annotations

import contextlib
import select
import socket
from typing import Any, Protocol

USER_TIMEOUT_MS = 1500
READ_BYTES = 64 * 1024
JOINED_BYTES = 16 * 1024
_DISCONNECT, _SUCCESS, _AGAIN, _CONNECTION_LOST = 0xE0, 0, -1, 7
"""A packet's first byte; what paho's steps return."""
READS_IN_A_TURN = 1000
"""Packets that are handled from memory before anything else gets its turn."""


class Pollable(Protocol):
    """A client that leaves its socket's readiness to somebody else; every step returns an error code, 0 is good."""

    def socket(self) -> Any:
        """The connection, None without one."""
        ...

    def want_write(self) -> bool:
        """Whether something waits to be sent."""
        ...

    def loop_read(self) -> int:
        """Take in what arrived."""
        ...

    def loop_write(self) -> int:
        """Send what waits."""
        ...

    def loop_misc(self) -> int:
        """Keep-alive."""
        ...


class BufferedReads:
    """Mixed into a client that asks its connection for each byte of a header by itself: one call takes what is there.

    Four system calls for each small packet were half of what a packet cost.
    """

    _held = b""
    _taken = 0

    def unread(self) -> int:
        """Bytes that arrived and were not asked for yet; the descriptor does not show them."""
        return len(self._held) - self._taken

    def _sock_recv(self, size: int) -> bytes:
        if self._taken == len(self._held):
            self._held, self._taken = super()._sock_recv(max(size, READ_BYTES)), 0  # type: ignore[misc]
        begin, self._taken = self._taken, min(self._taken + size, len(self._held))
        return self._held[begin : self._taken]


class JoinedWrites:
    """Mixed into a client that sends each packet by itself: what waits together leaves with one call."""

    _joined = b""

    def want_write(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._joined) or super().want_write()  # type: ignore[misc]

    def _packet_write(self) -> Any:
        code = super()._packet_write()  # type: ignore[misc]
        if code == _SUCCESS and self._joined:
            try:
                self._send_joined()
            except BlockingIOError:
                return _AGAIN
            except OSError:
                return _CONNECTION_LOST
        return code

    def _sock_send(self, buf: bytes | bytearray) -> int:
        if buf[0] == _DISCONNECT or len(self._joined) + len(buf) > JOINED_BYTES:
            self._send_joined()  # what closes the connection must not overtake it
            sent: int = super()._sock_send(buf)  # type: ignore[misc]
            return sent
        self._joined += buf
        return len(buf)

    def _send_joined(self) -> None:
        while self._joined:
            sent = super()._sock_send(self._joined)  # type: ignore[misc]
            self._joined = self._joined[sent:]


class Wake:
    """A doorbell between threads."""

    def __init__(self) -> None:
        self._rung = False
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)

    def ring(self) -> None:
        """Interrupt the wait, from any thread."""
        if self._rung:
            return
        self._rung = True
        with contextlib.suppress(OSError):  # full: it rings already; closed: nobody waits any more
            self._near.send(b"!")

    def fileno(self) -> int:
        """What to poll."""
        return self._far.fileno()

    def clear(self) -> None:
        """Heard; a ring from here on is another."""
        self._rung = False
        with contextlib.suppress(BlockingIOError):
            while self._far.recv(4096):
                pass

    def close(self) -> None:
        """Give the descriptors back."""
        self._near.close()
        self._far.close()


def turn(client: Pollable, wake: Wake, timeout_s: float) -> bool:
    """Wait for work at most this long, do it; False when there is no connection any more."""
    connection = client.socket()
    if connection is None:
        return False
    # Read ahead or decrypted already, so that the descriptor does not show it.
    unread = _held(client) or getattr(connection, "pending", int)()
    poll = select.poll()
    poll.register(wake.fileno(), select.POLLIN)
    poll.register(connection.fileno(), select.POLLIN | (select.POLLOUT if client.want_write() else 0))
    ready = dict(poll.poll(0 if unread else timeout_s * 1000))
    if wake.fileno() in ready:
        wake.clear()
    events = ready.get(connection.fileno(), 0)
    if (unread or events & ~select.POLLOUT) and not _read(client):
        return False
    if client.want_write() and (client.loop_write() or client.socket() is None):
        return False
    return client.loop_misc() == 0 and client.socket() is not None


def _read(client: Pollable) -> bool:
    for _ in range(READS_IN_A_TURN):
        if client.loop_read() or client.socket() is None:
            return False
        if not _held(client):
            break
    return True


def _held(client: Pollable) -> int:
    return int(getattr(client, "unread", int)())


def detect_dead_peers(connection: Any) -> None:
    """Let the kernel give an unanswered connection up within seconds, where it can."""
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
