"""Envelope: how a signed document travels – its exact text beside a minisign signature over that text.

{"v":1,"doc":"{…}","sig":"untrusted comment: …"}: whoever carries it (the broker, a retained message, a file) need not
be trusted, and nothing has to be canonicalised before it is checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agent.mqtt.minisign import PublicKey, SignatureRefused, verify

MAX_ENVELOPE_BYTES = 128 * 1024


def opened(payload: bytes, keys: Sequence[PublicKey]) -> tuple[Any, str]:
    """The document and its text, if a pinned key signed it. SignatureRefused says in a code and a line why not."""
    if len(payload) > MAX_ENVELOPE_BYTES:
        raise SignatureRefused("too_large", f"{len(payload)} bytes; at most {MAX_ENVELOPE_BYTES} are read")
    envelope = parse_json(payload)
    if not isinstance(envelope, dict) or envelope.get("v") != 1:
        raise SignatureRefused("malformed", "not a signed document: expected {v: 1, doc, sig}")
    text, signature = envelope.get("doc"), envelope.get("sig")
    if not isinstance(text, str) or not isinstance(signature, str):
        raise SignatureRefused("unsigned", "not a signed document: doc and sig must be text; qeil fleet sign makes it")
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise SignatureRefused("malformed", "doc is no Unicode text") from error
    verify(content, signature, keys)
    return parse_json(content), text


def parse_json(data: bytes) -> Any:
    """Plain data. SignatureRefused (malformed) for anything that is no strict JSON."""
    try:
        return json.loads(data, parse_constant=_no_number, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise SignatureRefused("malformed", f"no JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two equal keys counts depends on the reader: what was shown to the signer may not be what is obeyed."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def sealed(text: str, signature: str) -> bytes:
    """The envelope of a document's text and its signature."""
    return json.dumps({"v": 1, "doc": text, "sig": signature}, ensure_ascii=False, separators=(",", ":")).encode()
