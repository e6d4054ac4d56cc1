"""Reach: where the agent answers, with which key, and whose certificate is trusted. Decided here for every command.

The address is --url, else QEIL_URL, else what the settings file says of `http`, else the default. The key is
QEIL_API_KEY, else the file that the settings name, which is sent to the settings' own address and to nobody else.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import click

from agent.errors import QeilError
from agent.records import record

DEFAULT_URL: Final = "http://127.0.0.1:8484"
KEY_VARIABLE, CA_VARIABLE = "QEIL_API_KEY", "QEIL_CA"
UNIX: Final = "unix:"
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_DEFAULT_PORT: Final = 8484
_F = TypeVar("_F", bound=Callable[..., Any])


@record(frozen=True)
class Reach:
    """An address with what opens it. `key_from` and `key_trouble` are for messages.

    `pinned`: the agent's own certificate, trusted whatever name it carries, where the settings of this machine name it.
    """

    url: str = DEFAULT_URL
    api_key: str | None = None
    key_from: str = ""
    key_trouble: str = ""
    ca: Path | None = None
    pinned: Path | None = None

    def __post_init__(self) -> None:
        _ = self.socket_path or self.host_and_port  # raises for a URL that is none

    @property
    def socket_path(self) -> str | None:
        """Of a unix socket; None where it is host and port."""
        return self.url.removeprefix(UNIX).removeprefix("//") if self.url.startswith(f"{UNIX}/") else None

    @property
    def is_tls(self) -> bool:
        """Whether certificates matter."""
        return self.url.startswith("https:")

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Raises QeilError where the URL is none."""
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError:  # a port that is no number, or a bracket that is not closed
            host, port = None, None
        if host is None or parts.scheme not in {"http", "https"} or parts.path.strip("/"):
            raise QeilError(
                f"{self.url}: expected http://HOST:PORT, https://HOST:PORT or unix:/PATH; an IPv6 address in brackets"
            )
        return host, port or (443 if self.is_tls else 80)


def find(
    url: str | None = None, ca: Path | None = None, config: Path | None = None, environ: Mapping[str, str] | None = None
) -> Reach:
    """How to reach the agent. Raises QeilError for a URL that is none; settings that cannot be read are passed over."""
    environ = os.environ if environ is None else environ
    url = url or environ.get("QEIL_URL")
    given, ca = url, ca or _path(environ.get(CA_VARIABLE))
    key = environ.get(KEY_VARIABLE)
    settings = _http_settings(config, environ)
    local = _address(settings)
    here = given is None or given.rstrip("/") == local
    found = Reach(given or local, key, KEY_VARIABLE if key else "", "", ca)
    if not here:
        return found
    pinned = _path(settings.get("tls_certificate")) if ca is None and found.is_tls else None
    file, trouble = _path(settings.get("api_key_file")), ""
    if key is None and file is not None:
        try:
            key = file.read_text(errors="replace").strip() or None
        except OSError as error:
            trouble = f"{file} holds the key and cannot be read here ({error.strerror or error})"
    return Reach(found.url, key, found.key_from or (str(file) if key else ""), trouble, ca, pinned)


def _http_settings(config: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """The section `http` with its variables, unchecked: a mistake elsewhere in the file must not keep us out."""
    from agent.service.configuration import DEFAULT_FILE

    path = config or _path(environ.get("QEIL_CONFIG")) or DEFAULT_FILE
    section: Any = {}
    if os.access(path, os.R_OK):
        from agent.errors import ConfigError
        from agent.storage import yaml_files

        try:
            section = yaml_files.read_document(path).data.get("http")
        except ConfigError:
            section = {}
    named = {
        key: environ[f"QEIL_HTTP_{key.upper()}"]
        for key in ("host", "port", "unix_socket", "api_key_file", "tls_certificate")
        if f"QEIL_HTTP_{key.upper()}" in environ
    }
    return {**(section if isinstance(section, dict) else {}), **named}


def _address(http: Mapping[str, Any]) -> str:
    if http.get("unix_socket"):
        return f"{UNIX}{http['unix_socket']}"
    host = str(http.get("host") or "127.0.0.1")
    host = _ANYWHERE.get(host, host)
    port = http.get("port", _DEFAULT_PORT)
    if not str(port).isdecimal() or int(port) == 0:  # any free port: only its ready line tells which
        port = _DEFAULT_PORT
    return f"{'https' if http.get('tls_certificate') else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _path(value: Any) -> Path | None:
    return Path(str(value)) if value else None


def reach_options(command: _F) -> _F:
    """The options --url and --ca of a command, which gets what they say as its argument `reach`."""

    @click.option("--url", help="where the agent listens: http://, https:// or unix:/PATH [env var: QEIL_URL; "
                  "default: what the settings file says, else http://127.0.0.1:8484]")  # fmt: skip
    @click.option("--ca", type=click.Path(path_type=Path), help="PEM file of the authority that signed the agent's "
                  "certificate [env var: QEIL_CA]")  # fmt: skip
    @functools.wraps(command)
    def asked(*args: Any, url: str | None, ca: Path | None, **options: Any) -> Any:
        return command(*args, reach=find(url, ca, options.get("config")), **options)

    return asked  # type: ignore[return-value]  # the options are click's business
