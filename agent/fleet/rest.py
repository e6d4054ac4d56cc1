"""REST: the controller's API. Every path says which role it takes; every error is one JSON sentence."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import structlog
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.api import prometheus
from agent.errors import BadInput, ConfigError, NotFound, QeilError, StorageError, TooLarge
from agent.fleet.operations import Operations
from agent.fleet.page import Page
from agent.fleet.tokens import Token, Tokens
from agent.records import record
from agent.schema.fleet import Labels, Role, RolloutRequest, Signed

MAX_BODY_BYTES = 512 * 1024
MIN_COMPRESSED_BYTES = 4096
Method = Literal["GET", "POST", "PUT"]
Body = TypeVar("Body", bound=BaseModel)


class Unauthorized(QeilError):
    """No good token."""

    code = "unauthorized"


class Forbidden(QeilError):
    """A token for less."""

    code = "forbidden"


_log = structlog.get_logger("rest")

_STATUS: tuple[tuple[type[QeilError], int], ...] = (
    (Unauthorized, 401), (Forbidden, 403), (NotFound, 404), (TooLarge, 413), (BadInput, 400), (ConfigError, 400),
    (StorageError, 503),
)  # fmt: skip


@record(frozen=True)
class Call:
    """One request, its body read."""

    request: Request
    token: Token | None
    body: bytes

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def query(self, name: str, default: str = "") -> str:
        """A query parameter; BadInput for one that is too long."""
        found = self.request.query_params.get(name, default)
        if len(found) > 1024 or "\0" in found:
            raise BadInput(f"{name} is too long or no text")
        return found

    def number(self, name: str, default: int, most: int) -> int:
        """A query parameter from 1 to `most`."""
        text = self.query(name, str(default))
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
            raise BadInput(f"{name}: expected a number from 1 to {most}")
        return int(text)

    def of(self, schema: type[Body]) -> Body:
        """The body as a schema; BadInput says what is wrong first."""
        try:
            return schema.model_validate_json(self.body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            raise BadInput(f"{where}: {first['msg']}") from error

    @property
    def who(self) -> str:
        """For the audit log."""
        return self.token.name if self.token is not None else "nobody"


@record(frozen=True)
class Endpoint:
    """One path. `role` None: nobody has to say who they are."""

    method: Method
    path: str
    role: Role | None
    about: str
    act: Callable[[Call], Any]
    body: type[BaseModel] | None = None
    query: tuple[str, ...] = ()


class Rest:
    """Makes the ASGI application."""

    def __init__(self, operations: Operations, tokens: Tokens, wall_s: Callable[[], float]) -> None:
        self._do = operations
        self._tokens = tokens
        self._wall_s = wall_s
        self.requests: Counter[tuple[str, int]] = Counter()
        self.endpoints = self._endpoints()

    def _endpoints(self) -> tuple[Endpoint, ...]:
        do = self._do
        return (
            Endpoint("GET", "/v1/health", None, "whether the controller works", lambda _: do.health()),
            Endpoint("GET", "/v1/openapi.json", None, "this description", lambda _: self.openapi()),
            Endpoint("GET", "/metrics", "read", "for Prometheus", lambda _: do.metrics(self.requests)),
            Endpoint(
                "GET", "/v1/fleet", "read", "every board in few bytes, as a table",
                lambda c: do.overview(c.query("tenant") or None), query=("tenant",),
            ),
            Endpoint(
                "GET", "/v1/boards", "read", "boards that a selection wants",
                lambda c: do.boards(c.query("tenant") or None, c.query("select")), query=("tenant", "select"),
            ),
            Endpoint(
                "GET", "/v1/boards/{tenant}/{board}", "read", "everything known of one board",
                lambda c: do.board((c.path("tenant"), c.path("board"))),
            ),
            Endpoint(
                "GET", "/v1/boards/{tenant}/{board}/rows/{cls}", "read", "its newest rows",
                lambda c: do.rows((c.path("tenant"), c.path("board")), c.path("cls"), c.number("limit", 100, 1000)),
                query=("limit",),
            ),
            Endpoint(
                "GET", "/v1/boards/{tenant}/{board}/hours", "read", "sums of its hours that are no longer kept as rows",
                lambda c: do.hours((c.path("tenant"), c.path("board")), c.number("limit", 100, 1000)),
                query=("limit",),
            ),
            Endpoint(
                "PUT", "/v1/boards/{tenant}/{board}/labels", "operate", "replace its labels",
                lambda c: do.label((c.path("tenant"), c.path("board")), c.of(Labels), c.who), Labels,
            ),
            Endpoint(
                "POST", "/v1/messages", "operate", "carry a signed command or desired state to its board",
                lambda c: {"id": do.send(c.of(Signed), c.who)}, Signed,
            ),
            Endpoint(
                "GET", "/v1/messages/{id:path}", "read", "where a message stands", lambda c: do.message(c.path("id"))
            ),
            Endpoint(
                "POST", "/v1/rollouts", "operate", "offer a signed bundle to many boards, ring by ring",
                lambda c: do.roll_out(c.of(RolloutRequest), c.who), RolloutRequest,
            ),
            Endpoint("GET", "/v1/rollouts", "read", "all rollouts", lambda _: do.rollouts()),
            Endpoint("GET", "/v1/rollouts/{id}", "read", "one rollout", lambda c: do.rollout(c.path("id"))),
            Endpoint(
                "POST", "/v1/rollouts/{id}/{action}", "operate", "pause, resume, abort or approve it",
                lambda c: do.steer(c.path("id"), c.path("action"), c.who),
            ),
            Endpoint(
                "GET", "/v1/audit", "admin", "who did what, newest first",
                lambda c: do.audit(c.number("limit", 100, 1000)), query=("limit",),
            ),
        )  # fmt: skip

    def app(self) -> Starlette:
        """The application."""
        by_path: dict[str, dict[str, Callable[[Request], Any]]] = {}
        for endpoint in self.endpoints:  # one route for a path, so that a refused method is told all that there are
            by_path.setdefault(endpoint.path, {})[endpoint.method] = self._handler(endpoint)
        routes = [Route(path, _by_method(handlers), methods=list(handlers)) for path, handlers in by_path.items()]
        page = Page()
        shown = [Route("/", page.index, methods=["GET"]), Route("/page/{name}", page.file, methods=["GET"])]
        return Starlette(routes=[*routes, *shown])

    def _handler(self, endpoint: Endpoint) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            try:
                token = self._admitted(request, endpoint.role)
                body = await _body(request)
                answer = await run_in_threadpool(endpoint.act, Call(request, token, body))
            except QeilError as error:
                return self._counted(endpoint, _refusal(error))
            except SQLAlchemyError:
                return self._counted(endpoint, _refusal(StorageError("the database does not answer; try again")))
            if isinstance(answer, bytes):
                return self._counted(endpoint, Response(answer, media_type=prometheus.CONTENT_TYPE))
            return self._counted(endpoint, await run_in_threadpool(_answered, request, answer))

        return handle

    def _counted(self, endpoint: Endpoint, response: Response) -> Response:
        self.requests[endpoint.path, response.status_code] += 1
        return response

    def _admitted(self, request: Request, role: Role | None) -> Token | None:
        if role is None:
            return None
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        try:
            token = self._tokens.who(secret.strip(), self._wall_s()) if scheme.lower() == "bearer" else None
        except ConfigError as error:
            _log.error("tokens cannot be read", cause=error.message)
            raise StorageError("the tokens cannot be read at the moment; the controller's log says why") from error
        if token is None:
            raise Unauthorized("no good token; send Authorization: Bearer TOKEN (qeil fleet token makes one)")
        if not token.may(role):
            raise Forbidden(f"token {token.name} may {token.role}; this takes {role}")
        return token

    def openapi(self) -> dict[str, Any]:
        """The description of this API."""
        paths: dict[str, Any] = {}
        schemas: dict[str, Any] = {}
        for endpoint in self.endpoints:
            if endpoint.body is not None:
                made = endpoint.body.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= {**made.pop("$defs", {}), endpoint.body.__name__: made}
            path = endpoint.path.replace(":path}", "}")
            paths.setdefault(path, {})[endpoint.method.lower()] = _described(endpoint, path)
        return {
            "openapi": "3.1.0", "info": {"title": "QEIL fleet", "version": "1"}, "paths": paths,
            "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        }  # fmt: skip


def _by_method(handlers: Mapping[str, Callable[[Request], Any]]) -> Callable[[Request], Any]:
    async def handle(request: Request) -> Response:
        answer: Response = await handlers["GET" if request.method == "HEAD" else request.method](request)
        return answer

    return handle


_PARAMETERS: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
    "cls": {"enum": ["tlm", "evt", "gap"]},
    "action": {"enum": ["pause", "resume", "abort", "approve"]},
}


def _described(endpoint: Endpoint, path: str) -> dict[str, Any]:
    def of(name: str) -> dict[str, Any]:
        return _PARAMETERS.get(name, {"type": "string", "maxLength": 1024})

    inside = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    answers = {"200": {"description": "done"}}
    for code in (400, 401, 403, 404, 413, 503):
        answers[str(code)] = {"description": "refused, with the reason"}
    found: dict[str, Any] = {
        "summary": endpoint.about, "responses": answers,
        "parameters": [
            *({"name": n, "in": "path", "required": True, "schema": of(n)} for n in inside),
            *({"name": n, "in": "query", "schema": of(n)} for n in endpoint.query),
        ],
        "security": [] if endpoint.role is None else [{"token": []}],
    }  # fmt: skip
    if endpoint.body is not None:
        body = {"$ref": f"#/components/schemas/{endpoint.body.__name__}"}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return found


async def _body(request: Request) -> bytes:
    """The whole body; TooLarge before more than the bound is held."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise TooLarge(f"at most {MAX_BODY_BYTES} bytes are taken")
        parts.append(part)
    return b"".join(parts)


def _answered(request: Request, answer: Any) -> Response:
    """JSON, compressed where that pays and the client takes it."""
    response = JSONResponse(answer)
    if len(response.body) < MIN_COMPRESSED_BYTES or "gzip" not in request.headers.get("accept-encoding", ""):
        return response
    headers = {"content-encoding": "gzip", "vary": "accept-encoding"}
    return Response(gzip.compress(response.body, 1), media_type="application/json", headers=headers)


def _refusal(error: QeilError) -> JSONResponse:
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": "2"} if status == 503 else None
    return JSONResponse({"error": error.message, "code": error.code}, status, headers)
