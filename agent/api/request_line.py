"""Request line: the one line that a request leaves in the log, however it ends.

An inference that was answered is told where its joules are known; everything else that ends a request is told here,
because here all ends meet: refused before anything ran, failed, given up by its client, answered from what is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
from starlette.types import Scope

from agent.api.errors import sentence_of
from agent.errors import QeilError
from agent.records import record

if TYPE_CHECKING:  # boards without texts start sooner without it
    from agent.schema.text import TextDone

_log = structlog.get_logger("request")
REQUEST_ID: Final = "qeil.request_id"
"""Key of a scope under which an endpoint that numbers its requests leaves the number."""
REQUEST_MODEL: Final = "qeil.request_model"
"""And the model, where it stands in the body."""
TOLD: Final = "qeil.told"
"""And whether its connection has refused the rest of it, and told that: that it then ends is no second line."""
SERVER_FAULT: Final = 500
UNAVAILABLE: Final = 503
CLIENT_GONE: Final = "client_gone"
_SHOWN: Final = 200
"""Characters of a path: a client chooses them."""
_READING: Final = frozenset({"GET", "HEAD"})


@record(frozen=True)
class Asked:
    """What was asked, as far as it is known. `id`: None before the request has one."""

    method: str
    path: str
    id: str | None = None
    model: str | None = None


def of_scope(scope: Scope) -> Asked:
    """What an ASGI request asks."""
    model = scope.get(REQUEST_MODEL) or (scope.get("path_params") or {}).get("model")
    return Asked(scope["method"], scope["path"], scope.get(REQUEST_ID), model)


def refused(asked: Asked, error: QeilError, http: int) -> None:
    """It ended with an error: information where the client can mend it, a warning where it cannot.

    Of a page that is read, 503 is what it was asked for: whether the agent is ready is polled until it is.
    """
    polled = http == UNAVAILABLE and asked.method in _READING
    tell = _log.warning if http >= SERVER_FAULT and not polled else _log.info
    facts = {} if asked.model is None else {"model": asked.model}
    tell(
        "request", id=asked.id, **facts, method=asked.method, path=asked.path[:_SHOWN], status=error.code, http=http,
        error=sentence_of(error.message), replays=error.context.get("replays", 0),
    )  # fmt: skip


def unread(http: int, code: str, sentence: str) -> None:
    """It ended before it could be read: too slow, too large, no HTTP, or one connection too many."""
    _log.info("request", id=None, method=None, path=None, status=code, http=http, error=sentence)


def gone(asked: Asked) -> None:
    """Its client hung up before the answer."""
    facts = {} if asked.model is None else {"model": asked.model}
    _log.info("request", id=asked.id, **facts, method=asked.method, path=asked.path[:_SHOWN], status=CLIENT_GONE)


def answered(asked: Asked) -> None:
    """It was answered without an inference. Pages that are polled would drown the rest: they are told to debuggers."""
    tell = _log.debug if asked.method in _READING else _log.info
    tell("request", id=asked.id, method=asked.method, path=asked.path[:_SHOWN], status="ok", http=200)


def written(asked: Asked, done: TextDone, took_s: float) -> None:
    """A language model has written its text."""
    usage = done.usage
    _log.info(
        "request", id=asked.id, model=asked.model, method=asked.method, path=asked.path[:_SHOWN], status="ok", http=200,
        placement=done.placement, ms=round(took_s * 1e3, 3), tokens=usage.tokens, prompt_tokens=usage.prompt_tokens,
        replays=done.replays, energy_j=usage.energy_j, provenance=usage.provenance,
    )  # fmt: skip
