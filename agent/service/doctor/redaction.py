"""Redaction: takes secrets out of documents before they leave the board, by names of keys and the look of values."""

from __future__ import annotations

import re
from typing import Any

REMOVED = "(removed)"
_KEY = re.compile(
    r"passw|passphrase|secret|token(?!s)|credential|api[_-]?key|private|authorization|username", re.IGNORECASE
)
_PATH = re.compile(r"(_file|_dir|_path)$")
"""Where a secret is kept is no secret."""
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_URL = re.compile(r"(\w+://)[^\s@\"'<>]+@")
"""With whatever stands before an @: a token alone and a password with a slash too."""
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_PAIR = re.compile(
    r"(?i)(?<![A-Za-z0-9])([\w-]*(?:passw(?:or)?d|passphrase|secret|token(?!s)|api[_-]?key|signature|(?<=[?&])sig)[\w-]*)"
    r"(\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|\S+)"
)
"""As client_secret=…, x-api-key: …, ?access_token=…; counts of tokens stay."""
_MINISIGN_SECRET = re.compile(r"RWR[A-Za-z0-9+/=]{180,}")


def redacted(value: Any) -> Any:
    """A copy of plain data without secrets."""
    if isinstance(value, dict):
        return {k: REMOVED if _is_secret(str(k), v) else redacted(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return redacted_text(value) if isinstance(value, str) else value


def _is_secret(key: str, value: Any) -> bool:
    return value is not None and _KEY.search(key) is not None and _PATH.search(key) is None


def redacted_text(text: str) -> str:
    """Text without private keys, passwords in URLs, authorisation headers and `password=…`."""
    text = _PEM.sub(REMOVED, text)
    text = _MINISIGN_SECRET.sub(REMOVED, text)
    text = _URL.sub(rf"\1{REMOVED}@", text)
    text = _BEARER.sub(rf"\1 {REMOVED}", text)
    return _PAIR.sub(rf"\1\2{REMOVED}", text)
