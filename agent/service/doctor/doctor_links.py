"""Doctor's look at links: the port to serve on, certificates, the broker."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
import stat
import time
import urllib.parse
from pathlib import Path

from agent.api.access import MIN_KEY_CHARACTERS
from agent.errors import ConfigError
from agent.otlp.exporter import headers
from agent.schema.settings import MqttSettings, MqttTls, Settings
from agent.service.check_result import CheckResult, fail, ok, warn
from agent.service.doctor import doctor_broker
from agent.service.doctor.certificates import validity_s

TIMEOUT_S = 3.0
API_KEY = "api key"
HEADERS = "collector's headers"
UNIX_PATH_BYTES = 107
"""unix(7): 108 with the zero at the end."""
SOON_S = 14 * 86_400.0
"""A certificate that ends within two weeks is worth a warning."""


def http_port(settings: Settings) -> CheckResult:
    """The port is free, or an agent answers on it already."""
    where = settings.http
    if where.unix_socket is not None:
        return _unix_socket(where.unix_socket)
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((where.host, where.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _taken(where.host, where.port, where.tls_certificate is not None)
        mend = "correct http.host and http.port in the settings"
        return fail("http", f"cannot listen on {where.host}:{where.port}: {error.strerror or error}", mend)
    return ok("http", f"{where.host}:{where.port} is free")


def _unix_socket(path: Path) -> CheckResult:
    if len(os.fsencode(path)) > UNIX_PATH_BYTES:
        return fail(
            "http", f"{path} is longer than the {UNIX_PATH_BYTES} bytes of a socket's name", "shorten http.unix_socket"
        )
    if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
        message = f"{path} is there and is no socket: the agent will not start"
        return fail("http", message, f"sudo mv {path} {path}.away, or set http.unix_socket to another path")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return fail("http", f"no socket can be made in {path.parent}", f"sudo install -d -o $USER {path.parent}")
    return ok("http", f"unix socket {path}")


def _taken(host: str, port: int, tls: bool) -> CheckResult:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    if tls:
        # Who it is does not matter here: nothing is told, and whether the certificate is good is another check.
        unverified = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=unverified)
    if _is_agent(connection):
        return ok("http", f"an agent answers on {host}:{port}")
    mend = f"stop the other program (ss -ltnp 'sport = :{port}'), or set http.port"
    return fail("http", f"{host}:{port} is used by another program", mend)


def _is_agent(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def certificates(settings: Settings, wall_s: float) -> list[CheckResult]:
    """Every certificate, key and secret the settings name can be read, belongs together and is in date."""
    results = [
        _certificate(what, path, wall_s)
        for what, path in (
            ("http certificate", settings.http.tls_certificate),
            *_broker_certificates(settings.mqtt),
            ("collector's CA", settings.otlp.ca if settings.otlp is not None else None),
        )
        if path is not None
    ]
    pairs = [("http key", settings.http.tls_certificate, settings.http.tls_key)]
    secrets = [(API_KEY, settings.http.api_key_file)]
    if settings.otlp is not None:
        secrets.append((HEADERS, settings.otlp.headers_file))
    if settings.mqtt is not None:
        secrets.append(("broker password", settings.mqtt.password_file))
        if settings.mqtt.tls is not None:
            pairs.append(("broker key", settings.mqtt.tls.certificate, settings.mqtt.tls.key))
    results += [_pair(what, cert, key) for what, cert, key in pairs if cert is not None and key is not None]
    results += [_secret(what, path) for what, path in secrets if path is not None]
    return results


def _broker_certificates(mqtt: MqttSettings | None) -> list[tuple[str, Path | None]]:
    if mqtt is None or mqtt.tls is None:
        return []
    return [("broker CA", mqtt.tls.ca), ("broker certificate", mqtt.tls.certificate)]


def _certificate(what: str, path: Path, wall_s: float) -> CheckResult:
    try:
        begins_s, ends_s = validity_s(path)
        left_s = ends_s - wall_s
    except OSError as error:
        return fail(what, f"{path} cannot be read: {error.strerror or error}", "correct the path or its permissions")
    except ValueError as error:
        return fail(what, str(error), "put a PEM certificate there")
    if begins_s > wall_s:
        ahead = f"{path} counts only in {(begins_s - wall_s) / 86_400:.1f} days: it, or the clock, is wrong"
        return fail(what, ahead, "timedatectl says whether the clock is right; if it is, renew the certificate")
    days = abs(left_s) / 86_400
    if left_s < 0:
        return fail(what, f"{path} ended {days:.0f} days ago", "renew it (and check the clock)")
    if left_s < SOON_S:
        return warn(what, f"{path} ends in {days:.0f} day{'' if round(days) == 1 else 's'}", "renew it")
    return ok(what, f"{path}, valid for {days:.0f} days")


def _pair(what: str, certificate: Path, key: Path) -> CheckResult:
    try:
        # An encrypted key would ask for its password on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        return fail(
            what, f"{key} does not belong to {certificate}, or is encrypted", "put the certificate's own key there"
        )
    except OSError as error:
        return fail(what, f"{key} cannot be used: {error.strerror or error}", "correct the path or its permissions")
    return ok(what, str(key))


def _secret(what: str, path: Path) -> CheckResult:
    if not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises where a parent folder is closed to us)
        return fail(what, f"{path} does not exist", "make it, readable by the agent's user only (chmod 600)")
    if not os.access(path, os.R_OK):
        return fail(what, f"{path} cannot be read by this user", "give it to the agent's user")
    if not path.read_bytes().strip():
        return fail(what, f"{path} is empty", "write the secret into it")
    if what == API_KEY and len(path.read_bytes().strip()) < MIN_KEY_CHARACTERS:
        message = f"{path} holds fewer than {MIN_KEY_CHARACTERS} characters: the agent will not start with it"
        return fail(what, message, f"openssl rand -hex 32 > {path}")
    if path.stat().st_mode & 0o077:
        return warn(what, f"{path} can be read by others", f"chmod 600 {path}")
    if what == HEADERS:
        try:
            headers(path)
        except ConfigError as error:
            return fail(what, error.message, f"write NAME: VALUE lines into {path}")
    return ok(what, str(path))


def collector(settings: Settings) -> list[CheckResult]:
    """Something listens where the metrics are pushed to; nothing where no collector is configured."""
    if settings.otlp is None:
        return []
    url = urllib.parse.urlsplit(settings.otlp.endpoint)
    try:
        where = (url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
        with socket.create_connection(where, timeout=TIMEOUT_S):
            return [ok("collector", f"{where[0]}:{where[1]} takes connections")]
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        mend = "check otlp.endpoint, the collector and the network; /metrics and telemetry go on meanwhile"
        return [warn("collector", f"{settings.otlp.endpoint} is not reachable: {why}", mend)]


def broker(settings: Settings) -> CheckResult:
    """The broker takes a connection, and its certificate is trusted."""
    mqtt = settings.mqtt
    if mqtt is None:
        return ok("broker", "none configured: telemetry stays in the outbox")
    where = f"{mqtt.host}:{mqtt.port}"
    begin_s = time.monotonic()
    try:
        with socket.create_connection((mqtt.host, mqtt.port), timeout=TIMEOUT_S) as connection:
            why = _greeted(mqtt, connection)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", None) or error.reason or str(error)
        return fail(
            "broker", f"{where}: TLS is refused: {why}", "correct mqtt.tls, the broker's certificate or the clock"
        )
    except OSError as error:
        why = error.strerror or str(error)
        mend = "check mqtt.host, mqtt.port and the network; telemetry waits in the outbox meanwhile"
        return warn("broker", f"{where} is not reachable: {why}", mend)
    if why:
        mend = "correct mqtt.username, mqtt.password_file or the broker's access list"
        return fail("broker", f"{where} does not take us: {why}", mend)
    return ok("broker", f"{where} answers in {(time.monotonic() - begin_s) * 1000:.0f} ms")


def _greeted(mqtt: MqttSettings, connection: socket.socket) -> str:
    """Why the broker refuses; "" where it takes us, or where we cannot read the password, which another check says."""
    password: bytes | None = None
    if mqtt.password_file is not None:
        if not os.access(mqtt.password_file, os.R_OK):
            return ""
        password = mqtt.password_file.read_bytes().strip()
    if mqtt.tls is None:
        return doctor_broker.refusal(connection, mqtt.username, password)
    with _context(mqtt.tls).wrap_socket(connection, server_hostname=mqtt.host) as wrapped:
        return doctor_broker.refusal(wrapped, mqtt.username, password)


def _context(tls: MqttTls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tls.ca))
    if tls.certificate is not None and tls.key is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
