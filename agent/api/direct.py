"""Direct path: infer requests of the usual form are answered by their connection, without a task of their own.

A request takes it when its connection is idle and nothing about it is unusual (`DirectPath.open`). All others, and all
that would be refused before their body is read, go through the ASGI application, which gives the same answers.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Final, NamedTuple, Protocol

from agent.api import messages, reply, request_line
from agent.api.access import Gate
from agent.api.body import BodyBudget
from agent.api.errors import Headers
from agent.api.forms import Forms
from agent.api.heads import Heads
from agent.api.infer import deadline_s, header_length
from agent.api.request_line import Asked
from agent.errors import Overloaded, QeilError
from agent.ports import InferenceAnswer, InferenceService, RequestLimits

UNRESERVED_BYTES: Final = 256 * 1024
"""Bodies up to this size come in one or a few pieces; larger ones are counted in the budget of all bodies."""
MAX_KEPT: Final = 256
"""Heads of requests remembered; all are forgotten when there are more."""
MAX_KEPT_BYTES: Final = 2048
"""Of one of them."""

_PATH: Final = re.compile(rb"/v2/models/([A-Za-z0-9_.\-]+)/infer")
_UNUSUAL: Final = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"connection"})
_OK: Final = b"HTTP/1.1 200 OK\r\n"
_Refusal = tuple[int, Headers, bytes]
_Key = tuple[bytes | tuple[bytes, bytes], ...]


class _Head(NamedTuple):
    """What the request line and the header fields of a usual request say. Its fields may pass the gate."""

    model: str
    headers: dict[bytes, bytes]
    header_bytes: int | None
    length: int
    largest: int
    """The larger of the two."""


class Connection(Protocol):
    """What an exchange needs of its connection."""

    def answer(self, exchange: Exchange, status: int, head: bytes, *pieces: bytes | memoryview) -> None:
        """Send the answer, whose body comes in pieces, and go on with the next request."""
        ...

    def on_loop(self, function: Callable[[], None]) -> None:
        """Call from the event loop's thread, soon."""
        ...


class _Deaf:
    """Stands for the event that uvicorn sets for tasks; an exchange has none that would wait for it."""

    @staticmethod
    def set() -> None:
        """Nobody listens."""


class DirectPath:
    """Shared by all connections. Lives on the event loop's thread."""

    def __init__(
        self,
        service: InferenceService,
        gate: Gate,
        budget: BodyBudget,
        refuse: Callable[[QeilError, Asked], _Refusal],
        confess: Callable[[Exception, str, str], QeilError],
        numbers: Iterator[int],
    ) -> None:
        """`refuse` gives the answer to an error and tells it; `confess` makes an error of a bug and logs it.

        `numbers`: of requests, shared with whoever else numbers them.
        """
        self.service = service
        self.heads = Heads()
        self.forms = Forms()
        self.budget = budget
        self.refuse = refuse
        self.confess = confess
        self.numbers = numbers
        self._gate = gate
        self._known: dict[_Key, _Head] = {}
        self._fixed: tuple[Headers, bytes] = [], b""

    def open(self, connection: Connection, url: bytes, fields: list[tuple[bytes, bytes]]) -> Exchange | None:
        """An exchange for a POST request with these header fields; None where it is not a usual infer request."""
        key: _Key = (url, *fields)
        head = self._known.get(key) or self._learn(key, url, fields)
        if head is None:
            return None
        limits = self.service.limits()
        large = head.largest > limits.max_json_body_bytes or head.largest > limits.max_body_bytes
        if large and head.length > _bound(limits, head.header_bytes):
            return None
        reserved = head.length if head.length > UNRESERVED_BYTES else 0
        if reserved:
            try:
                self.budget.take(reserved)
            except QeilError:
                return None  # the application says why
        return Exchange(self, connection, head, reserved)

    def fixed_lines(self, headers: Headers) -> bytes:
        """The lines of the headers that every answer has; whoever gives them makes a new list when one changes."""
        if self._fixed[0] is not headers:
            self._fixed = headers, _lines(headers)
        return self._fixed[1]

    def _learn(self, key: _Key, url: bytes, fields: list[tuple[bytes, bytes]]) -> _Head | None:
        """What these fields say, kept where they may pass: a client sends the same ones again and again."""
        match = _PATH.fullmatch(url)
        headers = dict(fields)
        if match is None or len(headers) != len(fields) or not _UNUSUAL.isdisjoint(headers):
            return None
        try:
            length = int(headers.get(b"content-length", b"0"))
            header_bytes = header_length(headers.get(b"inference-header-content-length"))
            self._gate.check(url.decode(), "POST", headers)
        except (QeilError, ValueError):
            return None  # the application says why
        head = _Head(match[1].decode(), headers, header_bytes, length, max(length, header_bytes or 0))
        if sum(len(name) + len(value) for name, value in fields) <= MAX_KEPT_BYTES:
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            self._known[key] = head
        return head


