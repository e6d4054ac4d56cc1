"""YAML text to plain data with the line of every key, under the core schema of YAML 1.2 and with bounded size.

PyYAML resolves YAML 1.1, where `no` is false, `1e9` is text and `1:30` is 90. Its parser events carry no types yet,
so the tree is built from them here: plain scalars follow YAML 1.2, and depth and size are checked while it grows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from agent.records import record
from agent.storage.problem import Problem

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_NODES = 50_000
MAX_ANCHORS = 64

KeyPath = tuple[str | int, ...]
Position = tuple[int, int]

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_TAGS = "tag:yaml.org,2002:"


@record(frozen=True)
class Document:
    """Plain data, and where each key and list item stands as (line, column), both counted from 1."""

    data: Any
    positions: dict[KeyPath, Position]

    def line(self, path: KeyPath) -> int:
        """Line of the key, or of the nearest mapping around it that is in the file."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, (1, 1))[0]


class Unreadable(Exception):
    """The text is not the YAML we accept; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def scalar(text: str) -> Any:
    """Value of a plain (unquoted) scalar under the YAML 1.2 core schema: `1e9` is a float, `no` and `1:30` are text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) and len(text) < 40:
        return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def key_text(path: KeyPath) -> str:
    """`accelerators.0.name`."""
    return ".".join(str(part) for part in path)


def parse(raw: bytes, file: str) -> Document:
    """The document in `raw`. Raises Unreadable: too large or deep, not UTF-8, syntax, tabs, duplicate keys, tags."""
    if len(raw) > MAX_BYTES:
        raise Unreadable(Problem(file, 1, "", f"the file has {len(raw)} bytes; at most {MAX_BYTES} are read"))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise Unreadable(Problem(file, line, "", message)) from error
    try:
        return _Builder(text, file).document()
    except yaml.MarkedYAMLError as error:
        raise Unreadable(_syntax_problem(error, text, file)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable(Problem(file, line, "", "a control character is not allowed in YAML")) from error


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    number = mark.line + 1 if mark else 1
    lines = text.splitlines()
    line = lines[number - 1] if number <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return Problem(file, number, "", "a tab indents this line; YAML allows only spaces there")
    context = f"{error.context}: " if error.context else ""
    return Problem(file, number, "", f"not valid YAML: {context}{error.problem or 'unreadable'}")


def _position(event: Any) -> Position:
    return event.start_mark.line + 1, event.start_mark.column + 1


@record(frozen=True)
class _Subtree:
    """An anchored value: positions are relative to it, so that an alias can repeat them under its own path."""

    value: Any
    positions: dict[KeyPath, Position]
    nodes: int
    depth: int


class _Builder:
    """Builds one document from parser events."""

    def __init__(self, text: str, file: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self._file = file
        self._positions: dict[KeyPath, Position] = {}
        self._anchors: dict[str, _Subtree] = {}
        self._nodes = 0
        self._deepest = 0

    def document(self) -> Document:
        next(self._events)  # StreamStart
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            raise self._refuse(start, (), "the file is empty")
        data = self._value(next(self._events), ())
        next(self._events)  # DocumentEnd
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._refuse(after, (), "a second document starts here; one file holds one document")
        return Document(data, self._positions)

    def _refuse(self, event: Any, path: KeyPath, message: str) -> Unreadable:
        return Unreadable(Problem(self._file, event.start_mark.line + 1, key_text(path), message))

    def _value(self, event: Any, path: KeyPath) -> Any:
        self._positions.setdefault(path, _position(event))
        self._count(event, path, 1, len(path))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        nodes_before, deepest_before = self._nodes - 1, self._deepest
        self._deepest = len(path)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, path, "seq")
            value = self._sequence(path)
        else:
            self._check_tag(event, path, "map")
            value = self._mapping(path)
        if event.anchor is not None:
            if len(self._anchors) >= MAX_ANCHORS:
                raise self._refuse(event, path, f"more than {MAX_ANCHORS} anchors")
            here = len(path)
            below = {p[here:]: at for p, at in self._positions.items() if len(p) > here and p[:here] == path}
            self._anchors[event.anchor] = _Subtree(value, below, self._nodes - nodes_before, self._deepest - here)
        self._deepest = max(self._deepest, deepest_before)
        return value

    def _count(self, event: Any, path: KeyPath, nodes: int, depth: int) -> None:
        self._nodes += nodes
        self._deepest = max(self._deepest, depth)
        if self._nodes > MAX_NODES:
            raise self._refuse(event, path, f"more than {MAX_NODES} values once anchors are expanded")
        if depth > MAX_DEPTH:
            raise self._refuse(event, path[:3], f"nested deeper than {MAX_DEPTH} levels")

    def _alias(self, event: Any, path: KeyPath) -> Any:
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            raise self._refuse(event, path, f"*{event.anchor} refers to an anchor that is not complete above it")
        self._count(event, path, anchored.nodes - 1, len(path) + anchored.depth)
        self._positions.update({path + below: at for below, at in anchored.positions.items()})
        return anchored.value

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        if event.tag is None:
            return event.value if event.style else scalar(event.value)
        if event.tag in {"!", f"{_TAGS}str"}:
            return event.value
        value = scalar(event.value)
        kinds: dict[str, Any] = {
            f"{_TAGS}int": int,
            f"{_TAGS}float": (int, float),
            f"{_TAGS}bool": bool,
            f"{_TAGS}null": type(None),
        }
        if not isinstance(value, kinds.get(event.tag, ())):
            raise self._refuse(event, path, f"the tag {event.tag} is not supported here; write the plain value")
        return value

    def _check_tag(self, event: Any, path: KeyPath, kind: str) -> None:
        if event.tag not in {None, "!", f"{_TAGS}{kind}"}:
            raise self._refuse(event, path, f"the tag {event.tag} is not supported; write the plain value")

    def _sequence(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._refuse(event, path, "a key must be plain text")
            key = event.value
            here = (*path, key)
            if key in mapping:
                first = self._positions[here][0]
                raise self._refuse(event, here, f"the key is given twice; the first one is on line {first}")
            self._positions[here] = _position(event)
            mapping[key] = self._value(next(self._events), here)
        return mapping
