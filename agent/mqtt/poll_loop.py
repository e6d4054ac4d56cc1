"""Poll loop: one turn of a client's network work with poll(2), which has no limit on descriptor numbers as select has.

A `Wake` interrupts the wait when another thread has something to send.
"""

from __future__ import annotations

import contextlib
import select
import socket
from typing import Any, Protocol

USER_TIMEOUT_MS = 1500


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


class Wake:
    """A doorbell between threads."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)

    def ring(self) -> None:
        """Interrupt the wait, from any thread."""
        with contextlib.suppress(OSError):  # full: it rings already; closed: nobody waits any more
            self._near.send(b"!")

    def fileno(self) -> int:
        """What to poll."""
        return self._far.fileno()

    def clear(self) -> None:
        """Heard."""
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
    unread = getattr(connection, "pending", int)()  # decrypted already, so the descriptor does not show it
    poll = select.poll()
    poll.register(wake.fileno(), select.POLLIN)
    poll.register(connection.fileno(), select.POLLIN | (select.POLLOUT if client.want_write() else 0))
    ready = dict(poll.poll(0 if unread else timeout_s * 1000))
    if wake.fileno() in ready:
        wake.clear()
    events = ready.get(connection.fileno(), 0)
    if (unread or events & ~select.POLLOUT) and (client.loop_read() or client.socket() is None):
        return False
    if client.want_write() and (client.loop_write() or client.socket() is None):
        return False
    return client.loop_misc() == 0 and client.socket() is not None


def detect_dead_peers(connection: Any) -> None:
    """Let the kernel give an unanswered connection up within seconds, where it can."""
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
