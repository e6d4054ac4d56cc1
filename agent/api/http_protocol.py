"""HTTP protocol: uvicorn's connection with the bounds that it lacks.

Headers have a size, requests and answers must move at a minimum pace, connections have a number, requests that were
sent ahead wait unread, and refusals are JSON like every other answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from agent.api.direct import DirectPath, Exchange
from agent.api.errors import body_of
from agent.api.one_write import JOINED_BYTES, OneWrite
from agent.api.request_line import TOLD
from agent.records import record

MAX_HEADER_BYTES: Final = 65_536
MIN_BODY_BYTES_PER_S: Final = 65_536
"""Pace below which an upload counts as an attack; a slow serial link still has eight times that."""

CHECKS_PER_TIMEOUT: Final = 4
MAX_AHEAD: Final = 16
"""Requests of one connection that are read while an earlier one is answered; each costs some kilobytes."""
SLICE_BYTES: Final = 4096
"""Where a client sends many requests at once, so much of it is read at a time."""
TOO_SLOW: Final = 408
MAX_DRY_BYTES: Final = 262_144
"""Bytes that may arrive without completing a header or adding to a body; the parser keeps them all."""
SPARED_S: Final = 1.0
"""A connection that is silent for longer gives its place to a new one where all are taken."""


@record(frozen=True)
class ConnectionBounds:
    """What one client may cost."""

    max_connections: int
    receive_timeout_s: float


class HeaderTooLarge(Exception):
    """Raised into the parser to stop it."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        bounds: ConnectionBounds,
        direct: DirectPath,
        cut_off: Callable[[int, str, str], None],
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = bounds
        self._direct = direct
        self._cut_off = cut_off
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
        self._begun = False
        """Whether a request has begun and is not here in full."""
        self._dry_bytes = 0
        self._held = b""
        """What was sent ahead and is not parsed yet."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the client, or tell it that there are too many."""
        super().connection_made(cast("asyncio.Transport", OneWrite(transport, self.loop)))
        self._receiving_since_s = self.loop.time()
        if len(self.connections) > self._bounds.max_connections and not self._make_room():
            sentence = f"all {self._bounds.max_connections} connections are in use (http.max_connections)"
            self._refuse(503, "overloaded", sentence, b"retry-after: 1\r\n")
            return
        self._schedule()

    def _make_room(self) -> bool:
        """Close the connection that is silent for longest; False where none is for more than a moment."""
        others = [c for c in self.connections if isinstance(c, BoundedHttpProtocol) and c is not self]
        # The loop's clock ticks in milliseconds: of equals, one that never asked.
        silent = min(others, key=lambda c: (c.silent_since_s(), c.has_asked()), default=None)
        if silent is None or silent.silent_since_s() > self.loop.time() - SPARED_S:
            return False
        silent.transport.close()
        return True

    def silent_since_s(self) -> float:
        """When the client's last request ended, else when it connected without asking; inf while one is under way."""
        if self._begun or self.transport.is_closing():
            return math.inf
        waits = self._idle_since_s if self._idle_since_s is not None else self._receiving_since_s
        return math.inf if waits is None else waits

    def has_asked(self) -> bool:
        """Whether a request of this client has ended."""
        return self._idle_since_s is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._exchange = None
        self._held = b""
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
                self._refuse(TOO_SLOW, "too_slow", f"the request did not arrive within {allowed_s:.3g} s")
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

    # ------------------------------------------------------------------ what arrives

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, but of many requests at once only the first ones."""
        if self._held:
            self._held += data  # reading is paused: at most what was under way
        elif len(data) > SLICE_BYTES and data.count(b"HTTP/1.") > MAX_AHEAD:
            self._parse_some(data)
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        body_bytes, header_bytes = self._body_bytes, self._header_bytes
        super().data_received(data)
        if not self._begun or self._body_bytes != body_bytes:
            self._dry_bytes = 0
        else:
            self._dry_bytes = len(data) + (self._dry_bytes if self._header_bytes == header_bytes else 0)
        if self._dry_bytes > MAX_DRY_BYTES:
            self._refuse(431, "headers_too_large", f"{MAX_DRY_BYTES} bytes arrived that are neither header nor body")

    def _parse_some(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self.transport.is_closing():
            self._parse(data[at : at + SLICE_BYTES])
            at += SLICE_BYTES
            if len(self.pipeline) >= MAX_AHEAD:
                self._held = data[at:]
                self.flow.pause_reading()
                return

    def on_response_complete(self) -> None:
        """An answer is sent: the next request that waits; where none does, more is read."""
        super().on_response_complete()
        if self.pipeline or self._held:
            self.flow.pause_reading()  # the base class reads on, and what waits would grow without bound
        elif not self.transport.is_closing():
            self._idle_since_s = self.loop.time()
        if self._held and not self.pipeline:
            self.loop.call_soon(self._parse_held)  # this may be inside the parser

    def _parse_held(self) -> None:
        held, self._held = self._held, b""
        if not held or self.transport.is_closing():
            return
        if self._receiving_since_s is not None:
            self._receiving_since_s = self.loop.time()  # it was we who did not read
        self._parse_some(held)
        if not self._held and not self.pipeline:
            self.flow.resume_reading()

    def eof_received(self) -> None:
        """The client sends no more: half a request is refused, a whole one given up, as its sender is gone."""
        if self._begun and not self.transport.is_closing():
            self._refuse(400, "bad_http", "the request ended before it was complete")

    # ------------------------------------------------------------------ what the parser finds

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begun = True
        self._header_bytes = self._body_bytes = 0
        self._idle_since_s = None
        if self._receiving_since_s is None:
            self._receiving_since_s = self.loop.time()
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._header_bytes += len(url)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._too_large()
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._too_large()
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The body may follow: on the direct path where that is possible."""
        exchange = self._exchange = self._open_directly()
        if exchange is not None:
            self.cycle = exchange  # type: ignore[assignment] # has what uvicorn asks of one
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
        self._begun = False
        self._receiving_since_s = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.run()
        else:
            super().on_message_complete()

    # ------------------------------------------------------------------ the direct path's answers

    def answer(self, exchange: Exchange, status: int, head: bytes, *pieces: bytes | memoryview) -> None:
        """Send an answer at once; the next request may begin."""
        fixed = self._direct.fixed_lines(self.server_state.default_headers)
        if not exchange.keep_alive:
            fixed += b"connection: close\r\n"
        exchange.response_started = exchange.response_complete = True
        start = (STATUS_LINE[status], fixed, head, b"\r\n")
        if sum(map(len, pieces)) <= JOINED_BYTES:
            self.transport.write(b"".join((*start, *pieces)))
        else:
            self.transport.writelines((b"".join(start), *pieces))
        if not exchange.keep_alive:
            self.transport.close()
        if self.pipeline or self._held or self.transport.is_closing():
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

    def _too_large(self) -> None:
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
        if self._begun or status != TOO_SLOW:  # who connects and asks nothing has made no request
            self._cut_off(status, code, sentence)
            # The request whose body is arriving has its line now: that its connection ends is no second one.
            if self._exchange is not None:
                self._exchange.told = True
            elif self.cycle is not None and not isinstance(self.cycle, Exchange) and self.cycle.more_body:
                self.cycle.scope[TOLD] = True  # type: ignore[typeddict-unknown-key]
        if not answering:
            body = body_of(sentence, code)
            length = str(len(body)).encode()
            head = b"content-type: application/json\r\ncontent-length: " + length + b"\r\nconnection: close\r\n"
            self.transport.write(STATUS_LINE[status] + head + extra + b"\r\n" + body)
        self.transport.close()
