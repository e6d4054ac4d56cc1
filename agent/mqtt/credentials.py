"""Credentials: what a connection shows the broker – user name, password, certificate."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from agent.errors import LinkError
from agent.schema.settings import MqttSettings


def show(client: Any, settings: MqttSettings) -> None:
    """Give a client what the settings say. LinkError if the TLS files or the password file cannot be used."""
    if settings.username is not None:
        client.username_pw_set(settings.username, _password(settings.password_file))
    if settings.tls is None:
        return
    tls = settings.tls
    try:
        client.tls_set(str(tls.ca), _name(tls.certificate), _name(tls.key))
    except (OSError, ssl.SSLError) as error:
        raise LinkError(f"mqtt.tls: {error}; check the files of mqtt.tls") from error


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LinkError(f"mqtt.password_file: {path}: {error}") from error
