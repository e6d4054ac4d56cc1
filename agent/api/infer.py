"""Infer: the hot path from a request's bytes to its answer's bytes.

Everything happens on the event loop but the inference itself, which the service runs elsewhere.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Final, TypeVar

from starlette.types import Receive, Scope, Send

from agent.api import messages, reply
from agent.api.body import BODY_READ, Body, BodyBudget
from agent.api.errors import ClientGone, Headers
from agent.api.request_line import REQUEST_ID
from agent.errors import BadInput, NotFound, Overloaded
from agent.ports import InferenceService

WATCH_AFTER_S: Final = 0.02
"""A request that takes longer is watched for a client that hangs up; a quicker one is not worth the task."""

JSON_HINT: Final = (
    "as JSON (admission.max_json_body_bytes): send the tensors in binary (binary_data_size, "
    "Inference-Header-Content-Length)"
)
BINARY_HINT: Final = "(admission.max_body_bytes)"
_T = TypeVar("_T")


class InferEndpoint:
    """Run a model once; tensors as JSON or binary."""

    def __init__(self, service: InferenceService, budget: BodyBudget, numbers: Iterator[int]) -> None:
        """`numbers`: of requests, shared with whoever else numbers them."""
        self._service = service
        self._budget = budget
        self._numbers = numbers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors propagate to the application."""
        headers = dict(scope["headers"])
        model = scope["path_params"]["model"]
        version = scope["path_params"].get("version")
        number = scope[REQUEST_ID] = f"http-{next(self._numbers)}"
        if version is not None:
            check_version(self._service, model, version)
        header_bytes = header_length(headers.get(b"inference-header-content-length"))
        limits = self._service.limits()
        if header_bytes is None:
            bound = min(limits.max_json_body_bytes, limits.max_body_bytes)
            body = Body(receive, self._budget, bound, JSON_HINT)
        elif header_bytes > limits.max_json_body_bytes:
            raise BadInput(f"Inference-Header-Content-Length exceeds {limits.max_json_body_bytes} bytes of JSON")
        else:
            body = Body(receive, self._budget, limits.max_body_bytes, BINARY_HINT)
        try:
            data = await body.read(headers.get(b"content-length"), headers.get(b"content-encoding"))
            decoded = messages.decode(model, data, header_bytes, deadline_s(headers.get(b"x-deadline-s")), number)
            answer = await settled(self._service.infer(decoded.request), receive)
            encoded = messages.encode(answer, decoded)
        finally:
            scope[BODY_READ] = body.finished
            body.release()
        out: Headers = [reply.JSON]
        if encoded.header_bytes is not None:
            out = [reply.OCTETS, (b"inference-header-content-length", str(encoded.header_bytes).encode())]
        await reply.send_body(send, 200, out, reply.compressed(encoded.body, headers.get(b"accept-encoding"), out))


def check_version(service: InferenceService, model: str, version: str) -> None:
    """NotFound unless the model has that version."""
    known = service.model(model).versions
    if version not in known:
        raise NotFound(f"model {model!r} has no version {version!r} (known: {', '.join(known)})")


def header_length(value: bytes | None) -> int | None:
    """Bytes of the JSON part, from Inference-Header-Content-Length; BadInput unless it is a number above 0."""
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise BadInput("Inference-Header-Content-Length must be the number of bytes of the JSON part")
    length = int(value)
    if length == 0:
        raise BadInput("Inference-Header-Content-Length is 0: requests without a JSON part are not read here")
    return length


def deadline_s(value: bytes | None) -> float | None:
    """Seconds from now, from X-Deadline-S; BadInput unless they are finite and above 0."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BadInput("X-Deadline-S must be a number of seconds above 0")
    return seconds


async def settled(future: Future[_T], receive: Receive) -> _T:
    """The future's result; a client that hangs up meanwhile cancels the future and ClientGone is raised."""
    if not future.done():
        await _wait(future, receive)
    try:
        return future.result(0)
    except CancelledError as error:
        raise Overloaded("the request was cancelled inside the agent; send it again") from error


async def _wait(future: Future[_T], receive: Receive) -> None:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    watch: list[asyncio.Task[None]] = []
    timer = loop.call_later(WATCH_AFTER_S, lambda: watch.append(loop.create_task(_watch(receive, waiter))))

    here = threading.get_ident()

    def wake(_: Future[_T]) -> None:
        if threading.get_ident() == here:
            _release(waiter)
            return
        try:
            loop.call_soon_threadsafe(_release, waiter)
        except RuntimeError:
            return  # the loop was closed while a lane still worked: nobody waits any more

    future.add_done_callback(wake)
    try:
        await waiter
    except BaseException:
        future.cancel()
        raise
    finally:
        timer.cancel()
        for task in watch:
            task.cancel()


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _watch(receive: Receive, waiter: asyncio.Future[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    if not waiter.done():
        waiter.set_exception(ClientGone())
