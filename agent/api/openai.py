"""OpenAI: /v1/models, /v1/completions and /v1/chat/completions, streamed or whole.

Everything happens on the event loop; texts are written elsewhere. A client that hangs up ends the writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from difflib import get_close_matches
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.api import reply, request_line
from agent.api.body import BODY_READ, Body, BodyBudget
from agent.api.catalogue import json_response
from agent.api.errors import ClientGone, Headers, status_of
from agent.api.feedback import Feedback
from agent.api.infer import deadline_s
from agent.api.openai_reply import END, Answer, error_document, event, model_document
from agent.api.openai_request import Asked, decode
from agent.api.request_line import REQUEST_ID, REQUEST_MODEL
from agent.errors import NotFound, QeilError
from agent.ports import InferenceService, TextService
from agent.schema.text import TextDone, TextEvent, TextPiece

HINT: Final = "(admission.max_json_body_bytes)"


class OpenAi:
    """Makes the routes."""

    def __init__(self, texts: TextService | None, service: InferenceService, budget: BodyBudget) -> None:
        self._texts, self._service, self._budget = texts, service, budget

    def routes(self) -> list[Route]:
        """The paths below /v1."""
        completions: ASGIApp = _Completions(self._texts, self._service, self._budget, chat=False)
        chat: ASGIApp = _Completions(self._texts, self._service, self._budget, chat=True)
        feedback: ASGIApp = Feedback(self._texts, self._service, self._budget)
        return [
            Route("/v1/models", self._models),
            Route("/v1/models/{model}", self._model),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/feedback", feedback, methods=["GET", "POST"]),
        ]

    async def _models(self, _: Request) -> Response:
        """The language models."""
        models = () if self._texts is None else self._texts.text_models()
        return json_response({"object": "list", "data": [model_document(model) for model in models]})

    async def _model(self, request: Request) -> Response:
        """One language model."""
        name = request.path_params["model"]
        models = {} if self._texts is None else {model.name: model for model in self._texts.text_models()}
        if name not in models:
            near = get_close_matches(name, models, 1)
            hint = f", did you mean {near[0]!r}?" if near else f" (known: {', '.join(models) or 'none'})"
            raise NotFound(f"there is no language model {name!r}{hint}", param="model")
        return json_response(model_document(models[name]))


class _Completions:
    """Text of a language model, whole or streamed, also from repeated samples."""

    def __init__(self, texts: TextService | None, service: InferenceService, budget: BodyBudget, *, chat: bool) -> None:
        self._texts, self._service, self._budget, self._chat = texts, service, budget, chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors before the first token propagate to the application."""
        headers = dict(scope["headers"])
        number = f"{'chatcmpl' if self._chat else 'cmpl'}-{secrets.token_hex(12)}"
        scope[REQUEST_ID], began_s = number, time.monotonic()
        body = Body(receive, self._budget, self._service.limits().max_json_body_bytes, HINT)
        try:
            data = await body.read(headers.get(b"content-length"), headers.get(b"content-encoding"))
            asked = decode(
                data, chat=self._chat, request_id=number, deadline_s=deadline_s(headers.get(b"x-deadline-s"))
            )
        finally:
            scope[BODY_READ] = body.finished
            body.release()
        scope[REQUEST_MODEL] = asked.text.model
        if self._texts is None:
            raise NotFound(f"this agent serves no language model{self._service.newer(asked.text.model)}", param="model")
        answer = Answer(asked, number, time.time())
        async with _written(self._texts, asked, receive, self._service.newer) as inbox:
            first = await inbox.take()
            if isinstance(first[0], QeilError):
                raise first[0]
            if asked.stream:
                end = await _stream(send, answer, inbox, first)
            else:
                end = await _whole(send, answer, inbox, first, headers.get(b"accept-encoding"))
        line = request_line.of_scope(scope)
        if isinstance(end, TextDone):
            request_line.written(line, end, time.monotonic() - began_s)
        else:
            request_line.refused(line, end, status_of(end))


async def _whole(send: Send, answer: Answer, inbox: Inbox, events: list[TextEvent], accept: bytes | None) -> TextDone:
    """Send the whole text; its errors are raised."""
    while True:
        for item in events:
            if isinstance(item, QeilError):
                raise item
            if isinstance(item, TextDone):
                out: Headers = [reply.JSON]
                data = reply.dumps(answer.whole(item))
                await reply.send_body(send, 200, out, reply.compressed(data, accept, out))
                return item
            answer.take(item)
        events = await inbox.take()


async def _stream(send: Send, answer: Answer, inbox: Inbox, events: list[TextEvent]) -> TextDone | QeilError:
    """Send the text as it comes; what it ended with."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while True:
        data = b""
        end: TextDone | QeilError | None = None
        for item in events:
            if isinstance(item, TextPiece):
                data += b"".join(event(chunk) for chunk in answer.chunks(item))
            elif isinstance(item, TextDone):
                data, end = data + b"".join(event(chunk) for chunk in answer.last_chunk(item)) + END, item
            else:
                data, end = data + event(error_document(item, status_of(item))), item
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": end is None})
        if end is not None:
            return end
        events = await inbox.take()


class Inbox:
    """Events of one request, from any thread to the event loop. Bounded by the tokens that the request may write."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._events: deque[TextEvent] = deque()
        self._ready = asyncio.Event()
        self.gone = False

    def put(self, item: TextEvent) -> None:
        """Hand an event over."""
        self._events.append(item)
        if threading.get_ident() == self._thread:
            self._ready.set()
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed while a lane still worked: nobody waits
            self._loop.call_soon_threadsafe(self._ready.set)

    def leave(self) -> None:
        """The client is gone. On the event loop."""
        self.gone = True
        self._ready.set()

    async def take(self) -> list[TextEvent]:
        """Everything that has arrived, at least one event. Raises ClientGone."""
        while not self._events:
            if self.gone:
                raise ClientGone
            self._ready.clear()
            if not self._events:
                await self._ready.wait()
        if self.gone:
            raise ClientGone
        events = list(self._events)
        for _ in events:
            self._events.popleft()
        return events


@contextlib.asynccontextmanager
async def _written(
    texts: TextService, asked: Asked, receive: Receive, newer: Callable[[str], str]
) -> AsyncIterator[Inbox]:
    """The events of a request that is being written; given up when this is left early or the client hangs up."""
    inbox = Inbox()
    plan = asked.plan or texts.plan_of(asked.text)
    try:
        handle = texts.write(asked.text, inbox.put) if plan is None else texts.answer(asked.text, plan, inbox.put)
    except NotFound as error:
        raise NotFound(error.message + newer(asked.text.model), **error.context) from error
    watch = asyncio.get_running_loop().create_task(_watch(receive, inbox))
    try:
        yield inbox
    finally:
        handle.cancel()
        watch.cancel()


async def _watch(receive: Receive, inbox: Inbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    inbox.leave()


def refusal(error: QeilError, status: int) -> bytes:
    """The body of an error on a path below /v1."""
    return reply.dumps(error_document(error, status))
