"""App: the table of paths, who may use them, and the one place where an error becomes a response."""

from __future__ import annotations

import secrets
from collections import Counter
from itertools import count
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.api import reply, request_line, without_texts
from agent.api.access import Gate
from agent.api.body import BODY_READ, BodyBudget
from agent.api.catalogue import Catalogue
from agent.api.dashboard import Dashboard, Insight
from agent.api.direct import DirectPath
from agent.api.errors import ClientGone, Headers, WrongMethod, body_of, headers_of, status_of
from agent.api.infer import InferEndpoint
from agent.api.status import EventStream, StatusPages
from agent.api.without_texts import WithoutTexts
from agent.errors import NotFound, QeilError
from agent.ports import InferenceService, TextService
from agent.schema.metric import Metric
from agent.schema.settings import HttpSettings

_log = structlog.get_logger("http")
_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = "/v2/models/{model}/versions/{version}"
_REPOSITORY: Final = "/v2/repository/models/{model}"


class EdgeApp:
    """The ASGI application. Must be made on the event loop's thread."""

    def __init__(
        self, service: InferenceService, settings: HttpSettings, gate: Gate, insight: Insight | None = None,
        texts: TextService | None = None,
    ) -> None:  # fmt: skip
        self._gate = gate
        self._refused: Counter[int] = Counter()
        self.budget = BodyBudget(settings.max_buffered_bytes)
        self._numbers = count(1)
        self.direct = DirectPath(service, gate, self.budget, self._refusal, self._confession, self._numbers)
        self.events = EventStream(service, settings.max_event_streams)
        self._dashboard = Dashboard(insight)
        self._router = Router(self._routes(service, texts), redirect_slashes=False, default=_no_such_path)

    def _routes(self, service: InferenceService, texts: TextService | None) -> list[Route]:
        infer: ASGIApp = InferEndpoint(service, self.budget, self._numbers)
        catalogue = Catalogue(service, self.budget, texts)
        pages = StatusPages(service, self.metrics)
        return [
            Route(f"{_MODEL}/infer", infer, methods=["POST"]),  # first: the one whose microseconds count
            Route(f"{_VERSION}/infer", infer, methods=["POST"]),
            Route("/v2/health/live", catalogue.live),
            Route("/v2/health/ready", catalogue.ready),
            Route("/v2", catalogue.server),
            Route(_MODEL, catalogue.model),
            Route(f"{_MODEL}/ready", catalogue.model_ready),
            Route(f"{_MODEL}/config", catalogue.model_config),
            Route(_VERSION, catalogue.model),
            Route(f"{_VERSION}/ready", catalogue.model_ready),
            Route(f"{_VERSION}/config", catalogue.model_config),
            Route("/v2/repository/index", catalogue.index, methods=["POST"]),
            Route(f"{_REPOSITORY}/load", catalogue.load, methods=["POST"]),
            Route(f"{_REPOSITORY}/unload", catalogue.unload, methods=["POST"]),
            *self._texts(service, texts),
            Route("/status", pages.status),
            Route("/metrics", pages.metrics),
            Route("/events", self.events, methods=["GET"]),
            Route("/overview", self._dashboard.overview),
            Route("/", self._dashboard.page),
            Route("/dashboard/{name}", self._dashboard.asset),
        ]

    def _texts(self, service: InferenceService, texts: TextService | None) -> list[Route]:
        if texts is None:
            return WithoutTexts(service, self.budget).routes()
        from agent.api.openai import OpenAi  # noqa: PLC0415 - boards without texts start sooner without it

        return OpenAi(texts, service, self.budget).routes()

    @property
    def routes(self) -> list[Route]:
        """Every path that is offered."""
        return [route for route in self._router.routes if isinstance(route, Route)]

    def metrics(self) -> tuple[Metric, ...]:
        """What the edge itself counts."""
        refused = tuple(({"code": str(code)}, float(n)) for code, n in sorted(self._refused.items()))
        return (
            Metric("qeil_http_errors_total", "counter", "Requests answered with an error, by HTTP status", refused),
            Metric(
                "qeil_http_buffered_bytes", "gauge", "Bytes of request bodies held now", _one(self.budget.held_bytes)
            ),
            Metric("qeil_http_event_streams", "gauge", "Subscribers of /events", _one(self.events.streams)),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is a response, and every request leaves its line in the log."""
        if scope["type"] != "http":
            return
        scope["app"] = self  # Starlette then raises for a wrong method instead of answering in plain text
        try:
            self._gate.check(scope["path"], scope["method"], dict(scope["headers"]))
            await self._router(scope, receive, send)
        except ClientGone:
            if request_line.TOLD not in scope:
                request_line.gone(request_line.of_scope(scope))
        except QeilError as error:
            await self._refuse(scope, receive, send, error)
        except HTTPException as error:
            allow = (error.headers or {}).get("Allow", "")
            sentence = f"{scope['method']} is not offered on {scope['path'][:200]!r}, use {allow}"
            await self._refuse(scope, receive, send, WrongMethod(sentence, allow))
        except Exception as error:  # noqa: BLE001 - root of the request: a bug must cost one answer, not the server
            await self._confess(scope, receive, send, error)
        else:
            if request_line.REQUEST_ID not in scope:  # else it was told with what it cost
                request_line.answered(request_line.of_scope(scope))

    def cut_off(self, status: int, code: str, sentence: str) -> None:
        """Count and tell a request that its connection refused before it was one."""
        self._refused[status] += 1
        request_line.unread(status, code, sentence)

    def _refusal(self, error: QeilError, asked: request_line.Asked) -> tuple[int, Headers, bytes]:
        """(status, headers, body) of an error, which is counted and told."""
        status = status_of(error)
        self._refused[status] += 1
        request_line.refused(asked, error, status)
        return status, [reply.JSON, *headers_of(error, status)], body_of(error.message, error.code)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: QeilError) -> None:
        status, headers, body = self._refusal(error, request_line.of_scope(scope))
        if scope["path"].startswith(without_texts.PREFIX):
            body = without_texts.refusal(error, status)
        names = {name for name, _ in scope["headers"]}
        unread = not scope.get(BODY_READ) and (b"transfer-encoding" in names or b"content-length" in names)
        if unread:
            await reply.send_and_linger(receive, send, status, headers, body)
        else:
            await reply.send_body(send, status, headers, body)

    @staticmethod
    def _confession(error: Exception, method: str, path: str) -> QeilError:
        number = secrets.token_hex(4)
        _log.error("request_failed", error_id=number, method=method, path=path[:200], exc_info=error)
        return QeilError(f"the agent has a fault (id {number}); its log says more under that id")

    async def _confess(self, scope: Scope, receive: Receive, send: Send, error: Exception) -> None:
        confession = self._confession(error, scope["method"], scope["path"])
        try:
            await self._refuse(scope, receive, send, confession)
        except RuntimeError:
            return  # the answer had begun already; the server closes the connection


def _one(value: int) -> tuple[tuple[dict[str, str], float], ...]:
    return (({}, float(value)),)


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - an ASGI application
    raise NotFound(f"there is no path {scope['path'][:200]!r}; GET /v2 tells what this server is")