def _bound(limits: RequestLimits, header_bytes: int | None) -> int:
    if header_bytes is None:
        return min(limits.max_json_body_bytes, limits.max_body_bytes)
    return limits.max_body_bytes if header_bytes <= limits.max_json_body_bytes else -1


class Exchange:
    """One request and its answer. Has what uvicorn's connection asks of a request in progress."""

    message_event = _Deaf()

    def __init__(
        self, path: DirectPath, connection: Connection, head: _Head, reserved_bytes: int
    ) -> None:  # fmt: skip
        self.response_started = self.response_complete = False
        self.disconnected = False
        self.told = False
        """Whether its connection has refused the rest of it, and told that."""
        self.keep_alive = True
        self._path = path
        self._connection = connection
        self._model, self._headers, self._header_bytes, self._length, _ = head
        self._reserved_bytes = reserved_bytes
        self._number: str | None = None
        self._body: bytes | bytearray = b""
        self._filled = 0
        self._decoded: messages.DecodedRequest | None = None
        self._future: Future[InferenceAnswer] | None = None

    def add(self, piece: bytes) -> None:
        """Part of the body, in order."""
        if len(piece) == self._length:
            self._body = piece
            return
        if not self._filled:
            self._body = bytearray(self._length)
        assert isinstance(self._body, bytearray)  # noqa: S101  (made with the first piece)
        self._body[self._filled : self._filled + len(piece)] = piece
        self._filled += len(piece)

    def run(self) -> None:
        """The body is complete: ask the service."""
        path = self._path
        self._number = f"http-{next(path.numbers)}"
        try:
            given = self._headers.get(b"x-deadline-s")
            after_s = None if given is None else deadline_s(given)
            self._decoded = path.heads.decode(self._model, self._body, self._header_bytes, after_s, self._number)
            self._future = path.service.infer(self._decoded.request)
        except QeilError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - root of the request: a bug must cost one answer, not the server
            self._refuse(path.confess(error, "POST", f"/v2/models/{self._model}/infer"))
        else:
            self._thread = threading.get_ident()
            self._future.add_done_callback(self._settled)

    def give_up(self) -> None:
        """The client is gone."""
        self.disconnected = True
        if not self.told:
            request_line.gone(self._asked())
        self._release()
        if self._future is not None:
            self._future.cancel()

    # ------------------------------------------------------------------ the answer

    def _settled(self, _: Future[InferenceAnswer]) -> None:
        if threading.get_ident() == self._thread:
            self._finish()
        else:
            self._connection.on_loop(self._finish)

    def _finish(self) -> None:
        future, self._future = self._future, None  # which refers to this exchange: the answer would outlive it
        assert future is not None  # noqa: S101  (it has settled)
        assert self._decoded is not None  # noqa: S101
        if self.disconnected:
            return
        try:
            encoded = self._path.forms.encode(future.result(0), self._decoded)
        except CancelledError:
            self._refuse(Overloaded("the request was cancelled inside the agent; send it again"))
            return
        except QeilError as error:
            self._refuse(error)
            return
        except Exception as error:  # noqa: BLE001 - root of the request: a bug must cost one answer, not the server
            self._refuse(self._path.confess(error, "POST", f"/v2/models/{self._model}/infer"))
            return
        headers: Headers = []
        pieces, length = encoded.pieces, encoded.length
        accepted = self._headers.get(b"accept-encoding")
        if accepted is not None:
            body = reply.compressed(encoded.body, accepted, headers)
            pieces, length = (body,), len(body)
        if encoded.header_bytes is None:
            head = b"content-type: application/json\r\ncontent-length: %d\r\n" % length
        else:
            head = (
                b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
                b"content-length: %d\r\n" % (encoded.header_bytes, length)
            )
        self._send(200, head + _lines(headers) if headers else head, *pieces)

    def _refuse(self, error: QeilError) -> None:
        status, headers, body = self._path.refuse(error, self._asked())
        self._send(status, _lines([*headers, (b"content-length", b"%d" % len(body))]), body)

    def _asked(self) -> Asked:
        return Asked("POST", f"/v2/models/{self._model}/infer", self._number, self._model)

    def _send(self, status: int, head: bytes, *pieces: bytes | memoryview) -> None:
        self._release()
        if not self.disconnected:
            self._connection.answer(self, status, head, *pieces)

    def _release(self) -> None:
        if self._reserved_bytes:
            self._path.budget.give(self._reserved_bytes)
            self._reserved_bytes = 0


def _lines(headers: Headers) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)
