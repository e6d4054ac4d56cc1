"""Page: the fleet at / with its own files. They hold no data and load nothing from elsewhere; read once, at start."""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript"}
_SHARED = ("dashboard.css", "parts.js", "chart.js")
"""Of the board's dashboard: both look and count alike."""
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


class Page:
    """Handlers of / and /page/NAME."""

    def __init__(self) -> None:
        own = resources.files("agent.fleet").joinpath("static")
        shared = resources.files("agent.api").joinpath("static")
        found = [entry for entry in own.iterdir() if entry.name.rpartition(".")[2] in TYPES]
        self._files = {e.name: e.read_bytes() for e in [*found, *(shared.joinpath(name) for name in _SHARED)]}
        self._small = {name: gzip.compress(body, 9, mtime=0) for name, body in self._files.items()}

    async def index(self, request: Request) -> Response:
        """The page."""
        return self._answer(request, "index.html")

    async def file(self, request: Request) -> Response:
        """One of its files."""
        name = request.path_params["name"]
        if name not in self._files:
            return JSONResponse({"error": f"the page has no file {name[:80]!r}", "code": "not_found"}, 404)
        return self._answer(request, name)

    def _answer(self, request: Request, name: str) -> Response:
        etag = f'"{hashlib.sha256(self._files[name]).hexdigest()[:16]}"'
        headers, kind = {**_HEADERS, "etag": etag}, TYPES[name.rpartition(".")[2]]
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self._small[name], media_type=kind, headers={**headers, "content-encoding": "gzip"})
        return Response(self._files[name], media_type=kind, headers=headers)
