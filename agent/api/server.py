"""Server: runs the edge's event loop in its own thread, from a bound socket to the last answered request."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Final

import structlog
import uvicorn

from agent.api import access, listener
from agent.api.app import EdgeApp
from agent.api.dashboard import Insight
from agent.api.http_protocol import BoundedHttpProtocol, ConnectionBounds
from agent.errors import ConfigError, QeilError
from agent.ports import Doorbells, InferenceService, TextService
from agent.schema.settings import HttpSettings

_log = structlog.get_logger("http")

START_TIMEOUT_S: Final = 10.0
BACKLOG: Final = 2048
"""Connections the kernel keeps for us: of one too many it drops the first packet, and that client waits for seconds."""
DATE_S: Final = 1.0
"""How often the date that answers carry is renewed."""


class HttpServer:
    """Serves the agent's HTTP API. `start` returns once it accepts connections; used once, not restartable."""

    def __init__(
        self,
        service: InferenceService,
        settings: HttpSettings,
        doorbells: Doorbells | None = None,
        insight: Insight | None = None,
        texts: TextService | None = None,
    ) -> None:
        """`doorbells` of the lanes that answer: served on this server's loop while it runs.

        `insight`: for the page; `texts`: the language models.
        """
        self._insight = insight
        self._texts = texts
        self._service = service
        self._doorbells = doorbells
        self._settings = settings
        self._port: int | None = None
        self._running: _Running | None = None

    @property
    def port(self) -> int | None:
        """The TCP port in use (the real one when 0 was asked for); None on a unix socket and before `start`."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients find it: http://HOST:PORT, https://…, or unix:PATH."""
        if self._settings.unix_socket is not None:
            return f"unix:{self._settings.unix_socket}"
        scheme = "https" if self._settings.tls_certificate else "http"
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"{scheme}://{host}:{self._settings.port if self._port is None else self._port}"

    def start(self) -> None:
        """Bind and serve. Raises ConfigError for a port in use, a bad key file or bad certificates."""
        settings = self._settings
        key = access.read_key(settings.api_key_file) if settings.api_key_file is not None else None
        gate = access.Gate(key, settings.host if settings.unix_socket is None else None)
        app = EdgeApp(self._service, settings, gate, self._insight, self._texts)
        config = _config(app, settings)
        bound = listener.bind(settings)
        if settings.unix_socket is None:
            self._port = bound.getsockname()[1]
        self._running = _Running(config, app, bound, self._doorbells)
        self._running.start()

    def alive(self) -> bool:
        """Whether the server's thread runs."""
        return self._running is not None and self._running.thread.is_alive()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Refuse new clients, let answers in progress finish for up to `timeout_s`, close. Safe to call twice."""
        if self._running is None:
            return
        self._running.stop(timeout_s)
        self._running = None
        if self._settings.unix_socket is not None:
            self._settings.unix_socket.unlink(missing_ok=True)


class _Running(uvicorn.Server):
    """A server with its thread."""

    def __init__(self, config: uvicorn.Config, app: EdgeApp, bound: socket.socket, doorbells: Doorbells | None) -> None:
        super().__init__(config)
        self._doorbells = doorbells
        self._app = app
        self._bound = bound
        self._up = threading.Event()
        self._loop = new_event_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._failure: BaseException | None = None
        self.thread = threading.Thread(target=self._root, name="http", daemon=True)

    def start(self) -> None:
        self.thread.start()
        if not self._up.wait(START_TIMEOUT_S) or self._failure is not None:
            raise QeilError(f"the HTTP server did not start: {self._failure or 'timed out'}")

    def stop(self, timeout_s: float) -> None:
        self.config.timeout_graceful_shutdown = timeout_s  # type: ignore[assignment] # a float works and is finer
        self.should_exit = True
        with contextlib.suppress(RuntimeError):  # the loop is closed already: it stopped by itself
            self._loop.call_soon_threadsafe(self._end)
        self.thread.join(timeout_s + 2.0)

    def _end(self) -> None:
        self._app.events.stop()
        if not self._over.done():
            self._over.set_result(None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up.set()

    async def main_loop(self) -> None:
        """Until `stop`: uvicorn's own looks ten times a second whether to end, a sixth of an idle agent's time."""
        while not await self.on_tick(0):
            await asyncio.wait((self._over,), timeout=DATE_S)

    def _root(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            with self._answers_on_loop():
                self._loop.run_until_complete(self.serve([self._bound]))
                self._cancel_rest()
        except BaseException as error:  # noqa: BLE001 - root of the thread: told to start(), or logged
            if self._up.is_set():
                _log.error("http_server_died", exc_info=error)
            self._failure = error
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()
            self._bound.close()
            self._up.set()

    @contextlib.contextmanager
    def _answers_on_loop(self) -> Iterator[None]:
        bells = self._doorbells
        if bells is None:
            yield
            return
        bells.adopt()
        self._loop.add_reader(bells.fileno(), bells.serve)
        try:
            yield
        finally:
            self._loop.remove_reader(bells.fileno())
            bells.release()

    def _cancel_rest(self) -> None:
        """What uvicorn cancelled or left behind must end before its loop is closed."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        rest = asyncio.all_tasks(self._loop)
        for task in rest:
            task.cancel()
        if rest:
            self._loop.run_until_complete(asyncio.wait(rest, timeout=1.0))
        self._loop.run_until_complete(asyncio.sleep(0))


def _config(app: EdgeApp, settings: HttpSettings) -> uvicorn.Config:
    bounds = ConnectionBounds(settings.max_connections, settings.receive_timeout_s)
    config = uvicorn.Config(
        app,
        http=functools.partial(BoundedHttpProtocol, bounds, app.direct, app.cut_off),  # type: ignore[arg-type] # any factory will do
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        files = f"http.tls_certificate {settings.tls_certificate} and http.tls_key {settings.tls_key}"
        raise ConfigError(f"{files} cannot be used: {error}") from error
    return config


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed, asyncio's own otherwise; the answers are the same."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.new_event_loop()
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory()
