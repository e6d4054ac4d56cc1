"""Replies: sends a response in one piece, compressed where the client asked, and closes politely on unread bodies."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any, Final

from starlette.types import Receive, Send

from agent.api.errors import Headers

MIN_COMPRESSED_BYTES: Final = 1024
LINGER_S: Final = 2.0
"""How long the rest of a refused body is read and thrown away, so that the client gets to see the refusal."""

JSON: Final = (b"content-type", b"application/json")
OCTETS: Final = (b"content-type", b"application/octet-stream")
_COMPRESS: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"gzip": lambda data: gzip.compress(data, 1, mtime=0),
    b"deflate": lambda data: zlib.compress(data, 1),
}


def dumps(value: Any) -> bytes:
    """Compact JSON; NaN is an error, never a token."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


async def send_body(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A complete response."""
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_and_linger(receive: Receive, send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A complete response to a request whose body was not read to its end, then the end of the connection."""
    headers += [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with contextlib.suppress(asyncio.TimeoutError):  # not the built-in TimeoutError before Python 3.11
        await asyncio.wait_for(_drain(receive), LINGER_S)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return


def compressed(body: bytes, accept: bytes | None, headers: Headers) -> bytes:
    """The body, compressed by the first method that `accept` names and we have; says so in `headers`."""
    if accept is None or len(body) < MIN_COMPRESSED_BYTES:
        return body
    for item in accept.lower().split(b","):
        name, _, quality = item.partition(b";")
        if name.strip() in _COMPRESS and quality.replace(b" ", b"") not in {b"q=0", b"q=0.0"}:
            headers += [(b"content-encoding", name.strip()), (b"vary", b"accept-encoding")]
            return _COMPRESS[name.strip()](body)
    return body
