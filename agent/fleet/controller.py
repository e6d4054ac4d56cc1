"""Controller: one process of the fleet's side, wired – link, consumer, outgoing messages, rollouts, API."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import structlog
import uvicorn

from agent import __version__
from agent.errors import ConfigError, StorageError
from agent.fleet.archives import Archives
from agent.fleet.consumer import Consumer
from agent.fleet.inventory import Inventory
from agent.fleet.operations import Operations
from agent.fleet.outgoing import Outgoing
from agent.fleet.rest import Rest
from agent.fleet.retention import Keeper
from agent.fleet.rollouts import Rollouts
from agent.fleet.store import Store, open_engine
from agent.fleet.tokens import Tokens
from agent.fleet.writers import Writers
from agent.mqtt.link import Link
from agent.mqtt.minisign import parse_public_key
from agent.mqtt.topics import ControllerTopics
from agent.ports import Clock
from agent.schema.fleet import FleetSettings

ROUND_S, KEEP_EVERY_S, KEEP_AGAIN_S = 0.5, 600.0, 60.0
START_S = 10.0
_log = structlog.get_logger("controller")


class Controller:
    """`start` returns once the API answers. Stateless but for what is under way: kill it and start another."""

    def __init__(self, settings: FleetSettings, clock: Clock) -> None:
        """ConfigError, StorageError and LinkError say what is wrong with the settings."""
        self.settings = settings
        self._engine = open_engine(settings.database)
        keys = [parse_public_key(key) for key in settings.trusted_keys]
        self.store = Store(self._engine, settings.retention)
        self.inventory = Inventory(self._engine, settings.silent_s, settings.missing_s, clock.wall_s)
        self.outgoing = Outgoing(self._engine, keys, clock.wall_s)
        self.rollouts = Rollouts(self._engine, self.inventory, self.outgoing, settings.name, clock.wall_s)
        self.keeper = Keeper(self._engine, settings.retention, clock.wall_s)
        self._keep_s = clock.monotonic_s()
        self._clock = clock
        self._archives = Archives(settings.archives, self.send)
        self.consumer = Writers([self._writer(clock) for _ in range(self._writers())])
        topics = ControllerTopics(settings.name, settings.group, settings.receive_maximum)
        boot = int(clock.wall_s())
        self.link = Link(
            settings.mqtt, topics, boot, clock, lambda: {"controller": __version__}, lambda *_: None, lambda _: None,
            lambda: None, self.consumer.on_request,
        )  # fmt: skip
        operations = Operations(
            self._engine, self.inventory, self.outgoing, self.rollouts, self.consumer, self.link.status, clock.wall_s
        )
        self.rest = Rest(operations, Tokens(settings.http.tokens_file), clock.wall_s)
        self._stopping = threading.Event()
        self._worker = threading.Thread(target=self._work, name="fleet", daemon=True)
        self._server: uvicorn.Server | None = None
        self._http = threading.Thread(target=self._serve, name="fleet-http", daemon=True)

    def _writers(self) -> int:
        """SQLite takes one writer at a time; a second would wait for the first."""
        return 1 if self._engine.dialect.name == "sqlite" else self.settings.writers

    def _writer(self, clock: Clock) -> Consumer:
        return Consumer(
            self.store, lambda topic, payload: self.send(topic, payload, False, None), clock,
            self.settings.receive_maximum, self._archives.on_told,
        )  # fmt: skip

    def send(self, topic: str, payload: bytes, retain: bool, expires_s: int | None) -> bool:
        """Hand a message to the link; False if it cannot take it now."""
        return self.link.send(topic, payload, retain, None, expires_s)

    @property
    def url(self) -> str:
        """Where the API is."""
        scheme = "https" if self.settings.http.tls_certificate else "http"
        return f"{scheme}://{self.settings.http.host}:{self._port}"

    def start(self) -> None:
        """Begin. ConfigError where the port is taken."""
        http = self.settings.http
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((http.host, http.port))
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"http.host {http.host} port {http.port}: {error.strerror}") from error
        self._port = self._socket.getsockname()[1]
        options: dict[str, Any] = {"log_config": None, "access_log": False, "lifespan": "off", "ws": "none"}
        if http.tls_certificate is not None and http.tls_key is not None:
            options |= {"ssl_certfile": str(http.tls_certificate), "ssl_keyfile": str(http.tls_key)}
        config = uvicorn.Config(self.rest.app(), server_header=False, timeout_graceful_shutdown=2, **options)
        self._server = uvicorn.Server(config)
        self.consumer.start()
        self.link.start()
        self._worker.start()
        self._http.start()
        end_s = time.monotonic() + START_S
        while not self._server.started and self._http.is_alive() and time.monotonic() < end_s:
            time.sleep(0.02)  # uvicorn has no event for it

    def _serve(self) -> None:
        assert self._server is not None  # noqa: S101  (start made it)
        try:
            self._server.run([self._socket])
        except Exception:  # noqa: BLE001  (thread root: the API is gone, boards are served on)
            _log.exception("http died")

    def _work(self) -> None:
        try:
            while not self._stopping.wait(ROUND_S):
                if self.link.connected:
                    self._round()
        except Exception:  # noqa: BLE001  (thread root: alive() turns false)
            _log.exception("controller died")

    def _round(self) -> None:
        try:
            self.outgoing.round(self.send)
            self.rollouts.round(self.send)
        except StorageError as error:
            _log.warning("waits for the database", cause=error.message)
        if self._clock.monotonic_s() >= self._keep_s:
            self._keep()

    def _keep(self) -> None:
        """Retention has its own trouble, such as a role without the right to its functions, and stops nothing else."""
        wait_s = KEEP_EVERY_S
        try:
            if self.keeper.round():
                wait_s = 0.0
        except StorageError as error:
            wait_s = KEEP_AGAIN_S
            _log.warning("old rows stay", cause=error.message)
        self._keep_s = self._clock.monotonic_s() + wait_s

    def alive(self) -> bool:
        """Whether every part makes progress."""
        return all((self._worker.is_alive(), self._http.is_alive(), self.consumer.alive(), self.link.alive()))

    def stop(self) -> None:
        """End; nothing that was not committed is acknowledged."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True
            self._http.join(5.0)
            self._worker.join(5.0)
        self.consumer.stop()
        self.link.stop()
        self._engine.dispose()
