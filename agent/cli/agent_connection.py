"""Connection to an agent: plain, TLS or a unix socket, and what its failures mean for the person at the keyboard."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from agent.cli.reach import CA_VARIABLE, KEY_VARIABLE, Reach, find
from agent.errors import QeilError

_END = "-----END CERTIFICATE-----"
_HOST_MISMATCH = 62
"""X509_V_ERR_HOSTNAME_MISMATCH; 64 is the same of an IP address."""
_IP_MISMATCH = 64


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connection(reach: Reach, timeout_s: float) -> http.client.HTTPConnection:
    """A connection that opens with its first request. Raises QeilError for a CA file that cannot be used."""
    if reach.socket_path is not None:
        return _UnixConnection(reach.socket_path, timeout_s)
    host, port = reach.host_and_port
    if reach.is_tls:
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=_context(reach))
    return http.client.HTTPConnection(host, port, timeout=timeout_s)


def of_server(url: str, ca: Path | None) -> tuple[Reach, ssl.SSLContext | None]:
    """The key and the trust for a server whose URL may go on with a path; None: it does not speak TLS."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    if parts.scheme not in {"", "http", "https"} or not parts.hostname:
        return Reach(api_key=os.environ.get(KEY_VARIABLE)), None  # whoever asks there says what is wrong with it
    reach = find(f"{parts.scheme or 'http'}://{parts.netloc.rpartition('@')[2]}", ca)
    return reach, _context(reach) if reach.is_tls else None


def _context(reach: Reach) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if reach.ca is not None:
            context.load_verify_locations(reach.ca)
        elif reach.pinned is not None:
            text = reach.pinned.read_text(encoding="ascii", errors="replace")
            # The file's first certificate alone, so that the name need not be checked: nobody else can show it.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=text[: text.index(_END) + len(_END)] + "\n")
    except (OSError, ssl.SSLError, ValueError) as error:
        if reach.ca is None:
            return ssl.create_default_context()  # the settings' certificate is not for us to read
        raise QeilError(f"--ca {reach.ca}: {_reason(error)}; give the authority's certificate as PEM") from error
    return context


def trouble(reach: Reach, error: Exception) -> str:
    """One sentence: what went wrong and what mends it."""
    where = f"no answer from {reach.url}"
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in {_HOST_MISMATCH, _IP_MISMATCH}:
            return f"the certificate of {reach.url} is for another name; use that name in --url"
        return (
            f"the certificate of {reach.url} is not trusted ({error.verify_message}); name the authority that signed "
            f"it, or the certificate itself: --ca FILE or {CA_VARIABLE}"
        )
    if isinstance(error, ssl.SSLError):
        return f"{where}: it does not speak TLS ({_reason(error)}); try --url http://…"
    if isinstance(error, PermissionError) and reach.socket_path is not None:
        return f"{where}: this user may not open the socket; sudo usermod -aG qeil $USER, then log in again"
    if isinstance(error, http.client.RemoteDisconnected | http.client.BadStatusLine | ConnectionResetError):
        return f"{where} ({error or type(error).__name__}); if it serves TLS, use --url https://…"
    return f"{where} ({error or type(error).__name__}); is the agent running? start it with: qeil run"


def refused(reach: Reach, said: str) -> str:
    """What a 401 means here."""
    if reach.api_key is None:
        return f"{said}; set {KEY_VARIABLE} to it" + (f": {reach.key_trouble}" if reach.key_trouble else "")
    return f"{said}: {reach.key_from} is not what the agent's http.api_key_file holds"


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
