"""What is watched during an attack: whether an honest client is served, and the agent's memory at its peak."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter

import numpy as np

from benchmarks.abuse_client import INFER, ask, body_of, request
from benchmarks.fuzz import Agent


class Honest(threading.Thread):
    """Asks ten times a second over a fresh connection and checks the answer."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.over = port, threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.slowest_s = 0.0

    def run(self) -> None:
        x = np.arange(8, dtype=np.float32)
        body = body_of(data=x.tolist())
        while not self.over.wait(0.1):
            begun_s = time.monotonic()
            try:
                status, data = ask(self.port, request(INFER, body))
            except OSError:
                status, data = "no connection", b""
            if status == "200" and json.loads(data)["outputs"][0]["data"] != (x + 1).tolist():
                status = "wrong"
            self.outcomes[status] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun_s)


class Peak(threading.Thread):
    """The agent's largest memory while it runs."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(daemon=True)
        self.agent, self.over, self.most_bytes = agent, threading.Event(), agent.rss_bytes()

    def run(self) -> None:
        while not self.over.wait(0.02):
            if self.agent.process.poll() is not None:
                return
            self.most_bytes = max(self.most_bytes, self.agent.rss_bytes())
