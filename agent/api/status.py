"""Status: the snapshot as JSON and as a stream of events, and the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agent.api import prometheus, reply
from agent.errors import Overloaded
from agent.ports import InferenceService
from agent.schema.metric import Metric
from agent.schema.snapshot import AgentSnapshot

EVENT_PERIOD_S: Final = 1.0
KEEP_ALIVE_PERIODS: Final = 15
"""After so many periods without a change a comment keeps proxies from closing the stream."""


class StatusPages:
    """Handlers of /status and /metrics."""

    def __init__(self, service: InferenceService, edge_metrics: Callable[[], tuple[Metric, ...]]) -> None:
        self._service = service
        self._edge_metrics = edge_metrics

    async def status(self, _: Request) -> Response:
        """The snapshot."""
        return Response(encode(self._service.snapshot()), media_type="application/json")

    async def metrics(self, _: Request) -> Response:
        """Everything countable, for Prometheus."""
        body = prometheus.render((*self._service.metrics(), *self._edge_metrics()))
        return Response(body, headers={"content-type": prometheus.CONTENT_TYPE})


def encode(snapshot: AgentSnapshot) -> bytes:
    """The snapshot as `qeil status --json` prints it."""
    return reply.dumps(asdict(snapshot))


class EventStream:
    """Server-sent snapshots, at most one a second and only when something changed."""

    def __init__(self, service: InferenceService, max_streams: int) -> None:
        self._service = service
        self._max_streams = max_streams
        self._stopping = asyncio.Event()
        self.streams = 0

    def stop(self) -> None:
        """End every stream, so that the server can close. On the event loop."""
        self._stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One subscriber until it leaves or the server stops."""
        if scope["method"] == "GET" and self.streams >= self._max_streams:
            raise Overloaded(f"all {self._max_streams} event streams are in use (http.max_event_streams)", 10.0)
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "GET":
            self.streams += 1
            ends = {asyncio.create_task(_gone(receive)), asyncio.create_task(_set(self._stopping))}
            try:
                await self._stream(send, ends)
            finally:
                self.streams -= 1
                for task in ends:
                    task.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _stream(self, send: Send, ends: set[asyncio.Task[object]]) -> None:
        shown: AgentSnapshot | None = None
        silent = 0
        while True:
            snapshot = self._service.snapshot()
            silent += 1
            if snapshot != shown:
                chunk = b"event: snapshot\ndata: " + encode(snapshot) + b"\n\n"
                shown, silent = snapshot, 0
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            elif silent >= KEEP_ALIVE_PERIODS:
                silent = 0
                await send({"type": "http.response.body", "body": b": still here\n\n", "more_body": True})
            done, _ = await asyncio.wait(ends, timeout=EVENT_PERIOD_S, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return


async def _set(event: asyncio.Event) -> object:
    return await event.wait()


async def _gone(receive: Receive) -> object:
    while (await receive())["type"] != "http.disconnect":
        continue
    return True
