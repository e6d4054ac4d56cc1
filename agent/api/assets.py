"""Assets: a page's own files, read once at start, answered with a tag; they load nothing from elsewhere."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response

from agent.records import record

PAGE: Final = "index.html"
TYPES: Final = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript"}
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


class File(Protocol):
    """A path, or a resource of a package."""

    @property
    def name(self) -> str:
        """Last part of its path."""
        ...

    def read_bytes(self) -> bytes:
        """What it holds."""
        ...


@record(frozen=True)
class _Asset:
    body: bytes
    compressed: bytes
    media_type: str
    etag: str


class Assets:
    """Files by name, ready to be answered."""

    def __init__(self, files: Iterable[File]) -> None:
        """Of `files` those whose type a page has use for."""
        self._by_name = {
            file.name: _asset(file.name, file.read_bytes()) for file in files if file.name.rpartition(".")[2] in TYPES
        }

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def answer(self, request: Request, name: str = PAGE) -> Response:
        """The file `name`, one of these; 304 where the client has it already."""
        asset = self._by_name[name]
        headers = {**_HEADERS, "etag": asset.etag}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        kind = asset.media_type
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(asset.compressed, media_type=kind, headers={**headers, "content-encoding": "gzip"})
        return Response(asset.body, media_type=kind, headers=headers)


def _asset(name: str, body: bytes) -> _Asset:
    digest = hashlib.sha256(body).hexdigest()[:16]
    return _Asset(body, gzip.compress(body, 9, mtime=0), TYPES[name.rpartition(".")[2]], f'"{digest}"')
