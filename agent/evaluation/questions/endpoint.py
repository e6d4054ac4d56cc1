"""Endpoint: asks a model for samples over the OpenAI protocol, this agent's or any other server's."""

from __future__ import annotations

import http.client
import json
import math
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

from agent.errors import BadInput, Overloaded, QeilError
from agent.records import record

MAX_ANSWER_BYTES = 64 * 2**20
TIMEOUT_S = 600.0
RETRIES = 5
"""Times a request is sent again while the server says 429 or 503."""
MAX_RETRY_WAIT_S = 30.0
PROVENANCES = ("measured", "modelled")
"""What joules of a server may be; anything else that one says of them is unknown."""


class OddAnswer(QeilError):
    """An answer of the server that is not what the protocol says; the next question may be answered well."""


@record(frozen=True)
class Drawn:
    """One sample as the server gave it. Joules are the request's, shared evenly over its samples; None: not said."""

    text: str
    tokens: int
    seconds: float
    joules: float | None
    provenance: str
    mean_logprob: float | None


@record(frozen=True)
class Answer:
    """What an agent answered by a strategy. text None: no answer. Tokens and joules are those of all samples."""

    text: str | None
    samples: int
    tokens: int
    seconds: float
    joules: float | None
    provenance: str
    reason: str
    certified: bool


class Endpoint:
    """One connection to BASE/v1; not for several threads. `model` as the server names it."""

    def __init__(self, base_url: str, model: str, max_tokens: int, temperature: float, api_key: str | None = None,
                 context: ssl.SSLContext | None = None) -> None:  # fmt: skip
        """`context`: whose certificates are trusted; None: the system's authorities."""
        parts = urlsplit(base_url if "//" in base_url else f"//{base_url}")
        try:
            port = parts.port
        except ValueError as error:
            raise BadInput(f"{base_url}: {error}") from error
        if parts.scheme not in {"", "http", "https"} or not parts.hostname:
            raise BadInput(f"{base_url}: expected http://HOST[:PORT]")
        self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=TIMEOUT_S)
        if parts.scheme == "https":
            self._connection = http.client.HTTPSConnection(parts.hostname, port, timeout=TIMEOUT_S, context=context)
        path = parts.path.rstrip("/")
        self._path = path if path.endswith("/v1") else f"{path}/v1"
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self.model, self._max_tokens, self._temperature = model, max_tokens, temperature

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def sample(self, prompt: str, count: int, seed: int, greedy: bool = False) -> list[Drawn]:
        """`count` samples of one prompt.

        Raises:
            OddAnswer: the answer is not what the protocol says.
            Overloaded: the server is busy after all retries.
            QeilError: the server refuses, or is gone.
        """
        body = {
            "model": self.model, "messages": [{"role": "user", "content": prompt}], "n": count, "seed": seed,
            "max_tokens": self._max_tokens, "temperature": 0.0 if greedy else self._temperature, "logprobs": True,
        }  # fmt: skip
        started_s = time.monotonic()
        data = self._post("/chat/completions", body)
        took_s = time.monotonic() - started_s
        choices = _list(data, "choices")
        if len(choices) != count:
            raise OddAnswer(f"the server gave {len(choices)} samples where {count} were asked for")
        usage = _object(data, "usage")
        energy = _object(usage, "energy")
        joules, total = _known(energy.get("energy_j")), _known(usage.get("completion_tokens"))
        texts = [_text(choice) for choice in choices]
        counts = [_counted(choice) for choice in choices]
        tokens = [c if c is not None else round((total or 0) / count) for c in counts]
        said = energy.get("provenance")
        provenance = said if joules is not None and said in PROVENANCES else "unknown"
        return [
            Drawn(text, n, took_s / count, None if joules is None else joules / count, provenance, _logprob(choice))
            for text, n, choice in zip(texts, tokens, choices, strict=True)
        ]

    def answer(self, prompt: str, seed: int, plan: dict[str, Any]) -> Answer:
        """The answer that an agent finds by its block `qeil`, from samples that it draws itself. Raises as `sample`."""
        body = {
            "model": self.model, "messages": [{"role": "user", "content": prompt}], "seed": seed, "qeil": plan,
            "max_tokens": self._max_tokens, "temperature": self._temperature,
        }  # fmt: skip
        started_s = time.monotonic()
        data = self._post("/chat/completions", body)
        took_s = time.monotonic() - started_s
        said, usage = _object(data, "qeil"), _object(data, "usage")
        samples, choices = said.get("samples_used"), _list(data, "choices")
        if not isinstance(samples, int) or len(choices) != 1:
            raise OddAnswer("the server tells nothing of repeated samples: strategies are asked live of an agent only")
        energy = _object(usage, "energy")
        joules, total = _known(energy.get("energy_j")), _known(usage.get("completion_tokens"))
        provenance = energy.get("provenance")
        return Answer(
            _text(choices[0]) if said.get("answer") is not None else None, samples, round(total or 0), took_s, joules,
            str(provenance) if joules is not None and provenance in PROVENANCES else "unknown",
            str(said.get("stop_reason")), _object(said, "guarantee").get("certified") is True,
        )  # fmt: skip

    def logprobs(self, text: str) -> list[float]:
        """Log-probabilities of the tokens of a text, the first left out, by completions that echo their prompt.

        −∞ is of a token that the model holds impossible. Raises QeilError where the server does not give them.
        """
        body = {"model": self.model, "prompt": text, "max_tokens": 0, "echo": True, "logprobs": 0, "temperature": 0.0}
        choice = _list(self._post("/completions", body), "choices")[:1]
        values = _object(choice[0], "logprobs").get("token_logprobs") if choice else None
        if not isinstance(values, list) or not values:
            raise QeilError(
                "the server gives no log-probabilities of a prompt (completions with echo), so no perplexity"
            )
        after = values[1:] if values[0] is None else values
        found = [_scored(value) for value in after]
        if None in found:
            raise OddAnswer("the server's token_logprobs hold what is no log-probability")
        return [value for value in found if value is not None]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        payload = json.dumps(body).encode()
        for attempt in range(RETRIES + 1):
            status, headers, raw = self._once(path, payload)
            if status not in {429, 503} or attempt == RETRIES:
                break
            time.sleep(min(MAX_RETRY_WAIT_S, _retry_after_s(headers.get("retry-after"), attempt)))
        if status in {429, 503}:
            raise Overloaded(f"the server is busy after {RETRIES} retries: {_message(raw)}", 30.0)
        if status >= 400:
            raise QeilError(f"the server refused {path}: HTTP {status}: {_message(raw)}")
        try:
            data = json.loads(raw)
        except ValueError as error:
            raise OddAnswer(f"the server's answer to {path} is no JSON: {error}") from error
        except RecursionError as error:
            raise OddAnswer(f"the server's answer to {path} is nested too deep") from error
        if not isinstance(data, dict):
            raise OddAnswer(f"the server's answer to {path} is no JSON object")
        return data

    def _once(self, path: str, payload: bytes) -> tuple[int, dict[str, str], bytes]:
        try:
            response = self._sent(path, payload)
            raw = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            host = f"{self._connection.host}:{self._connection.port}"
            raise QeilError(f"no answer from {host} ({error or type(error).__name__})") from error
        if len(raw) > MAX_ANSWER_BYTES:
            self._connection.close()
            raise QeilError(f"the server's answer is larger than {MAX_ANSWER_BYTES // 2**20} MiB")
        return response.status, {k.lower(): v for k, v in response.getheaders()}, raw

    def _sent(self, path: str, payload: bytes) -> http.client.HTTPResponse:
        """Send, and once more where the server had closed the connection that was kept: the same text for the seed."""
        kept = self._connection.sock is not None
        try:
            self._connection.request("POST", self._path + path, payload, self._headers)
            return self._connection.getresponse()
        except ConnectionError:
            if not kept:
                raise
            self._connection.close()
            self._connection.request("POST", self._path + path, payload, self._headers)
            return self._connection.getresponse()


