"""Errors at the HTTP edge: which status an agent error has, and its JSON. Owns the one table; decides nothing else."""

from __future__ import annotations

import json
import math
from typing import Final

from agent.errors import (
    BackendError,
    LaneDied,
    Overloaded,
    PermitExpired,
    PlacementError,
    QeilError,
    RequestError,
)

Headers = list[tuple[bytes, bytes]]


class Unauthorized(RequestError):
    """The API key is missing or wrong."""

    code = "unauthorized"
    status = 401


class Forbidden(RequestError):
    """The request comes from a web page or names a host that is not ours."""

    code = "forbidden"
    status = 403


class WrongMethod(RequestError):
    """The path exists, but not for this method; `allow` lists those it has."""

    code = "wrong_method"
    status = 405

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message, allow=allow)
        self.allow = allow


class UnsupportedEncoding(RequestError):
    """The body is compressed in a way the agent does not read."""

    code = "unsupported_encoding"
    status = 415


class ClientGone(Exception):
    """The client closed the connection; nobody is left to answer."""


RETRY_S: Final = 1.0
MAX_SENTENCE: Final = 800
"""Characters of an error's text: names from a request are repeated in it."""
_STATUS: Final[tuple[tuple[type[QeilError], int], ...]] = (
    (LaneDied, 503),
    (PermitExpired, 503),
    (PlacementError, 503),
    (BackendError, 500),
    (QeilError, 500),
)
"""Errors that carry no status of their own, first match; a RequestError says its status itself."""


def status_of(error: QeilError) -> int:
    """HTTP status of an agent error."""
    if isinstance(error, RequestError):
        return error.status
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def headers_of(error: QeilError, status: int) -> Headers:
    """Headers that the status asks for: Retry-After, Allow, WWW-Authenticate."""
    if isinstance(error, Overloaded):
        return [_retry_after(error.retry_after_s)]
    if isinstance(error, WrongMethod):
        return [(b"allow", error.allow.encode())]
    if isinstance(error, Unauthorized):
        return [(b"www-authenticate", b'Bearer realm="qeil"')]
    return [_retry_after(RETRY_S)] if status == 503 else []


def body_of(message: str, code: str) -> bytes:
    """The JSON document of an error."""
    return json.dumps({"error": sentence_of(message), "code": code}).encode()


def sentence_of(message: str) -> str:
    """One line of bounded length, whatever a client or a runtime put into it."""
    line = " ".join(message.splitlines()) if "\n" in message or "\r" in message else message
    return line if len(line) <= MAX_SENTENCE else f"{line[: MAX_SENTENCE - 1]}…"


def _retry_after(seconds: float) -> tuple[bytes, bytes]:
    return b"retry-after", str(max(1, math.ceil(seconds))).encode()
