"""Dashboard: the page at / with its own files, and what it asks for beside the snapshot."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import Response

from agent.api import reply
from agent.api.assets import Assets
from agent.errors import BadInput, NotFound

MAX_NUMBER_DIGITS: Final = 15


class Insight(Protocol):
    """What the page shows beside the snapshot; non-blocking and thread-safe."""

    def overview(self, after_point: int, after_event: int) -> dict[str, Any]:
        """The last hour from these numbers on, placements with reasons, the policy and what changed: JSON data."""
        ...


class Dashboard:
    """Handlers of /, /dashboard/NAME and /overview."""

    def __init__(self, insight: Insight | None) -> None:
        """Without insight the page still shows the snapshot, and /overview is not found."""
        self._insight = insight
        self._assets = Assets(resources.files("agent.api").joinpath("static").iterdir())

    async def page(self, request: Request) -> Response:
        """The page."""
        return self._assets.answer(request)

    async def asset(self, request: Request) -> Response:
        """One of the page's files."""
        name = request.path_params["name"]
        if name not in self._assets:
            raise NotFound(f"the dashboard has no file {name[:80]!r}")
        return self._assets.answer(request, name)

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