def _retry_after_s(header: str | None, attempt: int) -> float:
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        return 0.5 * 2.0**attempt


def _known(value: object) -> float | None:
    """A finite number that is none below 0; None for whatever else a server says."""
    found = _float(value)
    return found if found is not None and math.isfinite(found) and found >= 0 else None


def _float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found


def _list(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = data.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise OddAnswer(f"the server's answer has no list {key!r}")
    return value


def _object(data: dict[str, Any], key: str) -> dict[str, Any]:
    """The object of this key; an empty one where it is missing or null."""
    value = data.get(key)
    if value is not None and not isinstance(value, dict):
        raise OddAnswer(f"the server's {key!r} is no object")
    return value or {}


def _text(choice: dict[str, Any]) -> str:
    """What was written; halves of characters (surrogates), which no file can hold, as U+FFFD."""
    content = _object(choice, "message").get("content")
    if content is not None and not isinstance(content, str):
        raise OddAnswer("the server's 'content' is no text")
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in content or "")


def _tokens(choice: dict[str, Any]) -> list[dict[str, Any]]:
    logprobs = _object(choice, "logprobs")
    return [] if logprobs.get("content") is None else _list(logprobs, "content")


def _counted(choice: dict[str, Any]) -> int | None:
    return len(_tokens(choice)) or None


def _logprob(choice: dict[str, Any]) -> float | None:
    """Mean over the tokens; None where it is not said of every token."""
    values = [_scored(token.get("logprob")) for token in _tokens(choice)]
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known and len(known) == len(values) else math.nan
    return mean if math.isfinite(mean) else None


def _scored(value: object) -> float | None:
    """A log-probability, which may be −∞; None for whatever else a server says."""
    found = _float(value)
    return found if found is not None and found <= 1e-3 else None  # a hair above 0 is rounding


def _message(raw: bytes) -> str:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return raw[:200].decode("utf-8", "replace").strip() or "no message"
    error = data.get("error") if isinstance(data, dict) else None
    said = str(error.get("message") if isinstance(error, dict) else error or data)[:300]
    return said.encode("utf-8", "backslashreplace").decode()
