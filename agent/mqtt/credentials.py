"""Credentials: what each connection shows the broker – user name, password, certificate."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from agent.errors import LinkError
from agent.schema.settings import MqttSettings, MqttTls

_Stamp = tuple[tuple[int, int, int], ...]


class Credentials:
    """Of one connection after the other. The TLS files are read anew when they have changed, not for each one.

    To read them takes longer than all else that a board computes to come back, and after a broker's restart all boards
    come back at once.
    """

    def __init__(self, settings: MqttSettings) -> None:
        self._settings = settings
        self._stamp: _Stamp | None = None
        self._context: ssl.SSLContext | None = None

    def show(self, client: Any) -> None:
        """Give a client what the settings say. LinkError if the TLS files or the password file cannot be used."""
        settings = self._settings
        if settings.username is not None:
            client.username_pw_set(settings.username, _password(settings.password_file))
        if settings.tls is None:
            return
        try:
            stamp = _stamp(settings.tls)
            if self._context is None or stamp != self._stamp:
                self._context, self._stamp = _read(settings.tls), stamp
        except (OSError, ssl.SSLError) as error:
            raise LinkError(f"mqtt.tls: {error}; check the files of mqtt.tls") from error
        client.tls_set_context(self._context)


def _stamp(tls: MqttTls) -> _Stamp:
    """What tells whether a file is another one or was written to."""
    found = [path.stat() for path in (tls.ca, tls.certificate, tls.key) if path is not None]
    return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)


def _read(tls: MqttTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which asks for a certificate with the broker's name
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.ca)
    return context


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LinkError(f"mqtt.password_file: {path}: {error}") from error
