"""Two controllers, and `kill -9` for either of them or the database at random moments of a rollout.

`python -m tests.integration.fleet_kills [--kills 10] [--boards 150] [--seed 1]`: mosquitto, PostgreSQL, two `qeil fleet
serve` and one `qeil fleet simulate`. A rollout goes over all boards, commands are given all the while, and a listener
counts what boards are really sent. Afterwards: no board skipped, no offer or command sent twice within the time after
which it is sent again on purpose, every command ended, no row missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import create_engine, func, select

from agent.fleet import tables, tokens
from agent.fleet.outgoing import AGAIN_S
from tests.broker import Broker
from tests.fleet.databases import Postgres
from tests.mqtt.signed import KEY, command_text, signed

AGENT = [sys.executable, "-m", "agent.cli.main", "fleet"]
START_S = 60.0


class Listener:
    """Every message to a board, by what it is and to whom, with its times."""

    def __init__(self, port: int) -> None:
        self.sent: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe("qeil/v1/+/+/down/#", 0)
        self.client.on_message = self._message
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _message(self, client: Any, data: Any, message: Any) -> None:
        part = message.topic.split("/", 5)[5]
        if message.payload and part.split("/")[0] in {"bundle", "cmd"}:
            document = json.loads(json.loads(message.payload)["doc"])
            what = document.get("id") or f"bundle {document['ver']}"
            self.sent[message.topic.split("/")[3], what].append(time.monotonic())

    def doubles(self, within_s: float) -> list[tuple[str, str]]:
        """What was sent twice sooner than it is sent again on purpose."""
        return [key for key, at in self.sent.items() if any(b - a < within_s for a, b in itertools.pairwise(at))]


class Controllers:
    """Two of them, started again after each kill."""

    def __init__(self, folder: Path, broker: Broker, database: str) -> None:
        secret, made = tokens.make("kills", "admin", 0.0)
        (folder / "tokens").write_text(made.line() + "\n")
        (folder / "tokens").chmod(0o600)
        self.folder, self.headers = folder, {"Authorization": f"Bearer {secret}"}
        self.settings = {
            "version": 1, "database": database, "trusted_keys": [KEY.public.text()], "silent_s": 20,
            "mqtt": {"host": "127.0.0.1", "port": broker.port, "session_expiry_s": 3600, "max_inflight": 500},
            "http": {"port": 0, "tokens_file": str(folder / "tokens")}, "log_level": "error",
        }  # fmt: skip
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.urls: dict[str, str] = {}
        for name in ("fleet-1", "fleet-2"):
            self.start(name)

    def start(self, name: str) -> None:
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps({**self.settings, "name": name}))
        process = subprocess.Popen([*AGENT, "serve", "--config", str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = process.stdout.readline().split()
        if said[:1] != ["ready"]:
            raise SystemExit(f"{name} did not start")
        self.running[name], self.urls[name] = process, said[1]

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait(10)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Of any that answers; a request that may have been taken on is repeated, as operators would."""
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            for url in list(self.urls.values()):
                try:
                    answer = httpx.request(method, url + path, json=body, headers=self.headers, timeout=5.0)
                except httpx.HTTPError:
                    continue
                if answer.status_code < 500:
                    return answer.json()
            time.sleep(0.2)
        raise SystemExit("no controller answers")

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait(10)


def offer() -> dict[str, Any]:
    now_s = time.time()
    document = {
        "v": 1, "kind": "bundle", "tenant": "simulated", "name": "n", "ver": 1, "sha256": "0" * 64, "bytes": 10,
        "iat": now_s, "exp": now_s + 1e6, "policy": "p", "url": "https://example.org/n",
    }  # fmt: skip
    return {"offer": json.loads(signed(json.dumps(document))), "plan": {"rings": [0.2, 1.0], "soak_s": 1.0}}


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    rng = random.Random(given.seed)
    broker = Broker(folder, "max_queued_messages 100000")
    server = Postgres(folder)
    controllers = Controllers(folder, broker, server.url)
    boards = subprocess.Popen(
        [*AGENT, "simulate", "--boards", str(given.boards), "--port", str(broker.port), "--period", "5", "--memory",
         "--for", "3600", "--json"], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    listener = Listener(broker.port)
    killed: dict[str, int] = defaultdict(int)
    commands: list[str] = []
    try:
        wait(lambda: len(controllers.ask("GET", "/v1/boards")) == given.boards, 120)
        wait(lambda: all(b["status"] == "online" for b in controllers.ask("GET", "/v1/boards")), 60)
        rollout = controllers.ask("POST", "/v1/rollouts", offer())["id"]
        for _ in range(given.kills):
            for _ in range(5):
                board = f"sim-{rng.randrange(given.boards):06d}"
                text = command_text("plan", tenant="simulated", board=board, exp=time.time() + 600)
                commands.append(controllers.ask("POST", "/v1/messages", json.loads(signed(text)))["id"])
            time.sleep(rng.uniform(0.0, 3.0))
            name = rng.choice(["fleet-1", "fleet-2", "database"])
            killed[name] += 1
            if name == "database":
                server.stop()
                time.sleep(rng.uniform(0.0, 2.0))
                server.start()
            else:
                controllers.kill(name)
                time.sleep(rng.uniform(0.0, 2.0))
                controllers.start(name)
        wait(lambda: controllers.ask("GET", f"/v1/rollouts/{rollout}")["status"] not in {"running"}, 300)
        wait(lambda: all(controllers.ask("GET", f"/v1/messages/{c}")["status"] == "ok" for c in commands), 150)
        boards.terminate()
        boards.wait(30)
        time.sleep(3.0)
        found = controllers.ask("GET", f"/v1/rollouts/{rollout}")
        return {
            "boards": given.boards, "kills": dict(killed), "rollout": found["status"], "ended": found["boards"],
            "commands": len(commands), "sent": len(listener.sent),
            "sent_twice_too_soon": listener.doubles(AGAIN_S - 5.0), "sent_again_later": len(listener.doubles(1e9)),
            **rows(server.url), "load": os.getloadavg()[0],
        }  # fmt: skip
    finally:
        boards.kill()
        boards.wait(10)
        listener.client.disconnect()
        listener.client.loop_stop()
        controllers.stop()
        server.stop()
        broker.stop()


def rows(url: str) -> dict[str, int]:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    lacking = func.coalesce(func.sum(tables.streams.c.top + 1 - tables.streams.c.stored - tables.streams.c.lost), 0)
    with engine.connect() as db:
        stored = db.execute(select(func.count()).select_from(tables.rows)).scalar_one()
        missing = db.execute(select(lacking)).scalar_one()
    engine.dispose()
    return {"rows": int(stored), "missing": int(missing)}


def wait(condition: Any, timeout_s: float) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise SystemExit("did not happen in time")
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--boards", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    with tempfile.TemporaryDirectory(prefix="qeil-fleet-kills-") as name:
        found = run(parser.parse_args(), Path(name))
    sys.stdout.write(json.dumps(found) + "\n")
    whole = found["rollout"] == "done" and found["ended"] == {"kept": found["boards"]}
    if not whole or found["sent_twice_too_soon"] or found["missing"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
