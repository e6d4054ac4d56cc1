"""Schema problems: what pydantic found wrong, said with line, key path and the value that was probably meant."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agent.schema.base import Quantity
from agent.storage import schema_shape
from agent.storage.problem import Problem
from agent.storage.units import Unit, number_in, stem, unit_of
from agent.storage.yaml_text import Document, KeyPath, key_text

_MAX_SHOWN = 60
_WORDS_FOR_BOOL = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_PREFIX = re.compile(r"([\w.-]+): (.*)", re.DOTALL)
_TWICE = re.compile(r"'([^']+)' is used twice")


def explain(error: ValidationError, schema: type[BaseModel], document: Document, file: str) -> list[Problem]:
    """One problem per pydantic error; a missing key that a misspelt neighbour stands for is said once, as misspelt."""
    explainer = _Explainer(schema, document, file)
    relevant = [details for details in error.errors(include_url=False) if not explainer.follows_from_others(details)]
    found = [(details["type"], explainer.problem(details)) for details in relevant]
    meant = {_sibling(p.key, p.suggestion) for kind, p in found if kind == "extra_forbidden" and p.suggestion}
    return [problem for kind, problem in found if not (kind == "missing" and problem.key in meant)]


def _sibling(key: str, name: str) -> str:
    return ".".join([*key.split(".")[:-1], name])


def closest(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant: the same key in another unit first, then the most alike spelling."""
    if word in known:
        return word
    same_stem = [k for k in known if stem(k) == stem(word)]
    if same_stem:
        return same_stem[0]
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    if near:
        return by_lower[near[0]]
    by_stem = {stem(k): k for k in known}
    near = difflib.get_close_matches(stem(word).lower(), list(by_stem), n=1, cutoff=0.75)
    return by_stem[near[0]] if near else None


