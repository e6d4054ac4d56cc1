"""OpenAI requests: the JSON of /v1/completions and /v1/chat/completions as a text request, or one clear refusal."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from agent.api.wrong_fields import UNOFFERED, Param, refusal_of
from agent.records import record
from agent.schema.text import AnswerKind, CertifyName, SamplingPlan, StrategyName, TextForm, TextRequest

MAX_STOPS: Final = 16
MAX_TEXTS: Final = 64
MAX_LIKELIEST: Final = 20
MIN_CHOICES: Final = 2
MAX_GRAMMAR: Final = 1 << 16
"""Characters of a grammar, and of a schema as JSON."""
MAX_NESTING: Final = 100
"""Levels of objects and lists in a schema; the reader of schemas ends at 128."""
LEGACY_MAX_TOKENS: Final = 16
"""What /v1/completions writes where nobody says how much."""

Number = StrictFloat | StrictInt
Stop = Annotated[StrictStr, Field(min_length=1, max_length=1024)]


class _Model(BaseModel):
    # Built by the first request that needs them: most boards start without language models.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class _StreamOptions(_Model):
    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


class _Part(_Model):
    type: Literal["text"]
    text: StrictStr


class _Message(_Model):
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | tuple[_Part, ...]
    name: StrictStr | None = None

    def plain(self) -> dict[str, str]:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class _Schema(_Model):
    name: Annotated[StrictStr, Field(max_length=64)]
    description: StrictStr | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: StrictBool | None = None


class _Format(_Model):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """As llama.cpp's clients send it, with json_object."""


class _Qeil(_Model):
    """How to answer from repeated samples; see `agent.schema.text.SamplingPlan`."""

    strategy: StrategyName | None = None
    max_samples: Annotated[StrictInt, Field(ge=1, le=1024)] | None = None
    alpha: Annotated[Number, Field(gt=0, lt=1)] | None = None
    worth_j: Annotated[Number, Field(gt=0)] | None = None
    budget_j: Annotated[Number, Field(gt=0)] | None = None
    budget_s: Annotated[Number, Field(gt=0)] | None = None
    budget_c: Annotated[Number, Field(gt=0, le=150)] | None = None
    threshold: Annotated[Number, Field(gt=0, le=1)] | None = None
    certify: CertifyName | None = None
    worth_samples: Annotated[Number, Field(gt=0)] | None = None
    answer: AnswerKind = "text"
    choices: Annotated[tuple[StrictStr, ...], Field(max_length=64)] = ()
    verify: StrictBool = False
    trace: StrictBool = False


class _Common(_Model):
    model: StrictStr
    max_tokens: Annotated[StrictInt, Field(ge=1, le=1 << 20)] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MAX_TEXTS)] | None = None
    stream: StrictBool | None = None
    stream_options: _StreamOptions | None = None
    stop: Stop | Annotated[tuple[Stop, ...], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=5)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=0, le=1 << 20)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(ge=0.1, le=10)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[Number, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, Number], Field(max_length=0)] | None = None
    user: StrictStr | None = None
    safety_identifier: StrictStr | None = None
    prompt_cache_key: StrictStr | None = None
    service_tier: Literal["auto", "default"] | None = None
    response_format: _Format | None = None
    grammar: Annotated[StrictStr, Field(min_length=1, max_length=MAX_GRAMMAR)] | None = None
    qeil: _Qeil | None = None


class _Completion(_Common):
    prompt: StrictStr | tuple[StrictStr] | Annotated[tuple[StrictInt, ...], Field(min_length=1, max_length=1 << 20)]
    logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_LIKELIEST)] | None = None
    best_of: StrictInt | None = None
    echo: StrictBool | None = None
    max_tokens: Annotated[StrictInt, Field(ge=0, le=1 << 20)] | None = None
    suffix: None = None


class _Chat(_Common):
    messages: Annotated[tuple[_Message, ...], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1, le=1 << 20)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_LIKELIEST)] | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None


@record(frozen=True)
class Asked:
    """A decoded request."""

    text: TextRequest
    chat: bool
    stream: bool
    include_usage: bool
    plan: SamplingPlan | None = None
    """How to answer from repeated samples, where the client says so."""


def decode(data: bytes | bytearray, *, chat: bool, request_id: str, deadline_s: float | None) -> Asked:
    """The request in a body. Raises BadInput with one sentence."""
    document = _document(data)
    try:
        asked: _Chat | _Completion = (_Chat if chat else _Completion).model_validate(document)
    except ValidationError as error:
        raise refusal_of(error, _Chat if chat else _Completion) from error
    _consistent(asked)
    count = asked.n or 1
    seed = secrets.randbits(62) if asked.seed is None else asked.seed % (1 << 63)
    text = TextRequest(
        asked.model, samples=count, stops=_stops(asked.stop), temperature=_or(asked.temperature, 1.0),
        top_k=asked.top_k or 0, top_p=_or(asked.top_p, 1.0), min_p=_or(asked.min_p, 0.0),
        repetition=_or(asked.repetition_penalty, 1.0), seed=seed, form=_form(asked),
        request_id=request_id, deadline_s=deadline_s, **_own(asked),
    )  # fmt: skip
    options = asked.stream_options
    plan = None if asked.qeil is None else SamplingPlan(**asked.qeil.model_dump())
    return Asked(text, chat, bool(asked.stream), options is not None and options.include_usage, plan)


