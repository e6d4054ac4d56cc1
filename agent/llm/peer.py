"""Peer: a part of a decoder that another process computes over the same cache, asked through a stream socket.

Keys and values lie in memory that both processes map; through the socket go token ids, what crosses a cut between
layers, and logits. A computation that broke off can be asked again: it writes the same positions with the same bits.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from agent.errors import InferenceFailed
from agent.llm.folder import DecoderFolder
from agent.llm.graph_part import GraphPart, Tensors
from agent.llm.kv_pool import Cached, KvPool, KvRows

_LENGTH: Final = struct.Struct("<I")
MAX_HEADER_BYTES: Final = 65_536
MAX_TENSOR_BYTES: Final = 1 << 30
Arrays = list[npt.NDArray[Any]]


class PeerLost(InferenceFailed):
    """The other process is gone; what it was asked can be asked of another one."""


class Peer(Protocol):
    """Computes a part."""

    def ask(self, given: Tensors, buffers: Sequence[Cached]) -> None:
        """Begin. Raises PeerLost."""
        ...

    def answer(self, *, wait: bool) -> tuple[Arrays, float] | None:
        """Its outputs and the core seconds they took over its threads; None where they are not there yet.

        Raises PeerLost, and InferenceFailed for what the runtime refused.
        """
        ...


class SocketPeer:
    """The asking side. The pool's memory goes over with the first question."""

    def __init__(self, sock: socket.socket, pool: KvPool) -> None:
        self._sock, self._pool = sock, pool
        self._introduced = False

    def ask(self, given: Tensors, buffers: Sequence[Cached]) -> None:
        """See `Peer`; `buffers` are rows of the pool."""
        if not isinstance(buffers, KvRows):
            raise InferenceFailed("another process computes over a pool only")
        try:
            if not self._introduced:
                pool = self._pool
                about = json.dumps({"rows": pool.rows, "capacity": pool.capacity}).encode()
                socket.send_fds(self._sock, [_LENGTH.pack(len(about)) + about], [pool.fd])
                self._introduced = True
            send(self._sock, {"first": buffers.first, "count": buffers.rows, "names": list(given)}, given.values())
        except OSError as error:
            raise PeerLost("the process of the other part is gone") from error

    def answer(self, *, wait: bool) -> tuple[Arrays, float] | None:
        """See `Peer`."""
        if not wait and not select.select([self._sock], [], [], 0)[0]:
            return None
        try:
            header, arrays = receive(self._sock)
        except (OSError, EOFError) as error:
            raise PeerLost("the process of the other part is gone") from error
        if "error" in header:
            raise InferenceFailed(str(header["error"]))
        return arrays, float(header["seconds"])

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


class PeerServer:
    """The answering side: one asker, one part."""

    def __init__(
        self, sock: socket.socket, part: GraphPart, folder: DecoderFolder, kv_type: type[np.generic],
        errors: tuple[type[Exception], ...], clock: Callable[[], float] = time.process_time,
    ) -> None:  # fmt: skip
        self.sock, self._part, self._folder, self._kv_type = sock, part, folder, kv_type
        self._errors, self._clock = errors, clock
        self._pool: KvPool | None = None

    def serve_one(self) -> None:
        """Answer one question. Raises EOFError or OSError where the asker is gone."""
        if self._pool is None:
            self._pool = self._introduced()
            return
        header, arrays = receive(self.sock)
        given = dict(zip(header["names"], arrays, strict=True))
        rows = self._pool.rows_of(header["first"], header["count"])
        started_s = self._clock()
        try:
            outputs = self._part.run(given, rows)
        except self._errors as error:
            send(self.sock, {"error": (str(error).splitlines() or [type(error).__name__])[0]}, ())
            return
        send(self.sock, {"seconds": self._clock() - started_s}, outputs)

    def _introduced(self) -> KvPool:
        data, fds, _, _ = socket.recv_fds(self.sock, _LENGTH.size, 1)
        if len(data) < _LENGTH.size or not fds:
            raise EOFError("the asker is gone")
        about = json.loads(_exactly(self.sock, _LENGTH.unpack(data)[0]))
        size = os.fstat(fds[0]).st_size
        memory = mmap.mmap(fds[0], size, mmap.MAP_SHARED)
        return KvPool(self._folder, about["rows"], about["capacity"], self._kv_type, shared=(fds[0], memory))


def send(sock: socket.socket, header: Mapping[str, Any], arrays: Any) -> None:
    """A header and tensors."""
    made = [np.ascontiguousarray(array) for array in arrays]
    shapes = [[array.dtype.str, list(array.shape)] for array in map(np.asarray, arrays)]
    text = json.dumps({**header, "tensors": shapes}).encode()
    sock.sendall(_LENGTH.pack(len(text)) + text)
    for array in made:
        if array.nbytes:
            sock.sendall(array.reshape(-1).view(np.uint8).data)


def receive(sock: socket.socket) -> tuple[dict[str, Any], Arrays]:
    """What `send` sent. Raises EOFError, OSError."""
    length = _LENGTH.unpack(_exactly(sock, _LENGTH.size))[0]
    if length > MAX_HEADER_BYTES:
        raise OSError(f"a header of {length} bytes")
    header: dict[str, Any] = json.loads(_exactly(sock, length))
    arrays = []
    for kind, shape in header["tensors"]:
        array = np.empty(shape, np.dtype(kind))
        if array.nbytes > MAX_TENSOR_BYTES:
            raise OSError(f"a tensor of {array.nbytes} bytes")
        if array.nbytes:
            _fill(sock, array.reshape(-1).view(np.uint8).data)
        arrays.append(array)
    return header, arrays


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    _fill(sock, memoryview(data))
    return bytes(data)


def _fill(sock: socket.socket, view: memoryview) -> None:
    while len(view):
        got = sock.recv_into(view)
        if got == 0:
            raise EOFError("the other side is gone")
        view = view[got:]
