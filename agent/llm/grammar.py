"""Grammar: which tokens may come next in a text of a prescribed form – JSON, a JSON schema, a GBNF grammar.

The library `llguidance` (MIT, no dependencies) keeps the parser; here are its bounds, and its errors as one sentence.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent import extras
from agent.errors import BadInput
from agent.llm.folder import DecoderFolder
from agent.records import record
from agent.schema.text import TextForm

KEPT: Final = 32
"""Compiled forms that are remembered."""
WHITESPACE: Final = r"\n?[ \t]{0,24}"
"""Between the parts of a document; bounded, because small models fall into endless blanks."""
PACKAGE: Final = "llguidance"


class Constraint:
    """The form of one text, token by token. Not thread-safe."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def allowed(self) -> npt.NDArray[np.int64]:
        """Tokens that may come next, ascending; an end token is among them where the text may end here.

        Raises BadInput where the form became too intricate to go on with.
        """
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        found = np.flatnonzero(bits[: self._vocabulary])
        if self._matcher.is_error() or not len(found):
            raise BadInput(f"the asked form cannot be kept: {_stuck(str(self._matcher.get_error() or ''))}")
        return np.asarray(found, np.int64)

    def took(self, token: int) -> bool:
        """Take a token; whether the text is complete, so that nothing but its end may follow.

        Raises BadInput for a token that is not allowed.
        """
        if not self._matcher.consume_token(token):
            raise BadInput(f"token {token} does not fit the asked form")
        return bool(self._matcher.is_stopped())


@record(frozen=True)
class Form:
    """A compiled form."""

    _matcher: Any
    _vocabulary: int

    def begin(self) -> Constraint:
        """For a new text."""
        return Constraint(self._matcher.deep_copy(), self._vocabulary)


class Grammars:
    """Compiles forms for the vocabulary of one model; the last ones are kept."""

    def __init__(self, folder: DecoderFolder) -> None:
        self._folder = folder
        self._forms: OrderedDict[TextForm, Form] = OrderedDict()

    @cached_property
    def _tokens(self) -> Any:
        """The vocabulary as the parser wants it; built when first asked for."""
        from llguidance import LLTokenizer  # noqa: PLC0415 - only texts of a prescribed form need it

        ends = sorted(self._folder.end_ids) or None
        try:
            return LLTokenizer(self._folder.tokenizer.to_str(), eos_token=ends)
        except (ValueError, RuntimeError) as error:
            raise BadInput(f"the vocabulary of {self._folder.name} carries no grammar: {_sentence(error)}") from error

    def compile(self, form: TextForm) -> Form:
        """Raises BadInput saying what of the form is wrong, or that the package is not installed."""
        found = self._forms.get(form)
        if found is None:
            found = self._forms[form] = self._compiled(form)
            if len(self._forms) > KEPT:
                self._forms.popitem(last=False)
        self._forms.move_to_end(form)
        return found

    def _compiled(self, form: TextForm) -> Form:
        try:
            from llguidance import LLMatcher  # noqa: PLC0415 - as above
        except ImportError as error:
            raise BadInput(f"texts of a prescribed form need the package {PACKAGE}: {extras.command('llm')}") from error
        if not self._folder.end_ids:
            raise BadInput(f"{self._folder.name} has no token that ends a text, so no form can end")
        tokens = self._tokens
        matcher = LLMatcher(tokens, _grammar(form), log_level=0)
        if matcher.is_error():
            wrong = str(matcher.get_error())
            raise BadInput(f"{_NAMES[form.kind]} is not usable: {_pattern(form, wrong) or _sentence(wrong)}")
        made = Form(matcher, self._folder.vocabulary)
        try:
            made.begin().allowed()
        except BadInput as error:
            raise BadInput(
                f"{_NAMES[form.kind]} is not usable: no text can begin with it; {_ENDLESS[form.kind]}"
            ) from error
        return made


_NAMES: Final = {"json": "the JSON form", "json_schema": "the JSON schema", "gbnf": "the grammar"}
_ENDLESS: Final = {
    "json": "the model has no tokens for it",
    "json_schema": "a $ref that leads back to itself needs a property or an item in between",
    "gbnf": "a rule that leads back to itself needs characters in front, or another choice without itself",
}
"""What makes a form that can be read impossible to write."""
TOO_DEEP: Final = "it is nested too deeply"


def _grammar(form: TextForm) -> str:
    from llguidance import LLMatcher  # noqa: PLC0415 - as above
    from llguidance.gbnf_to_lark import gbnf_to_lark  # noqa: PLC0415 - as above

    if form.kind == "gbnf":
        try:
            return str(LLMatcher.grammar_from_lark(gbnf_to_lark(form.source)))
        except RecursionError as error:
            raise BadInput(f"{_NAMES[form.kind]} is not usable: {TOO_DEEP}") from error
        except Exception as error:  # the library raises nothing narrower than Exception itself
            raise BadInput(f"{_NAMES[form.kind]} is not usable: {_sentence(error)}") from error
    schema: Any = {"type": "object"}
    if form.kind == "json_schema":
        try:
            schema = json.loads(form.source)
        except RecursionError as error:
            raise BadInput(f"{_NAMES[form.kind]} is not usable: {TOO_DEEP}") from error
        except ValueError as error:
            raise BadInput(f"{_NAMES[form.kind]} is not JSON: {_sentence(error)}") from error
    try:
        return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_pattern": WHITESPACE}))
    except ValueError as error:
        why = TOO_DEEP if "recursion limit" in str(error) else _sentence(error)
        raise BadInput(f"{_NAMES[form.kind]} is not usable: {why}") from error


def _pattern(form: TextForm, error: str) -> str | None:
    """Which pattern of a JSON schema was refused, by its keys, and why; None where the error is of none."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    why = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)
    if form.kind != "json_schema" or why is None or "regex parse error" not in error:
        return None
    keys = next((keys for keys, pattern in _patterns(json.loads(form.source)) if pattern.strip() in lines), "a pattern")
    return f"{keys}: {why}"[:300]


def _patterns(schema: object) -> Iterator[tuple[str, str]]:
    """(keys that lead there, pattern) of every pattern in a JSON schema."""
    waiting: list[tuple[str, object]] = [("", schema)]
    while waiting:
        keys, part = waiting.pop()
        if isinstance(part, list):
            waiting += [(f"{keys}{number}.", value) for number, value in enumerate(part)]
        if not isinstance(part, dict):
            continue
        if isinstance(part.get("pattern"), str):
            yield f"{keys}pattern", part["pattern"]
        if isinstance(part.get("patternProperties"), dict):
            yield from ((f"{keys}patternProperties", key) for key in part["patternProperties"])
        waiting += [(f"{keys}{key}.", value) for key, value in part.items()]


def _stuck(error: str) -> str:
    """Why no token may come; the parser's own word for that, and its state behind it, say nothing."""
    why = error.partition("\n")[0].strip()
    return "no token fits" if why in {"", "NoExtensionBias"} else why[:300]


def _sentence(error: object) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:1] + lines[-1:] if len(lines) > 1 else lines)[:300] or type(error).__name__
