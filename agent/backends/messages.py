"""The channel between a lane and its process: JSON messages and binary packets, each with at most one descriptor.

Never pickled objects: a compromised native runtime must not run code in the agent. Packets of a SOCK_SEQPACKET pair
arrive whole or not at all, and the end of the pair tells of the other side's death at once.
"""

from __future__ import annotations

import array
import json
import re
import socket
from typing import Any, Final

from agent.errors import BackendError

MAX_PACKET_BYTES: Final = 64 * 1024
MAX_TEXT_CHARS: Final = 2000
"""Longest error sentence that crosses; native runtimes sometimes print a whole graph."""

Header = dict[str, Any]

_CLOSE_ON_EXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
"""A plain number: the library's own is an enumeration, which costs a look-up of its class."""
_FD_BYTES: Final = socket.CMSG_SPACE(array.array("i", [0]).itemsize)
_TERMINAL: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]?|\x9b[0-?]*[ -/]*[@-~]?|\x1b[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]?"
)
"""Escape sequences (ECMA-48): colours and cursor moves, titles, and what else begins with ESC."""
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Closed(BackendError):
    """The other side is gone."""

    code = "closed"


class Channel:
    """One end of the pair. Sending is atomic and allowed from any thread; one thread receives."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        buffer = bytearray(MAX_PACKET_BYTES)
        self._buffers = [buffer]
        self._view = memoryview(buffer)
        self._send, self._receive = sock.send, sock.recvmsg_into

    def send(self, header: Header, fd: int | None = None) -> None:
        """Send a JSON message. Raises BlockingIOError (full), Closed, BackendError (too large)."""
        self.send_packet(_encode(header).encode(), fd)

    def send_packet(self, packet: bytes, fd: int | None = None) -> None:
        """Send a packet as it is. Raises BlockingIOError (full), Closed, BackendError (too large)."""
        if len(packet) > MAX_PACKET_BYTES:
            raise BackendError(f"a lane message of {len(packet)} bytes exceeds {MAX_PACKET_BYTES} bytes")
        try:
            if fd is None:
                self._send(packet)
            else:
                socket.send_fds(self.sock, [packet], [fd])
        except BlockingIOError:
            raise
        except OSError as error:
            raise Closed("the other side of the lane is gone") from error

    def receive(self) -> tuple[bytes, int | None]:
        """The next packet and its descriptor. Raises BlockingIOError (none, non-blocking), Closed."""
        try:
            size, ancillary, _, _ = self._receive(self._buffers, _FD_BYTES, _CLOSE_ON_EXEC)
        except BlockingIOError:
            raise
        except ConnectionResetError:
            size, ancillary = self._after_reset()
        except OSError as error:
            raise Closed("the other side of the lane is gone") from error
        if size == 0:
            raise Closed("the other side of the lane is gone")
        return bytes(self._view[:size]), _first_fd(ancillary) if ancillary else None

    def _after_reset(self) -> tuple[int, list[tuple[int, int, bytes]]]:
        # Said once, before what arrived, of a side that ended with messages unread; its last answers follow.
        try:
            return self._receive(self._buffers, _FD_BYTES, _CLOSE_ON_EXEC)[:2]
        except BlockingIOError:
            raise
        except OSError as error:
            raise Closed("the other side of the lane is gone") from error

    def close(self) -> None:
        """Close this end."""
        self.sock.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """(the lane's end, non-blocking; the process's end)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def one_line(text: str) -> str:
    """What native code said as one line of printable characters: no colours or other commands to a terminal."""
    bare = _TERMINAL.sub("", text)
    return " ".join("".join(sign if sign.isprintable() else " " for sign in bare).split())


def shorten(text: str) -> str:
    """One printable line of bounded length."""
    line = one_line(text)
    return line if len(line) <= MAX_TEXT_CHARS else line[: MAX_TEXT_CHARS - 1] + "…"


def parse(packet: bytes) -> Header:
    """The JSON message in a packet. Raises BackendError."""
    try:
        header = json.loads(packet)
    except ValueError as error:
        raise BackendError("the lane's process sent something that is not JSON") from error
    if not isinstance(header, dict):
        raise BackendError("the lane's process sent something that is not a message")
    return header


def _first_fd(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    fds = array.array("i")
    for _level, _kind, data in ancillary:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds[0] if fds else None
