"""Messages: what boards publish, checked before anything is stored. Pure: bytes in, plain data or a named refusal out.

The tenant and board are those of the topic, which the broker's access list vouches for; what a payload says of them is
not looked at.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeGuard

from agent.mqtt.topics import ROOT
from agent.records import record

MAX_BYTES = 256 * 1024
MAX_ROWS = 512
MAX_NUMBER = 2**53 - 1
_TOPIC = re.compile(
    re.escape(ROOT) + r"/([a-z0-9][a-z0-9._-]{0,63})/([a-z0-9][a-z0-9._-]{0,63})/up/(.{1,256})", re.DOTALL
)
_ROWS = {"tlm/agent": "tlm", "evt/agent": "evt", "gap": "gap"}
_DOCUMENTS = {"state": "state", "rep": "rep", "bundle": "bundle"}

BoardKey = tuple[str, str]
"""Tenant and board."""


class MessageRefused(Exception):
    """Not stored; `code` says in one word why. `board` where the topic named one."""

    def __init__(self, code: str, board: BoardKey | None) -> None:
        super().__init__(code)
        self.code = code
        self.board = board


@record(frozen=True)
class Rows:
    """Numbered rows of one boot and class; row i has the number `first` + i. `payloads` are JSON texts."""

    board: BoardKey
    boot: int
    cls: str
    first: int
    payloads: tuple[str, ...]
    documents: tuple[dict[str, Any], ...]


@record(frozen=True)
class Told:
    """A retained document (state, rep, bundle) or where a command stands (res)."""

    board: BoardKey
    kind: str
    document: dict[str, Any]


def parse(topic: str, payload: bytes) -> Rows | Told | None:
    """What was said; None for what no consumer needs. MessageRefused for anything malformed."""
    found = _TOPIC.fullmatch(topic)
    if found is None:
        raise MessageRefused("bad_topic", None)
    board, part = (found[1], found[2]), found[3]
    if not payload:  # a retained message was deleted
        return None
    if len(payload) > MAX_BYTES:
        raise MessageRefused("too_large", board)
    kind = _DOCUMENTS.get(part) or ("res" if part.startswith("res/") else None)
    if kind is None and part not in _ROWS:
        raise MessageRefused("bad_topic", board)
    document = _document(payload, board)
    return _rows(document, board, _ROWS[part]) if kind is None else _told(document, board, kind)


def _document(payload: bytes, board: BoardKey) -> dict[str, Any]:
    try:
        document = _DECODER.decode(payload.decode())
    except (ValueError, RecursionError) as error:
        raise MessageRefused("malformed", board) from error
    if b"\\u" in payload and _half(document):
        raise MessageRefused("malformed", board)
    if not isinstance(document, dict) or document.get("v") != 1:
        raise MessageRefused("wrong_version" if isinstance(document, dict) else "malformed", board)
    return document


def _half(document: object) -> bool:
    """Whether there is half a character in it: JSON can say that, but no answer that repeats it could be sent."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return True
    return False


def _rows(document: dict[str, Any], board: BoardKey, cls: str) -> Rows:
    rows, boot, first = document.get("rows"), document.get("boot"), document.get("seq0")
    if document.get("cls") != cls or not isinstance(rows, list) or not 0 < len(rows) <= MAX_ROWS:
        raise MessageRefused("bad_rows", board)
    if not is_number(boot) or not is_number(first) or first + len(rows) > MAX_NUMBER:
        raise MessageRefused("bad_number", board)
    if not all(isinstance(row, dict) for row in rows):
        raise MessageRefused("bad_rows", board)
    texts = tuple(_text(row, board) for row in rows)
    return Rows(board, boot, cls, first, texts, tuple(rows))


def _told(document: dict[str, Any], board: BoardKey, kind: str) -> Told:
    if kind == "state" and not (
        isinstance(document.get("online"), bool) and is_number(document.get("boot")) and is_number(document.get("conn"))
    ):
        raise MessageRefused("bad_state", board)
    if kind == "res" and not isinstance(document.get("status"), str):
        raise MessageRefused("bad_response", board)
    _text(document, board)
    return Told(board, kind, document)


def _text(document: dict[str, Any], board: BoardKey) -> str:
    """As it is stored; what cannot be written again (nested too deep, numbers too long or beyond floats) is refused."""
    try:
        return _ENCODER.encode(document)
    except (ValueError, RecursionError) as error:
        raise MessageRefused("malformed", board) from error


def is_number(value: object) -> TypeGuard[int]:
    """Whether it can number a start or a row."""
    return type(value) is int and 0 <= value <= MAX_NUMBER


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
"""Made once: json.loads and json.dumps with arguments make new ones for each message."""


def acknowledgement(boot: int, cls: str, ranges: list[tuple[int, int]]) -> bytes:
    """The payload for down/ack."""
    document = {"v": 1, "boot": boot, "cls": cls, "rng": [list(pair) for pair in ranges]}
    return json.dumps(document, separators=(",", ":")).encode()


def gap(row: dict[str, Any]) -> tuple[str, int, int] | None:
    """(class, boot, count) of what a gap row says was lost; None where it gives no numbers."""
    cls, boot, low, high = row.get("cls"), row.get("boot"), row.get("from"), row.get("to")
    if cls in {"tlm", "evt"} and is_number(boot) and is_number(low) and is_number(high) and low <= high:
        return str(cls), boot, high - low + 1
    return None
