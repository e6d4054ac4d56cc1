"""OpenAI replies: the documents of completions and chat completions, whole or chunk by chunk, and of errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, field
from typing import Any, Final

from agent.api.errors import sentence_of
from agent.api.openai_request import Asked
from agent.errors import BackendError, QeilError, RequestError
from agent.records import record
from agent.schema.text import TextDone, TextModel, TextPiece

_TYPES: Final = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
_OBJECTS: Final = {
    (True, True): "chat.completion.chunk", (True, False): "chat.completion", (False, True): "text_completion",
    (False, False): "text_completion",
}  # fmt: skip


def error_document(error: QeilError, status: int) -> dict[str, Any]:
    """The error as OpenAI's clients read it."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = error.context.get("param") if isinstance(error, RequestError) else None
    code = "model_lost" if isinstance(error, BackendError) else error.code
    return {"error": {"message": sentence_of(error.message), "type": kind, "param": param, "code": code}}


def model_document(model: TextModel) -> dict[str, Any]:
    """A model of the list."""
    return {
        "id": model.name, "object": "model", "created": int(model.since_s), "owned_by": "qeil",
        "qeil": {
            "ready": model.ready, "reason": model.reason, "context_tokens": model.context_tokens, "rows": model.rows,
            "placement": model.placement, "pid": model.pid, "second_pid": model.second_pid,
            "precision": model.precision or None, "token_j": model.token_j, "token_s": model.token_s,
            "costs_from": model.cost_from,
        },
    }  # fmt: skip


def usage_document(done: TextDone) -> dict[str, Any]:
    """Tokens and joules, with where the figure comes from."""
    usage = done.usage
    return {
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.tokens,
        "total_tokens": usage.prompt_tokens + usage.tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "energy": {
            "energy_j": usage.energy_j, "provenance": usage.provenance, "reason": usage.energy_reason,
            "placement": done.placement,
            "accelerated_fraction": 1.0, "compute_s": usage.compute_s, "policy_digest": done.policy_digest,
            "replays": done.replays,
        },
    }  # fmt: skip


@record
class _Choice:
    text: list[str] = field(default_factory=list)
    pieces: list[TextPiece] = field(default_factory=list)
    end: str | None = None
    offset: int = 0


class Answer:
    """One request's answer: chunks as pieces come, or the whole at the end."""

    def __init__(self, asked: Asked, number: str, created_s: float) -> None:
        self._asked, self._chat = asked, asked.chat
        self._head = {
            "id": number, "object": _OBJECTS[asked.chat, asked.stream], "created": int(created_s),
            "model": asked.text.model, "system_fingerprint": None,
        }  # fmt: skip
        first = asked.text.first_sample
        self._choices = {sample: _Choice() for sample in range(first, first + asked.text.samples)}

    # ------------------------------------------------------------------ chunk by chunk

    def chunks(self, piece: TextPiece) -> list[dict[str, Any]]:
        """What a piece adds; nothing for one without text, end or log probability."""
        choice = self._choices[piece.sample]
        index = piece.sample - self._asked.text.first_sample
        made = []
        if self._chat and not choice.pieces and choice.end is None and choice.offset == 0:
            made.append(self._chunk([{"index": index, "delta": {"role": "assistant", "content": ""}}]))
            choice.offset = 1
        if piece.text or self._listed(piece):
            delta = {"delta": {"content": piece.text}} if self._chat else {"text": piece.text}
            made.append(self._chunk([{"index": index, **delta, **self._logprobs([piece], choice)}]))
        if piece.end is not None:
            choice.end = piece.end
            last: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
            made.append(self._chunk([{"index": index, **last, "logprobs": None, "finish_reason": piece.end}]))
        return made

    def last_chunk(self, done: TextDone) -> list[dict[str, Any]]:
        """The usage, where the client asked for it."""
        extra = _sampling(done)
        if self._asked.include_usage:
            extra["usage"] = usage_document(done)
        return [self._chunk([]) | extra] if extra else []

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"choices": [{"finish_reason": None, "logprobs": None, **choice} for choice in choices]}

    # ------------------------------------------------------------------ as a whole

    def take(self, piece: TextPiece) -> None:
        """Keep a piece."""
        choice = self._choices[piece.sample]
        choice.text.append(piece.text)
        if self._listed(piece):
            choice.pieces.append(piece)
        choice.end = piece.end or choice.end

    def whole(self, done: TextDone) -> dict[str, Any]:
        """The finished document."""
        choices = []
        for index, choice in enumerate(self._choices.values()):
            text = "".join(choice.text)
            content = (
                {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
            )
            logprobs = self._logprobs(choice.pieces, choice) if choice.pieces else {"logprobs": None}
            choices.append({"index": index, **content, **logprobs, "finish_reason": choice.end})
        return self._head | {"choices": choices, "usage": usage_document(done)} | _sampling(done)

    def _listed(self, piece: TextPiece) -> bool:
        """Whether it stands in the list of log probabilities; a prompt's first token does without one."""
        asked = self._asked.text
        return piece.logprob is not None or (asked.logprobs is not None and piece.prompt and piece.token >= 0)

    def _logprobs(self, pieces: Sequence[TextPiece], choice: _Choice) -> dict[str, Any]:
        if not self._listed(pieces[0]):
            return {"logprobs": None}
        if self._chat:
            return {"logprobs": {"content": [_chat_logprob(piece) for piece in pieces], "refusal": None}}
        offsets = []
        for piece in pieces:
            offsets.append(choice.offset)
            choice.offset += len(piece.text)
        return {
            "logprobs": {
                "tokens": [piece.token_text for piece in pieces],
                "token_logprobs": [piece.logprob for piece in pieces],
                "top_logprobs": [None if piece.logprob is None else dict(piece.likeliest) for piece in pieces],
                "text_offset": offsets,
            }
        }  # fmt: skip


def _sampling(done: TextDone) -> dict[str, Any]:
    """What repeated sampling did, under the key qeil."""
    report = done.sampling
    if report is None:
        return {}
    document = asdict(report)
    guarantee = {
        "alpha": report.alpha, "certified": report.certifies is not None, "certifies": report.certifies,
        "certified_alpha": report.certified, "statement": report.statement,
    }  # fmt: skip
    for key in ("alpha", "certified", "certifies", "statement"):
        del document[key]
    if not report.trace:
        del document["trace"]
    return {"qeil": document | {"guarantee": guarantee}}


def _chat_logprob(piece: TextPiece) -> dict[str, Any]:
    best = [_named(text, logprob) for text, logprob in piece.likeliest]
    return _named(piece.token_text, piece.logprob) | {"top_logprobs": best}


def _named(text: str, logprob: float | None) -> dict[str, Any]:
    # A token may be a part of a character: then nobody can say its bytes from its text.
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}


def event(document: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


END: Final = b"data: [DONE]\n\n"
