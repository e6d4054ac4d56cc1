"""Without texts: the paths below /v1 of an agent that serves no language model. Their code is read once somebody asks,
as boards without texts start sooner without it."""

from __future__ import annotations

from typing import Final

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agent.api.body import BodyBudget
from agent.errors import QeilError
from agent.ports import InferenceService

PREFIX: Final = "/v1/"
PATHS: Final = {
    "/v1/models": ("GET",), "/v1/models/{model}": ("GET",), "/v1/completions": ("POST",),
    "/v1/chat/completions": ("POST",), "/v1/feedback": ("GET", "POST"),
}  # fmt: skip
"""And the methods of each, as `openai.OpenAi` offers them."""


class WithoutTexts:
    """Makes the routes."""

    def __init__(self, service: InferenceService, budget: BodyBudget) -> None:
        self._service, self._budget = service, budget
        self._known: dict[str, Route] = {}

    def routes(self) -> list[Route]:
        """The paths below /v1."""
        return [Route(path, _Later(self, path), methods=list(methods)) for path, methods in PATHS.items()]

    def route(self, path: str) -> Route:
        """Who answers there."""
        if not self._known:
            from agent.api.openai import OpenAi  # noqa: PLC0415 - see module

            self._known = {route.path: route for route in OpenAi(None, self._service, self._budget).routes()}
        return self._known[path]


class _Later:
    """Stands for an endpoint that is not read yet."""

    def __init__(self, all_of_them: WithoutTexts, path: str) -> None:
        self._all, self._path = all_of_them, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read it, and let it answer."""
        await self._all.route(self._path).app(scope, receive, send)


def refusal(error: QeilError, status: int) -> bytes:
    """The body of an error on a path below /v1."""
    from agent.api.openai import refusal as worded  # noqa: PLC0415 - see module

    return worded(error, status)
