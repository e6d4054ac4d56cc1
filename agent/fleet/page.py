"""Page: the fleet at / with its own files, and those of the board's dashboard: both look and count alike."""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agent.api.assets import Assets

_SHARED = ("dashboard.css", "parts.js", "chart.js")


class Page:
    """Handlers of / and /page/NAME."""

    def __init__(self) -> None:
        own = resources.files("agent.fleet").joinpath("static")
        shared = resources.files("agent.api").joinpath("static")
        self._assets = Assets([*own.iterdir(), *(shared.joinpath(name) for name in _SHARED)])

    async def index(self, request: Request) -> Response:
        """The page."""
        return self._assets.answer(request)

    async def file(self, request: Request) -> Response:
        """One of its files."""
        name = request.path_params["name"]
        if name not in self._assets:
            return JSONResponse({"error": f"the page has no file {name[:80]!r}", "code": "not_found"}, 404)
        return self._assets.answer(request, name)
