"""Load for the demo: bounded requests with answers checked against the first one."""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from dataclasses import field
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.cli.client import AgentClient
from agent.errors import QeilError
from agent.records import record

Inputs = dict[str, npt.NDArray[Any]]


@record(frozen=True)
class Measured:
    """Median of some requests on one placement."""

    execute_ms: float
    energy_j: float | None
    provenance: str


@record
class Fire:
    """What came of the requests."""

    answered: int = 0
    lost: int = 0
    wrong: int = 0
    moved: int = 0
    slowest_ms: float = 0.0
    killed_s: float | None = None
    placements: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


def median_execute_ms(client: AgentClient, model: str, inputs: Inputs, placement: str, count: int) -> Measured:
    """Median time on the lane, after two requests that warm it."""
    times, last = [], {}
    for number in range(count + 2):
        last = client.infer(model, inputs, {"placement": placement}).parameters
        if number >= 2:
            times.append(float(last["execute_ms"]))
    return Measured(statistics.median(times), last.get("energy_j"), str(last.get("provenance")))


def under_fire(url: str, model: str, inputs: Inputs, truth: Inputs, pid: int, count: int, clients: int) -> Fire:
    """Send `count` requests from `clients` threads and kill the process `pid` after a quarter of them."""
    fire, lock = Fire(), threading.Lock()
    numbers = iter(range(count))

    def work() -> None:
        client = AgentClient(url, timeout_s=60.0)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                client.close()
                return
            if number == count // 4:
                os.kill(pid, signal.SIGKILL)
                fire.killed_s = time.monotonic()
            _one(client, model, inputs, truth, fire, lock)

    threads = [threading.Thread(target=work, name=f"client-{i}") for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return fire


def _one(client: AgentClient, model: str, inputs: Inputs, truth: Inputs, fire: Fire, lock: threading.Lock) -> None:
    started_s = time.monotonic()
    try:
        answer = client.infer(model, inputs)
    except QeilError as error:
        with lock:
            fire.lost += 1
            fire.errors.append(error.message)
        return
    right = all(np.allclose(answer.outputs[name], expected, atol=1e-3) for name, expected in truth.items())
    with lock:
        fire.answered += 1
        fire.wrong += not right
        fire.moved += bool(answer.parameters.get("replays"))
        fire.placements.add(str(answer.parameters.get("placement")))
        fire.slowest_ms = max(fire.slowest_ms, (time.monotonic() - started_s) * 1e3)


class ReturnWatch:
    """Watches a lane from before its death until it serves again."""

    def __init__(self, url: str, accelerator: str, restarts: int, timeout_s: float) -> None:
        self.back_s: float | None = None
        """Monotonic time at which it served again; None: not within the timeout."""
        self._url, self._accelerator, self._restarts, self._timeout_s = url, accelerator, restarts, timeout_s
        self._thread = threading.Thread(target=self._watch, name="return-watch")
        self._thread.start()

    def _watch(self) -> None:
        end_s = time.monotonic() + self._timeout_s
        with AgentClient(self._url) as client:
            while time.monotonic() < end_s:
                rows = client.get("/status")["accelerators"]
                row = next(a for a in rows if a["name"] == self._accelerator)
                if row["state"] == "ready" and row["restarts"] > self._restarts:
                    self.back_s = time.monotonic()
                    return
                time.sleep(0.03)

    def wait(self) -> float | None:
        """Wait for the end of the watch."""
        self._thread.join()
        return self.back_s
