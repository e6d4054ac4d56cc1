"""HTTP protocol: uvicorn's connection with the bounds that it lacks.

Headers have a size, requests and answers must move at a minimum pace, connections have a number, and refusals are
JSON like every other answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from agent.api.direct import DirectPath, Exchange
from agent.api.errors import body_of

MAX_HEADER_BYTES: Final = 65_536
MIN_BODY_BYTES_PER_S: Final = 65_536
"""Pace below which an upload counts as an attack; a slow serial link still has eight times that."""

CHECKS_PER_TIMEOUT: Final = 4
JOINED_BYTES: Final = 65_536
"""Pieces up to this size are copied behind their head; a second system call is cheaper than copying more."""


@dataclass(frozen=True)
class ConnectionBounds:
    """What one client may cost."""

    max_connections: int
    receive_timeout_s: float


class HeaderTooLarge(Exception):
    """Raised into the parser to stop it."""


class OneWrite:
    """A transport that sends the head of an answer together with the first piece of its body: one system call, and
    the client wakes up once. A head without a body leaves with the loop's next turn.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, after what is held back."""
        if self._head is None and data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self.flush)
        elif self._head is None:
            self._transport.write(data)
        elif len(data) <= JOINED_BYTES:
            head, self._head = self._head, None
            self._transport.write(head + data)
        else:
            self.flush()
            self._transport.write(data)

    def flush(self) -> None:
        """Send a head that is held back."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)

    def close(self) -> None:
        """Close once everything is sent."""
        self.flush()
        self._transport.close()


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        bounds: ConnectionBounds,
        direct: DirectPath,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = bounds
        self._direct = direct
        self._exchange: Exchange | None = None
        """A request on the direct path whose body is arriving."""
        self._header_bytes = 0
        self._body_bytes = 0
        self._receiving_since_s: float | None = None
        self._blocked_since_s: float | None = None
        self._idle_since_s: float | None = None
        self._idle_check: asyncio.TimerHandle | None = None
        self._check: asyncio.TimerHandle | None = None
        self._refusal: tuple[int, str, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the client, or tell it that there are too many."""
        super().connection_made(cast("asyncio.Transport", OneWrite(transport, self.loop)))
        if len(self.connections) > self._bounds.max_connections:
            sentence = f"all {self._bounds.max_connections} connections are in use (http.max_connections)"
            self._refuse(503, "overloaded", sentence, b"retry-after: 1\r\n")
            return
        self._receiving_since_s = self.loop.time()
        self._schedule()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._exchange = None
        if isinstance(self.cycle, Exchange) and not self.cycle.response_complete:
            self.cycle.give_up()
        for timer in (self._check, self._idle_check):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    # ------------------------------------------------------------------ pace

    def _schedule(self) -> None:
        self._check = self.loop.call_later(self._bounds.receive_timeout_s / CHECKS_PER_TIMEOUT, self._check_pace)

    def _check_pace(self) -> None:
        now_s = self.loop.time()
        timeout_s = self._bounds.receive_timeout_s
        if self._blocked_since_s is not None and now_s - self._blocked_since_s > timeout_s:
            self.transport.abort()  # the client does not read its answer: closing in order would wait for it
        elif self._receiving_since_s is not None and not self._waits_for_us():
            allowed_s = timeout_s + self._body_bytes / MIN_BODY_BYTES_PER_S
            if now_s - self._receiving_since_s > allowed_s:
                self._refuse(408, "too_slow", f"the request did not arrive within {allowed_s:.3g} s")
        if not self.transport.is_closing():
            self._schedule()

    def _went_idle(self) -> None:
        """Close after a while without a request. One timer does for many requests: it looks again where there were."""
        self._idle_since_s = self.loop.time()
        if self._idle_check is None:
            self._idle_check = self.loop.call_later(self.timeout_keep_alive, self._check_idle)

    def _check_idle(self) -> None:
        self._idle_check = None
        if self._idle_since_s is None or self.transport.is_closing():
            return
        rest_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if rest_s <= 0:
            self.transport.close()
        else:
            self._idle_check = self.loop.call_later(rest_s, self._check_idle)

    def _waits_for_us(self) -> bool:
        """Whether it is the agent that does not read at the moment."""
        return self.flow.read_paused

    # ------------------------------------------------------------------ what the parser finds

    def on_message_begin(self) -> None:
        """A request begins."""
        self._header_bytes = self._body_bytes = 0
        self._idle_since_s = None
        if self._receiving_since_s is None:
            self._receiving_since_s = self.loop.time()
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._count(len(url))
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value))
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The body may follow: on the direct path where that is possible."""
        self._exchange = self._open_directly()
        if self._exchange is not None:
            self.cycle = cast("RequestResponseCycle", self._exchange)
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, which the direct path has no use for
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def _open_directly(self) -> Exchange | None:
        idle = self.cycle is None or self.cycle.response_complete
        parser = self.parser
        if not idle or self.flow.write_paused or self.transport.is_closing() or parser.get_method() != b"POST":
            return None
        if parser.get_http_version() != "1.1" or not parser.should_keep_alive():
            return None
        return self._direct.open(self, self.url, self.headers)

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._body_bytes += len(body)
        if self._exchange is not None:
            self._exchange.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here."""
        self._receiving_since_s = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.run()
        else:
            super().on_message_complete()

    # ------------------------------------------------------------------ the direct path's answers

    def answer(self, exchange: Exchange, status: int, head: bytes, body: bytes) -> None:
        """Send an answer in one piece; the next request may begin."""
        fixed = b"".join(name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers)
        if not exchange.keep_alive:
            fixed += b"connection: close\r\n"
        exchange.response_started = exchange.response_complete = True
        if len(body) <= JOINED_BYTES:
            self.transport.write(b"".join((STATUS_LINE[status], fixed, head, b"\r\n", body)))
        else:
            self.transport.write(b"".join((STATUS_LINE[status], fixed, head, b"\r\n")))
            self.transport.write(body)
        if not exchange.keep_alive:
            self.transport.close()
        if self.pipeline or self.transport.is_closing():
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._went_idle()

    def on_loop(self, function: Callable[[], None]) -> None:
        """Call from this loop's thread; nothing once the loop is closed, as nobody waits any more."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function)

    # ------------------------------------------------------------------ pace of what we send

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self._blocked_since_s = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It caught up."""
        self._blocked_since_s = None
        super().resume_writing()

    # ------------------------------------------------------------------ refusals

    def _count(self, size_bytes: int) -> None:
        self._header_bytes += size_bytes
        if self._header_bytes > MAX_HEADER_BYTES:
            sentence = f"the request's headers exceed {MAX_HEADER_BYTES} bytes"
            self._refusal = (431, "headers_too_large", sentence)
            raise HeaderTooLarge(sentence)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the base class's sentence is vaguer
        """Called by the base class when the parser stopped."""
        status, code, sentence = self._refusal or (400, "bad_http", "this is not a valid HTTP/1.1 request")
        self._refuse(status, code, sentence)

    def _refuse(self, status: int, code: str, sentence: str, extra: bytes = b"") -> None:
        if self.transport.is_closing():
            return
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not answering:
            body = body_of(sentence, code)
            length = str(len(body)).encode()
            head = b"content-type: application/json\r\ncontent-length: " + length + b"\r\nconnection: close\r\n"
            self.transport.write(STATUS_LINE[status] + head + extra + b"\r\n" + body)
        self.transport.close()
