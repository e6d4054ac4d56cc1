"""Access: who may ask. The API key where one is set, and protection against web pages where none is.

A browser on the board's network can be made to send requests to a loopback server by any page it shows (cross-site
requests, DNS rebinding). Without a key the agent therefore answers only under names that no page can claim.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.api.errors import Forbidden, Unauthorized
from agent.errors import ConfigError

OPEN_PATHS: Final = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
OPEN_FOLDER: Final = "/dashboard/"
"""The page's own files; like the page itself they hold no data."""
MIN_KEY_CHARACTERS: Final = 16


def read_key(path: Path) -> bytes:
    """The key in the file, without surrounding space. Raises ConfigError."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"http.api_key_file: {path}: {error.strerror or error}") from error
    if len(key) < MIN_KEY_CHARACTERS:
        raise ConfigError(
            f"http.api_key_file: {path}: the key has {len(key)} characters, at least {MIN_KEY_CHARACTERS} are needed; "
            f"make one with: openssl rand -hex 32"
        )
    return key


class Gate:
    """Lets a request pass or raises Unauthorized or Forbidden."""

    def __init__(self, key: bytes | None, host: str | None) -> None:
        """`host` is the configured one; None on a unix socket, where file permissions guard and any name will do."""
        self._key = key
        names = {"localhost", socket.gethostname().lower()} | ({host.lower()} if host else set())
        self._names = None if host is None else names

    def check(self, path: str, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Headers have lower-case names."""
        if self._key is None:
            self._check_origin(method, headers)
        elif path not in OPEN_PATHS and not path.startswith(OPEN_FOLDER):
            self._check_key(self._key, headers)

    def _check_key(self, key: bytes, headers: Mapping[bytes, bytes]) -> None:
        given = headers.get(b"x-api-key")
        if given is None:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer":
                raise Unauthorized("an API key is needed: send Authorization: Bearer KEY or X-API-Key: KEY")
            given = token.strip()
        if not hmac.compare_digest(given, key):
            raise Unauthorized("the API key is wrong")

    def _check_origin(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        host = headers.get(b"host", b"")
        if self._names is not None and host and not self._is_ours(host.decode("latin-1")):
            raise Forbidden(
                f"host {host.decode('latin-1')[:80]!r} is not a name of this agent: use its IP address or localhost, "
                f"or set http.api_key_file"
            )
        origin = headers.get(b"origin")
        if method != "GET" and origin is not None and origin.partition(b"://")[2] != host:
            raise Forbidden("a web page of another site sent this; set http.api_key_file and send the key")

    def _is_ours(self, host: str) -> bool:
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self._names is None or name.lower() in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
