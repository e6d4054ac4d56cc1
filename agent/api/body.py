"""Request bodies: read within their bounds, into one buffer, and unpacked without falling for compression bombs."""

from __future__ import annotations

import zlib
from typing import Final

from starlette.types import Receive

from agent.api.errors import ClientGone, UnsupportedEncoding
from agent.errors import BadInput, Overloaded, TooLarge

BODY_READ: Final = "qeil.body_read"
"""Key of the scope: whether the body was read to its end, so that the connection can be used again."""
_WINDOW: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"x-gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


class BodyBudget:
    """Bytes of bodies held by all requests together. Lives on the event loop, so it needs no lock."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Reserve, or refuse with Overloaded."""
        if self.held_bytes + size_bytes > self.max_bytes:
            raise Overloaded("too many large bodies at once (http.max_buffered_bytes); send again in a moment", 1.0)
        self.held_bytes += size_bytes

    def give(self, size_bytes: int) -> None:
        """Return what was reserved."""
        self.held_bytes -= size_bytes


class Body:
    """One request's body. `release` must be called when the request is over."""

    def __init__(self, receive: Receive, budget: BodyBudget, max_bytes: int, too_large: str) -> None:
        """`too_large` is the rest of the sentence that a client gets when it sends more than `max_bytes`."""
        self._receive = receive
        self._budget = budget
        self._max_bytes = max_bytes
        self._too_large = too_large
        self._reserved_bytes = 0
        self.finished = False

    async def read(self, content_length: bytes | None, encoding: bytes | None) -> bytes | bytearray:
        """The whole body, unpacked. TooLarge as soon as the bound is passed, also before anything was read."""
        if content_length is not None and int(content_length) > self._max_bytes:
            raise self._refusal(int(content_length))
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        first: bytes = message.get("body", b"")
        data = await self._rest(first) if message.get("more_body") else first
        self.finished = True
        if len(data) > self._max_bytes:
            raise self._refusal(len(data))
        return data if encoding is None else self._unpack(data, encoding.strip().lower())

    async def _rest(self, first: bytes) -> bytearray:
        data = bytearray(first)
        self._reserve(len(first))
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            if len(data) + len(chunk) > self._max_bytes:
                raise self._refusal(len(data) + len(chunk))
            self._reserve(len(chunk))
            data += chunk
            if not message.get("more_body"):
                return data

    def _unpack(self, data: bytes | bytearray, encoding: bytes) -> bytes | bytearray:
        if encoding in {b"", b"identity"}:
            return data
        if encoding not in _WINDOW:
            name = encoding.decode("latin-1")
            raise UnsupportedEncoding(f"Content-Encoding {name!r} is not read here: send gzip, deflate or none")
        unpacker = zlib.decompressobj(_WINDOW[encoding])
        try:
            unpacked = unpacker.decompress(data, self._max_bytes + 1)
        except zlib.error as error:
            raise BadInput(f"the body is not valid {encoding.decode()}: {error}") from error
        if len(unpacked) > self._max_bytes:
            raise self._refusal(len(unpacked))
        if not unpacker.eof or unpacker.unused_data:
            raise BadInput(f"the {encoding.decode()} body {'ends early' if not unpacker.eof else 'has bytes after it'}")
        self._reserve(len(unpacked))
        return unpacked

    def _reserve(self, size_bytes: int) -> None:
        self._budget.take(size_bytes)
        self._reserved_bytes += size_bytes

    def _refusal(self, size_bytes: int) -> TooLarge:
        return TooLarge(f"the body has {size_bytes} bytes or more, {self._max_bytes} are accepted {self._too_large}")

    def release(self) -> None:
        """Give the reservation back."""
        self._budget.give(self._reserved_bytes)
        self._reserved_bytes = 0
