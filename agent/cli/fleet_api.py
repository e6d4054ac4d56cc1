"""The controller's API as commands use it: where it is, with which token, and one line for every error."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import click

from agent.errors import QeilError

DEFAULT_URL = "http://127.0.0.1:8585"
TIMEOUT_S = 30.0
Command = TypeVar("Command", bound=Callable[..., Any])


class FleetApi:
    """One controller; any of a group will do."""

    def __init__(self, url: str, token: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise QeilError(f"{url}: expected http://HOST:PORT or https://HOST:PORT")
        self._url = url.rstrip("/")
        self._token = token

    def get(self, path: str, **query: str | int | None) -> Any:
        """A JSON document."""
        wanted = {key: value for key, value in query.items() if value not in {None, ""}}
        return self._ask("GET", f"{quote(path)}?{urlencode(wanted)}" if wanted else quote(path), None)

    def post(self, path: str, body: Any = None) -> Any:
        """Ask for something."""
        return self._ask("POST", quote(path), body)

    def put(self, path: str, body: Any) -> Any:
        """Replace something."""
        return self._ask("PUT", quote(path), body)

    def _ask(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310  (the scheme was checked)
            self._url + path, data, {"Authorization": f"Bearer {self._token}"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise QeilError(_sentence(error)) from error
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise QeilError(
                f"no answer from {self._url} ({reason}); is the controller running? --url names it"
            ) from error


def _sentence(error: urllib.error.HTTPError) -> str:
    with error:
        try:
            return str(json.load(error)["error"])
        except (ValueError, KeyError, TypeError):
            return f"HTTP {error.code}"


def api_options(command: Command) -> Command:
    """--url and --token, also from QEIL_FLEET_URL and QEIL_FLEET_TOKEN."""
    command = click.option("--url", envvar="QEIL_FLEET_URL", default=DEFAULT_URL, show_default=True, show_envvar=True,
                           help="where the controller listens")(command)  # fmt: skip
    return click.option(
        "--token", envvar="QEIL_FLEET_TOKEN", default="", help="of `qeil fleet token` [QEIL_FLEET_TOKEN]"
    )(command)
