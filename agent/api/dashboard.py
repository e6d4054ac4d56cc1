"""Dashboard: the page at / with its own files, and what it asks for beside the snapshot.

The files hold no data and load nothing from elsewhere; all of them are read once, at start.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import Response

from agent.api import reply
from agent.errors import BadInput, NotFound

PAGE: Final = "index.html"
TYPES: Final = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript"}
MAX_NUMBER_DIGITS: Final = 15
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


class Insight(Protocol):
    """What the page shows beside the snapshot; non-blocking and thread-safe."""

    def overview(self, after_point: int, after_event: int) -> dict[str, Any]:
        """The last hour from these numbers on, placements with reasons, the policy and what changed: JSON data."""
        ...


@dataclass(frozen=True)
class _Asset:
    body: bytes
    compressed: bytes
    media_type: str
    etag: str


class Dashboard:
    """Handlers of /, /dashboard/NAME and /overview."""

    def __init__(self, insight: Insight | None) -> None:
        """Without insight the page still shows the snapshot, and /overview is not found."""
        self._insight = insight
        self._assets = {
            entry.name: _asset(entry.name, entry.read_bytes())
            for entry in resources.files("agent.api").joinpath("static").iterdir()
            if entry.name.rpartition(".")[2] in TYPES
        }

    async def page(self, request: Request) -> Response:
        """The page."""
        return _answer(request, self._assets[PAGE])

    async def asset(self, request: Request) -> Response:
        """One of the page's files."""
        name = request.path_params["name"]
        if name not in self._assets:
            raise NotFound(f"the dashboard has no file {name[:80]!r}")
        return _answer(request, self._assets[name])

    async def overview(self, request: Request) -> Response:
        """The last hour, placements with reasons, the policy and what changed; `points` and `events` say from where."""
        if self._insight is None:
            raise NotFound("this server keeps no history")
        after_point, after_event = (_number(request, name) for name in ("points", "events"))
        headers = [reply.JSON]
        body = reply.dumps(self._insight.overview(after_point, after_event))
        accept = request.headers.get("accept-encoding", "").encode("latin-1")
        body = reply.compressed(body, accept, headers)
        return Response(body, headers={k.decode(): v.decode() for k, v in headers})


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_NUMBER_DIGITS):
        raise BadInput(f"{name} must be the number of the last one seen, 0 for all")
    return int(text)


def _asset(name: str, body: bytes) -> _Asset:
    digest = hashlib.sha256(body).hexdigest()[:16]
    return _Asset(body, gzip.compress(body, 9, mtime=0), TYPES[name.rpartition(".")[2]], f'"{digest}"')


def _answer(request: Request, asset: _Asset) -> Response:
    headers = {**_HEADERS, "etag": asset.etag}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.compressed, media_type=asset.media_type, headers={**headers, "content-encoding": "gzip"})
    return Response(asset.body, media_type=asset.media_type, headers=headers)
