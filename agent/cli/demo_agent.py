"""The demo's own agent process, its settings, and a private broker where mosquitto is installed."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import IO

import click
import yaml

from agent.child import child_command
from agent.cli.tables import counted
from agent.errors import QeilError
from agent.records import record
from agent.storage import share

READY_TIMEOUT_S = 120.0
SIMULATED = "npu0"
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


@record
class Broker:
    """A mosquitto of our own on loopback, with a subscriber that writes what it sees to a file."""

    port: int
    process: subprocess.Popen[bytes]
    subscriber: subprocess.Popen[bytes] | None
    seen: Path

    @classmethod
    def start_if_installed(cls, folder: Path) -> Broker | None:
        """None where mosquitto is not installed."""
        program = shutil.which("mosquitto", path=PATH)
        if program is None:
            return None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        config = folder / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        log = (folder / "mosquitto.log").open("wb")
        process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
        _wait_for_port(port)
        seen = folder / "mqtt.txt"
        client = shutil.which("mosquitto_sub", path=PATH)
        subscriber = None
        if client is not None:
            command = [client, "-p", str(port), "-V", "5", "-v", "-t", "qeil/#"]
            subscriber = subprocess.Popen(command, stdout=seen.open("wb"))
        return cls(port, process, subscriber, seen)

    def stop(self) -> None:
        """End broker and subscriber."""
        for process in (self.subscriber, self.process):
            if process is not None:
                process.terminate()
                process.wait(5)


def _wait_for_port(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise QeilError(f"the demo's broker did not open port {port}")


def write_settings(folder: Path, models: dict[str, Path], broker: Broker | None) -> Path:
    """agent.yaml and a policy: `balanced`, but every placement kept loaded so that all can be measured."""
    policy = yaml.safe_load(share.find_policy("balanced").read_text())
    policy.update(name="demo", description="balanced, with every placement loaded", standby="all")
    policy["forbidden"] = [{"model": "magika", "accelerator": SIMULATED}]  # its lane is killed; let it be a real one
    policy["telemetry"] = {"sample_s": 0.5, "window_s": 2.0}
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy, sort_keys=False))
    settings: dict[str, object] = {
        "version": 1, "state_dir": "state", "board": "demo", "policy": "policy.yaml", "http": {"port": 0},
        "outbox": {"flush_s": 1},
        "models": [{"name": name, "path": str(path)} for name, path in models.items()],
        "simulated_accelerators": [{"name": SIMULATED, "like": "jetson-orin-nano-super/gpu"}],
    }  # fmt: skip
    if broker is not None:
        settings["mqtt"] = {"host": "127.0.0.1", "port": broker.port, "tenant": "demo", "delete_on": "puback"}
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


class Agent:
    """`qeil run` as a child process for as long as the context lasts."""

    def __init__(self, config: Path, log: Path) -> None:
        self._command = child_command("agent.cli.main", "run", "--config", str(config))
        self._log = log
        self.url = ""
        self.ready_s = 0.0

    def __enter__(self) -> Agent:
        started_s = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout is not None  # noqa: S101  (asked for a pipe)
        line = _read_line(self._process.stdout, READY_TIMEOUT_S)
        if not line.startswith("ready "):
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
            raise QeilError(f"the agent did not get ready ({line.strip() or 'no line'}); last of its log:\n{tail}")
        self.url = line.split()[1]
        self.ready_s = time.monotonic() - started_s
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            code = self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait(5)
        if self._process.stdout is not None:
            self._process.stdout.close()
        click.echo(f"agent stopped with exit code {code}")


def _read_line(stream: IO[bytes], timeout_s: float) -> str:
    ready, _, _ = select.select([stream], [], [], timeout_s)
    return stream.readline().decode() if ready else ""


def show_telemetry(folder: Path, broker: Broker | None) -> None:
    """What a subscriber saw, or what lies in the outbox."""
    if broker is not None and broker.subscriber is not None:
        lines = broker.seen.read_text(errors="replace").splitlines()
        click.echo(f"a subscriber on the demo's broker saw {len(lines)} messages; the first and the last telemetry:")
        telemetry = [line for line in lines if "/tlm/" in line.split(" ")[0]]
        for line in lines[:1] + telemetry[-1:]:
            topic, _, payload = line.partition(" ")
            click.echo(f"  {topic}\n    {_short(payload)}")
        return
    from agent.storage.outbox import recent_rows

    rows = recent_rows(folder / "state" / "outbox.db", 1_000)
    click.echo(f"no broker here: the outbox holds {counted(len(rows), 'row')}; the last one:")
    for row in rows[-1:]:
        click.echo(f"  boot {row.boot} {row.cls} seq {row.seq}\n    {_short(json.dumps(row.payload))}")


def _short(text: str) -> str:
    return text if len(text) <= 400 else text[:400] + f" … ({len(text)} characters)"
