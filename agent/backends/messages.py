"""Messages between a lane and its process: one small JSON header per packet, with at most one file descriptor.

Headers are JSON and never pickled objects: a compromised native runtime must not run code in the agent. Packets of a
SOCK_SEQPACKET pair arrive whole or not at all, and the end of the pair tells of the other side's death at once.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

from agent.errors import BackendError

MAX_HEADER_BYTES: Final = 64 * 1024
MAX_TEXT_CHARS: Final = 2000
"""Longest error sentence that crosses; native runtimes sometimes print a whole graph."""

Header = dict[str, Any]

_FD_BYTES: Final = socket.CMSG_SPACE(array.array("i", [0]).itemsize)
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Closed(BackendError):
    """The other side is gone."""

    code = "closed"


class Channel:
    """One end of the pair. Sending is atomic and allowed from any thread; one thread receives."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray(MAX_HEADER_BYTES)
        self._view = memoryview(self._buffer)

    def send(self, header: Header, fd: int | None = None) -> None:
        """Send one packet. Raises BlockingIOError (full), Closed, BackendError (too large)."""
        data = _encode(header).encode()
        if len(data) > MAX_HEADER_BYTES:
            raise BackendError(f"a lane message of {len(data)} bytes exceeds {MAX_HEADER_BYTES} bytes")
        try:
            if fd is None:
                self.sock.send(data)
            else:
                socket.send_fds(self.sock, [data], [fd])
        except BlockingIOError:
            raise
        except OSError as error:
            raise Closed("the other side of the lane is gone") from error

    def receive(self) -> tuple[Header, int | None]:
        """The next packet and its descriptor. Raises BlockingIOError (none, non-blocking), Closed, BackendError."""
        try:
            size, ancillary, _, _ = self.sock.recvmsg_into([self._buffer], _FD_BYTES, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            raise
        except OSError as error:
            raise Closed("the other side of the lane is gone") from error
        fds = array.array("i")
        for _level, _kind, data in ancillary:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if size == 0:
            raise Closed("the other side of the lane is gone")
        try:
            header = json.loads(bytes(self._view[:size]))
        except ValueError as error:
            _close(fds)
            raise BackendError("the lane's process sent something that is not JSON") from error
        if not isinstance(header, dict):
            _close(fds)
            raise BackendError("the lane's process sent something that is not a message")
        return header, fds[0] if fds else None

    def close(self) -> None:
        """Close this end."""
        self.sock.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """(the lane's end, non-blocking; the process's end)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def shorten(text: str) -> str:
    """One line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_TEXT_CHARS else line[: MAX_TEXT_CHARS - 1] + "…"


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