def _own(asked: _Chat | _Completion) -> dict[str, Any]:
    """What the two kinds say differently."""
    if isinstance(asked, _Chat):
        return {
            "messages": tuple(message.plain() for message in asked.messages),
            "max_tokens": asked.max_completion_tokens or asked.max_tokens,
            "logprobs": (asked.top_logprobs or 0) if asked.logprobs else None,
        }
    prompt: Any = asked.prompt
    if isinstance(prompt, tuple) and isinstance(prompt[0], str):
        prompt = prompt[0]
    most = LEGACY_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens
    return {"prompt": prompt, "max_tokens": most, "logprobs": asked.logprobs, "echo": bool(asked.echo)}


def _form(asked: _Common) -> TextForm | None:
    """The form that texts must have. Raises Param for one that is described twice or not at all."""
    wanted = asked.response_format
    if asked.grammar is not None:
        if wanted is not None and wanted.type != "text":
            raise Param("grammar and response_format contradict each other; send one", "grammar")
        return TextForm("gbnf", asked.grammar)
    if wanted is None or wanted.type == "text":
        return None
    named = wanted.json_schema
    schema = wanted.schema_ if wanted.type == "json_object" else named.schema_ if named is not None else None
    if wanted.type == "json_schema" and schema is None:
        raise Param("json_schema needs response_format.json_schema.schema", "response_format.json_schema")
    if schema is None:
        return TextForm("json")
    if deeper(schema, MAX_NESTING):
        raise Param(
            f"the schema is nested more than {MAX_NESTING} levels deep; name its parts in $defs", "response_format"
        )
    source = json.dumps(schema, separators=(",", ":"))
    if len(source) > MAX_GRAMMAR:
        raise Param(f"the schema has {len(source)} characters, {MAX_GRAMMAR} may be sent", "response_format")
    return TextForm("json_schema", source)


def _consistent(asked: _Chat | _Completion) -> None:
    if asked.stream_options is not None and not asked.stream:
        raise Param("stream_options is for stream: true", "stream_options")
    if asked.qeil is not None and asked.n not in {None, 1}:
        raise Param("qeil gives one answer of many samples, so n must be 1; max_samples bounds them", "n")
    if asked.qeil is not None:
        _choices_apart(asked.qeil)
    _whole_characters(asked)
    if isinstance(asked, _Chat):
        if asked.top_logprobs is not None and not asked.logprobs:
            raise Param("top_logprobs needs logprobs: true", "top_logprobs")
        if asked.max_tokens is not None and asked.max_completion_tokens not in {None, asked.max_tokens}:
            raise Param("max_tokens and max_completion_tokens contradict each other; send one", "max_tokens")
        return
    if asked.max_tokens == 0 and not asked.echo:
        raise Param("max_tokens of 0 needs echo: true; else send at least 1", "max_tokens")
    if asked.echo and asked.qeil is not None:
        raise Param("echo and qeil contradict each other; send one", "echo")
    if asked.best_of not in {None, asked.n or 1}:
        raise Param("best_of other than n is not offered here; send n", "best_of")


def _choices_apart(qeil: _Qeil) -> None:
    """Labels that a text can name, each another one. Raises Param."""
    if not qeil.choices:
        return
    if len(qeil.choices) < MIN_CHOICES:
        raise Param(f"qeil.choices must hold at least {MIN_CHOICES} labels to choose from", "qeil.choices")
    seen: dict[str, str] = {}
    for label in qeil.choices:
        if not any(map(str.isalnum, label)) or label != label.strip():
            raise Param(f"qeil.choices: {label!r} is no label a text can name; send letters or words", "qeil.choices")
        if label.casefold() in seen:
            raise Param(
                f"qeil.choices: {seen[label.casefold()]!r} and {label!r} are the same in a text; label them apart",
                "qeil.choices",
            )
        seen[label.casefold()] = label


def _whole_characters(asked: _Chat | _Completion) -> None:
    """JSON can spell half a character, which no tokenizer reads."""
    name = "messages" if isinstance(asked, _Chat) else "prompt"
    texts = [message.plain()["content"] for message in asked.messages] if isinstance(asked, _Chat) else [asked.prompt]
    try:
        for text in (*texts, *_stops(asked.stop)):
            str(text).encode()
    except UnicodeEncodeError as error:
        raise Param(
            f"{name} or stop holds half a character (\\u{ord(error.object[error.start]):x} alone)", name
        ) from error


def _document(data: bytes | bytearray) -> Mapping[str, Any]:
    try:
        document = json.loads(data)
    except RecursionError as error:
        raise Param("the body is nested too deeply", None) from error
    except ValueError as error:
        raise Param(f"the body is not JSON ({error})", None) from error
    if not isinstance(document, dict):
        raise Param("the body must be a JSON object", None)
    for name in document:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise Param(f"the name of the field {name!a} holds half a character", None)
    return {key: value for key, value in document.items() if value is not None or key not in UNOFFERED}


def _stops(stop: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if stop is None else (stop,) if isinstance(stop, str) else stop


def _or(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def deeper(value: object, levels: int) -> bool:
    """Whether objects and lists are nested more than so many levels deep."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(layer)
