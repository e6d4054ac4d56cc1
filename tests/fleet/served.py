"""The API over a store of its own, served for as long as a test needs it; no broker."""

from __future__ import annotations

import threading
import time

import uvicorn

from agent.fleet import tokens
from agent.fleet.consumer import Consumer
from agent.fleet.inventory import Inventory
from agent.fleet.operations import Operations
from agent.fleet.outgoing import Outgoing
from agent.fleet.rest import Rest
from agent.fleet.rollouts import Rollouts
from agent.fleet.store import Store, open_engine
from agent.fleet.tokens import Tokens
from agent.fleet.writers import Writers
from agent.ports import LinkStatus
from agent.service.clock import SystemClock
from tests.mqtt.signed import KEY


class Served:
    """`rest` alone is enough for clients that speak ASGI; `start` opens a port."""

    def __init__(self, folder, database: str | None = None) -> None:
        clock = SystemClock()
        engine = open_engine(database or f"sqlite:///{folder}/fleet.db")
        self.store = Store(engine)
        inventory = Inventory(engine, 86_400.0, 86_400.0, clock.wall_s)  # no board falls silent while a test runs
        outgoing = Outgoing(engine, [KEY.public], clock.wall_s)
        self.rollouts = Rollouts(engine, inventory, outgoing, "fleet-1", clock.wall_s)
        writers = Writers([Consumer(self.store, lambda *_: True, clock, 10)])
        writers.start()
        self.tokens: dict[str, str] = {}
        lines = []
        for role in tokens.ROLES:
            self.tokens[role], made = tokens.make(f"a-{role}", role, 0.0)
            lines.append(made.line())
        (folder / "tokens").write_text("\n".join(lines) + "\n")
        (folder / "tokens").chmod(0o600)
        status = LinkStatus(True, 1.0, 1, None, 1.0, {})
        operations = Operations(engine, inventory, outgoing, self.rollouts, writers, lambda: status, clock.wall_s)
        self.operations = operations
        self.rest = Rest(operations, Tokens(folder / "tokens"), clock.wall_s)
        self._stop = [writers.stop, engine.dispose]

    def start(self) -> str:
        config = uvicorn.Config(
            self.rest.app(), host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off", ws="none"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server ended"
            time.sleep(0.01)

        def stop() -> None:
            server.should_exit = True
            thread.join(10)

        self._stop.insert(0, stop)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        for act in self._stop:
            act()
