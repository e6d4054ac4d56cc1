"""Wrong fields: what a client's JSON asks that is not offered, as one sentence that names the field."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agent.errors import BadInput

UNOFFERED: Final = frozenset({
    "audio", "function_call", "functions", "modalities", "parallel_tool_calls", "prediction", "reasoning_effort",
    "tool_choice", "tools", "verbosity", "web_search_options",
})  # fmt: skip
"""Fields of OpenAI's that ask for what is not offered here; null asks for nothing."""
_BY_REPETITION: Final = "must be equal to 0 here; repetition_penalty makes what was there before less likely"
_INSTEAD: Final = {
    "frequency_penalty": _BY_REPETITION,
    "presence_penalty": _BY_REPETITION,
    "logit_bias": "is not offered here; leave it empty, or let a grammar choose the tokens",
}


class Param(BadInput):
    """A refusal that names the field."""

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(message, param=param)
        self.param = param


def refusal_of(error: ValidationError, kind: type[BaseModel]) -> Param:
    """The first problem of a body as one sentence."""
    first = _telling(error)
    own = {0, len(first["loc"]) - 1} if first["type"] == "extra_forbidden" else {0}  # the client's names
    place = [str(part) for at, part in enumerate(first["loc"]) if at in own or not _is_type_name(part)]
    name = ".".join(place)
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):
        name = ".".join(place[:-1])
        return Param(f"{name}: must hold at least 1", name)
    if first["type"] == "missing":
        return Param(f"{name} is missing", name)
    if name in _INSTEAD and first["type"] in {"less_than_equal", "greater_than_equal", "too_long"}:
        return Param(f"{name} {_INSTEAD[name]}", name)
    if first["type"] == "extra_forbidden" and name in UNOFFERED:
        return Param(f"{name} is not offered here", name)
    if first["type"] == "extra_forbidden":
        near = get_close_matches(place[-1], kind.model_fields, 1) if len(place) == 1 else []
        hint = f", did you mean {near[0]}?" if near else "; it is not offered here"
        return Param(f"unknown field {name}{hint}", name)
    return Param(f"{name or 'the body'}: {_what(error, first)}", name or None)


def _what(error: ValidationError, first: ErrorDetails) -> str:
    """What is wrong with a field that is known."""
    kind = first["type"]
    if kind in _EXPECTED:
        return f"expected {_expected(error, first)}, got {_kind(first['input'])}"
    if kind == "too_short" and first["ctx"]["field_type"] == "Tuple":
        return f"must hold at least {first['ctx']['min_length']}"
    if kind == "too_long" and first["ctx"]["field_type"] == "Tuple":
        return f"may hold at most {first['ctx']['max_length']}"
    return first["msg"][:1].lower() + first["msg"][1:]


def _telling(error: ValidationError) -> ErrorDetails:
    """The first problem; of a list where a text may stand too what is wrong in the list, not that it is one."""
    found = error.errors()
    first = found[0]
    if isinstance(first["input"], list) and first["type"] == "string_type":
        return next((e for e in found[1:] if e["loc"][: len(first["loc"]) - 1] == first["loc"][:-1]), first)
    return first


def _expected(error: ValidationError, first: ErrorDetails) -> str:
    """The types that are taken there, in JSON's words: those of every branch that was tried with the same value."""
    there = [e["type"] for e in error.errors() if e["type"] in _EXPECTED and _place(e) == _place(first)]
    words = list(dict.fromkeys(_EXPECTED[kind] for kind in there))
    return " or ".join(word for word in words if word != "an integer" or "a number" not in words)


def _place(error: ErrorDetails) -> list[int | str]:
    return [part for part in error["loc"] if not _is_type_name(part)]


def _kind(value: object) -> str:
    """What a value is in JSON."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = {str: "a string", int: "an integer", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def _is_type_name(part: int | str) -> bool:
    """Branches of unions stand in the path of an error under the names of their types."""
    return isinstance(part, str) and (part.startswith(("tuple", "constrained", "function")) or part in _TYPE_NAMES)


_EXPECTED: Final = {
    "tuple_type": "a list", "string_type": "a string", "int_type": "an integer", "float_type": "a number",
    "bool_type": "true or false", "dict_type": "an object", "model_type": "an object", "none_required": "null",
}  # fmt: skip
"""JSON's word for the type that a field wants, by the kind of pydantic's error."""
_TYPE_NAMES: Final = {"str", "int", "float", "bool", "none"}
