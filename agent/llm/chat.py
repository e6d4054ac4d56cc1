"""Messages to a prompt through the model's own chat template, in a sandbox with bounds on what a template may do.

Templates are written for the environment that Hugging Face's transformers give them: `strftime_now`, `tojson` without
HTML escapes, the tag `generation`, `tools` and `documents` that are none. The same is there, so that they work as they
are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent.errors import BadInput

if TYPE_CHECKING:
    from jinja2 import Template

    from agent.llm.folder import DecoderFolder

MAX_STEPS = 100_000
"""Numbers that all `range`s of one prompt give together."""
MAX_TEXT = 4 * 2**20
"""Characters of a prompt, and of any text that a template multiplies."""
MAX_BITS = 4096
"""Of a power that a template computes."""
MAX_REASON = 200


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model wrote, for training; a prompt takes it as it is."""

    tags = {"generation"}  # noqa: RUF012  (as the base class declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox in which one operator cannot ask for gigabytes either."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        for value, times in ((left, right), (right, left)):
            if isinstance(value, str | list | tuple) and isinstance(times, int) and len(value) * times > MAX_TEXT:
                raise SecurityError(f"multiplies a text to more than {MAX_TEXT} characters")
        if (
            operator == "**"
            and isinstance(left, int)
            and isinstance(right, int)
            and left.bit_length() * right > MAX_BITS
        ):
            raise SecurityError(f"raises to a power of more than {MAX_BITS} bits")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """A template, compiled once. `special` are the texts of tokens that it may name, as `bos_token`."""

    def __init__(self, name: str, source: str, special: Mapping[str, str]) -> None:
        self._name, self._source, self._special = name, source, special

    def prompt(self, messages: Sequence[Mapping[str, str]], now: Callable[[], datetime] = datetime.now) -> str:
        """The prompt, ready for the assistant's answer. Raises BadInput where the template refuses or fails."""
        values: dict[str, Any] = {
            "messages": [dict(message) for message in messages], "add_generation_prompt": True, "tools": None,
            "documents": None, "raise_exception": _refuse, "range": _bounded_range(), **self._special,
            "strftime_now": lambda form: now().strftime(form),
        }  # fmt: skip
        try:
            return _joined(self._compiled.generate(**values))
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            reason: object = error
        except RecursionError:
            reason = "it calls itself without end"
        said = str(reason).split("\n")[0][:MAX_REASON]
        raise BadInput(f"the chat template of {self._name} does not take these messages: {said}")

    @cached_property
    def _compiled(self) -> Template:
        sandbox: Environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        sandbox.filters["tojson"] = _json
        return sandbox.from_string(self._source)


def render(folder: DecoderFolder, messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt, ready for the assistant's answer. Raises BadInput where there is no template or it refuses."""
    if folder.chat is None:
        raise BadInput(f"{folder.name} has no chat template; it continues plain text only")
    return folder.chat.prompt(messages)


def _joined(pieces: Iterator[str]) -> str:
    parts, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_TEXT:
            raise SecurityError(f"the prompt is longer than {MAX_TEXT} characters")
        parts.append(piece)
    return "".join(parts)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _bounded_range() -> Callable[..., range]:
    left = MAX_STEPS

    def bounded(*bounds: int) -> range:
        nonlocal left
        made = range(*bounds)
        left -= len(made)
        if left < 0:
            raise SecurityError(f"its loops count further than {MAX_STEPS}")
        return made

    return bounded


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
