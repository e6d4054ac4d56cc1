"""Listener: the bound socket of the API, with errors that say who is in the way and which setting mends it."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from agent.errors import ConfigError
from agent.schema.settings import HttpSettings

SOCKET_MODE: Final = 0o660


def bind(settings: HttpSettings) -> socket.socket:
    """A bound stream socket, not listening yet. Raises ConfigError."""
    if settings.unix_socket is not None:
        return _bind_unix(settings.unix_socket)
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"http.host {settings.host!r} is not an address of this machine: {error.strerror}") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)  # claims the port now: two sockets with SO_REUSEADDR may be bound until one listens
    except OSError as error:
        listener.close()
        raise ConfigError(_why_not(settings, error)) from error
    return listener


def _why_not(settings: HttpSettings, error: OSError) -> str:
    where = f"port {settings.port} on {settings.host}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use{_holder(settings.port)}: set http.port to another one or stop that program"
    if error.errno == errno.EACCES:
        return f"{where} needs privileges (ports below 1024): set http.port to a higher one"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"http.host {settings.host!r} is not an address of this machine"
    return f"{where} cannot be opened: {error.strerror}"


def _holder(port: int) -> str:
    """Who listens there, as far as we may know: another user's processes are hidden from us."""
    import psutil  # noqa: PLC0415 - needed by failures only, and a start need not wait for it

    try:
        connections = psutil.net_connections("inet")
        for connection in connections:
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid is not None:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        return ""
    return ""


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        listener.bind(os.fspath(path))
        path.chmod(SOCKET_MODE)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise ConfigError(f"http.unix_socket: {path}: {error.strerror or error}") from error
    except ConfigError:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    """Remove the socket that a killed agent left behind, but nothing that is alive or something else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"http.unix_socket: {path} exists and is not a socket; choose another path or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, TimeoutError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise ConfigError(f"http.unix_socket: {path} is in use by another program; choose another path or stop it")