def show(value: Any) -> str:
    """A value as it would stand in the file, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


class _Explainer:
    """Knows the schema and the file."""

    def __init__(self, schema: type[BaseModel], document: Document, file: str) -> None:
        self._schema = schema
        self._document = document
        self._file = file

    def follows_from_others(self, details: ErrorDetails) -> bool:
        """Whether a list is only too short because pydantic does not count entries that are wrong themselves."""
        node = self._node(details["loc"]) if details["type"] == "too_short" else None
        return isinstance(node, list) and len(node) >= details.get("ctx", {}).get("min_length", 1)

    def problem(self, details: ErrorDetails) -> Problem:
        """The error in the words its owner sees."""
        kind = details["type"]
        path: KeyPath = details["loc"]
        if path and path[-1] == "[key]":
            return self._unknown_key(path[:-1])
        if kind == "extra_forbidden":
            return self._unknown_key(path)
        if kind == "missing":
            return self._missing(path)
        if kind == "value_error":
            return self._contradiction(path, details)
        message, suggestion = self._wrong_value(kind, path, details)
        return self._at(path, message, suggestion)

    def _at(self, path: KeyPath, message: str, suggestion: str | None = None) -> Problem:
        return Problem(self._file, self._document.line(path), key_text(path), message, suggestion)

    def _unknown_key(self, path: KeyPath) -> Problem:
        key, parent = str(path[-1]), path[:-1]
        known = schema_shape.keys_of(schema_shape.at(self._schema, parent))
        suggestion = closest(key, known) or self._elsewhere(key)
        if suggestion == key:
            return self._at(path, f"unknown key {key!r} here; it belongs to the top of the file")
        unit = unit_of(suggestion) if suggestion in known else None
        in_unit = f"; {suggestion} is in {unit.words}" if unit and stem(key) == stem(str(suggestion)) else ""
        options = f"; known here: {', '.join(known)}" if suggestion is None and known else ""
        return self._at(path, f"unknown key {key!r}{in_unit}{options}", suggestion)

    def _elsewhere(self, key: str) -> str | None:
        homes = [path for path, _ in schema_shape.paths(self._schema) if path[-1] == key]
        return ".".join(homes[0]) if homes else None

    def _missing(self, path: KeyPath) -> Problem:
        key, parent = path[-1], path[:-1]
        if isinstance(key, int):
            return self._at(parent, f"needs {key + 1} entries or more")
        unit = unit_of(key)
        what = f"missing key {key!r}" + (f" ({unit.words})" if unit else "")
        return Problem(self._file, self._document.line(parent), key_text(path), what)

    def _contradiction(self, path: KeyPath, details: ErrorDetails) -> Problem:
        """A rule between keys: its message starts with a path or mentions the keys it is about."""
        message = str(details.get("ctx", {}).get("error", details["msg"]))
        where, node = path, self._node(path)
        while match := _PREFIX.fullmatch(message):
            found = self._descend(where, node, match[1])
            if found is None:
                break
            where, message = found, match[2]
            node = self._node(where)
        twice = _TWICE.search(message)
        if twice and isinstance(node, list):
            named = [i for i, item in enumerate(node) if isinstance(item, Mapping) and item.get("name") == twice[1]]
            return self._at((*where, named[1], "name"), message) if len(named) > 1 else self._at(where, message)
        if isinstance(node, Mapping):
            mentioned = next((word for word in re.findall(r"\w+", message) if word in node), None)
            where = (*where, mentioned) if mentioned else where
        return self._at(where, message)

    def _descend(self, where: KeyPath, node: Any, prefix: str) -> KeyPath | None:
        below = (*where, *(int(part) if part.isdigit() else part for part in prefix.split(".")))
        if below in self._document.positions:
            return below
        items = enumerate(node) if isinstance(node, list) else ()
        named = [i for i, item in items if isinstance(item, Mapping) and item.get("name") == prefix]
        return (*where, named[0]) if named else None

    def _node(self, path: KeyPath) -> Any:
        node = self._document.data
        for part in path:
            if isinstance(node, Mapping):
                node = node.get(part)
            elif isinstance(node, list) and isinstance(part, int) and part < len(node):
                node = node[part]
            else:
                return None
        return node

    def _wrong_value(self, kind: str, path: KeyPath, details: ErrorDetails) -> tuple[str, str | None]:
        found, context = details["input"], details.get("ctx", {})
        unit = self._unit(path)
        if kind in _BOUNDS:
            return _out_of_bounds(kind, found, context, unit)
        explain_kind = _KINDS.get(kind.removesuffix("_type").removesuffix("_parsing"))
        if explain_kind is not None:
            return explain_kind(found, unit)
        if kind in {"model_type", "model_attributes_type", "dict_type"}:
            return _not_a_mapping(found, schema_shape.at(self._schema, path))
        if kind == "literal_error":
            return _not_an_option(found, _options(context))
        if kind == "string_pattern_mismatch":
            return _not_a_name(found, str(context.get("pattern", "")))
        if kind in {"too_short", "string_too_short"}:
            return f"must not be empty; at least {context.get('min_length', 1)}", None
        if kind == "finite_number":
            return f"must be a finite number; found {show(found)}", None
        return f"{details['msg'][:1].lower()}{details['msg'][1:]}; found {show(found)}", None

    def _unit(self, path: KeyPath) -> Unit | None:
        """Unit of the number at a path; the value of a quantity is in the unit of the key that holds the quantity."""
        keys = [part for part in path if isinstance(part, str)]
        if len(keys) > 1 and schema_shape.at(self._schema, path[:-1]) is Quantity:
            named = [key for key in keys[:-1] if unit_of(key)]
            return unit_of(named[-1]) if named and keys[-1] == "value" else None
        return unit_of(keys[-1]) if keys else None


def _not_a_number(found: Any, unit: Unit | None, noun: str = "a number") -> tuple[str, str | None]:
    words = f" ({unit.words})" if unit else ""
    meant = number_in(found, unit) if isinstance(found, str) else None
    without = ", without quotes or unit" if isinstance(found, str) else ""
    return f"expected {noun}{words}{without}; found {show(found)}", None if meant is None else f"{meant:.12g}"


def _not_whole(found: Any, unit: Unit | None) -> tuple[str, str | None]:
    if isinstance(found, float) and found.is_integer() and abs(found) < 1e15:
        return f"expected a whole number; found {show(found)}", str(int(found))
    return _not_a_number(found, unit, "a whole number")


def _not_text(found: Any, _: Unit | None) -> tuple[str, str | None]:
    is_scalar = isinstance(found, (bool, int, float))
    return f"expected text; found {show(found)}", f'"{show(found)}"' if is_scalar else None


def _not_bool(found: Any, _: Unit | None) -> tuple[str, str | None]:
    meant = _WORDS_FOR_BOOL.get(found.lower()) if isinstance(found, str) else None
    return f"expected true or false; found {show(found)}", meant


def _not_a_list(found: Any, _: Unit | None) -> tuple[str, str | None]:
    message = f"expected a list (one `- …` line for each entry, or [a, b]); found {show(found)}"
    return message, f"[{found}]" if isinstance(found, str) else None


_KINDS: dict[str, Callable[[Any, Unit | None], tuple[str, str | None]]] = {
    "float": _not_a_number,
    "int": _not_whole,
    "int_from_float": _not_whole,
    "string": _not_text,
    "bool": _not_bool,
    "tuple": _not_a_list,
    "list": _not_a_list,
}


def _not_a_mapping(found: Any, shape: schema_shape.Shape) -> tuple[str, str | None]:
    if shape is Quantity:
        example = f"{{value: {found}, provenance: assumed, source: …}}" if isinstance(found, (int, float)) else None
        return f"expected a number with its origin (value, provenance, source); found {show(found)}", example
    keys = schema_shape.keys_of(shape)
    listed = f" with the keys {', '.join(keys)}" if keys else ""
    return f"expected a mapping{listed}; found {show(found)}", None


def _options(context: Mapping[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", str(context.get("expected", ""))) or [str(context.get("expected", ""))]


def _not_an_option(found: Any, options: list[str]) -> tuple[str, str | None]:
    near = closest(str(found), options) or (options[0] if len(options) == 1 else None)
    choice = f"must be one of {', '.join(options)}" if len(options) > 1 else f"must be {options[0]}"
    return f"{choice}; found {show(found)}", near


def _not_a_name(found: Any, pattern: str) -> tuple[str, str | None]:
    if pattern.startswith("^RW"):
        return f"must be a public key as `qeil fleet keys generate` prints it (RW…); found {show(found)}", None
    if "://" in pattern:
        starts = " or ".join(f"{s}://" for s in (("http", "https", "file") if "file" in pattern else ("http", "https")))
        return f"must begin with {starts}; found {show(found)}", None
    if "/" in pattern:
        return f"must be written BOARD/ACCELERATOR in lower case; found {show(found)}", None
    meant = re.sub(r"[^a-z0-9._-]+", "-", str(found).lower()).strip("-._")[:64]
    rule = "1 to 64 of lower-case letters, digits, '.', '_' and '-', a letter or digit first"
    return f"must be a name ({rule}); found {show(found)}", meant or None


def _out_of_bounds(kind: str, found: Any, context: Mapping[str, Any], unit: Unit | None) -> tuple[str, str | None]:
    name, word = _BOUNDS[kind]
    bound = context.get(name)
    words = f" ({unit.words})" if unit else ""
    percent = kind.startswith("less_than") and bound == 1 and isinstance(found, (int, float)) and 2 <= found <= 100
    return f"must be {word} {bound:.12g}{words}; found {show(found)}", f"{found / 100:g}" if percent else None
