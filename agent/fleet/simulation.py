"""Simulation: boards that do not exist – real outbox, publisher and link, telemetry from a small model of physics.

Each board has a load that goes up and down over a day, an accelerator that warms by its power and cools to the air, and
joules per inference that grow with temperature (leakage). A bundle changes them by what the scenario says.
"""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import field
from pathlib import Path
from typing import Any

from agent.fleet.board_loop import BoardLoop, LoopBoard
from agent.mqtt.inbound import Inbound
from agent.mqtt.link import Link
from agent.mqtt.publisher import Publisher
from agent.mqtt.topics import Topics
from agent.ports import Clock
from agent.records import record
from agent.schema.command import unknown
from agent.schema.settings import MqttSettings
from agent.storage.outbox import Outbox

DAY_S = 86_400.0
IDLE_W, FULL_W = 2.0, 9.0
RESISTANCE_K_PER_W, TIME_CONSTANT_S = 4.0, 180.0
LEAKAGE_PER_K, REFERENCE_C = 0.006, 45.0
BASE_J, BASE_S = 0.35, 0.012
REQUESTS_PER_S = 20.0


@record(frozen=True)
class Scenario:
    """What is simulated. Shares from 0 to 1.

    energy_change: joules per inference under an offered bundle, as a share; broken_share: boards that revert every
    bundle; silent_share: boards that never end a trial; noise: of each window's joules; trial_s: until a bundle ends;
    first: number of the first board, where several processes share a fleet.
    """

    boards: int
    period_s: float = 10.0
    energy_change: float = 0.0
    broken_share: float = 0.0
    silent_share: float = 0.0
    noise: float = 0.03
    trial_s: float = 5.0
    seed: int = 1
    first: int = 0


@record
class BoardPhysics:
    """One accelerator. `step` is pure but for its own state and generator."""

    rng: random.Random
    noise: float
    phase_s: float
    temperature_c: float = 40.0
    change: float = 0.0
    ambient_c: float = field(default=25.0)

    def step(self, seconds: float, now_s: float) -> dict[str, float]:
        """What the window of that length shows."""
        load = 0.5 + 0.4 * math.sin(2 * math.pi * (now_s + self.phase_s) / DAY_S)
        power_w = IDLE_W + (FULL_W - IDLE_W) * load
        settled_c = self.ambient_c + RESISTANCE_K_PER_W * power_w
        self.temperature_c += (settled_c - self.temperature_c) * (1 - math.exp(-seconds / TIME_CONSTANT_S))
        leakage = 1 + LEAKAGE_PER_K * (self.temperature_c - REFERENCE_C)
        jitter = math.exp(self.rng.gauss(0, self.noise))
        requests = max(1, round(REQUESTS_PER_S * load * seconds))
        energy_j = BASE_J * leakage * (1 + self.change) * jitter * requests
        return {"requests": requests, "energy_j": energy_j, "temperature_c": self.temperature_c, "power_w": power_w}


def chance(seed: int, number: int) -> random.Random:
    """What is drawn for a board; first, whether it is one of those that revert every bundle (below `broken_share`)."""
    return random.Random(seed * 1_000_003 + number)  # noqa: S311  (simulated, no secret)


class SimulatedBoard(LoopBoard):
    """Answers commands at once, reports desired states as applied, and ends bundles as its scenario says."""

    def __init__(
        self, number: int, scenario: Scenario, mqtt: MqttSettings, folder: Path, boot: int, clock: Clock
    ) -> None:
        name = f"sim-{number:06d}"
        self._topics = topics = Topics(mqtt.tenant, name)
        self._scenario = scenario
        self._clock = clock
        self._boot = boot
        rng = chance(scenario.seed, number)
        self.broken = rng.random() < scenario.broken_share
        self.silent = rng.random() < scenario.silent_share
        self.physics = BoardPhysics(rng, scenario.noise, rng.uniform(0, DAY_S / 4), ambient_c=rng.uniform(15, 32))
        self.loop: BoardLoop | None = None
        outbox = Outbox(folder / f"{name}.db", boot, 1 << 24, 1.0, clock)
        publisher = Publisher(outbox, topics, mqtt, clock)
        link = Link(
            mqtt, topics, boot, clock, self._birth, publisher.on_message, publisher.on_published,
            publisher.on_connected, self._requested,
        )  # fmt: skip
        super().__init__(name, outbox, publisher, link)

    def _stamp(self) -> dict[str, Any]:
        return {"ts": round(self._clock.wall_s(), 3), "mono": round(self._clock.monotonic_s(), 3), "tq": "ntp"}

    def _birth(self) -> dict[str, Any]:
        policy = {"name": "simulated", "sha256": ""}
        return {**self._stamp(), "agent": "simulated", "profile": "simulated", "policy": policy, "cond": []}

    def produce(self) -> None:
        """One window, committed at once."""
        seen = self.physics.step(self._scenario.period_s, self._clock.wall_s())
        model = {
            "state": "ready", "placement": "npu0", "requests": seen["requests"], "failed": 0, "replayed": 0,
            "energy_j": round(seen["energy_j"], 6), "provenance": "modelled", "p50_ms": 1e3 * BASE_S,
        }  # fmt: skip
        last_c = round(seen["temperature_c"], 3)
        series = {"n": 1, "min": last_c, "mean": last_c, "max": last_c, "last": last_c}
        lane = {"state": "ready", "restarts": 0, "temperature_c": series}
        row = {
            **self._stamp(), "window_s": self._scenario.period_s, "mode": "ready", "policy": "",
            "accelerators": {"npu0": lane}, "models": {"m": model}, "conditions": [],
        }  # fmt: skip
        self.outbox.append("tlm", row)
        self.outbox.flush()

    # ------------------------------------------------------------------ what the fleet asks

    def _requested(self, inbound: Inbound) -> None:
        inbound.acknowledge()
        document = _document(inbound.payload)
        kind = document.get("kind")
        if kind == "command":
            fields = _answered(document)
            self._tell(self._topics.response(str(document.get("command"))), False, fields)
            self.outbox.append("evt", {**self._stamp(), "event": "command", **fields})
        elif kind == "desired":
            ver = document.get("ver")
            self._tell(self._topics.reported, True, {"des_ver": ver, "status": "applied", "in_force_ver": ver})
        elif kind == "bundle" and self.loop is not None:
            self._tell(self._topics.bundle_state, True, self._bundle(document, "trial", {}))
            if not self.silent:
                end_s = time.monotonic() + self._scenario.trial_s * self.physics.rng.uniform(0.8, 1.2)
                self.loop.at(end_s, lambda: self._end(document))

    def _end(self, document: dict[str, Any]) -> None:
        if self.broken:
            report = self._bundle(document, "reverted", {"code": "self_test", "message": "simulated as broken"})
        else:
            before = self.physics.change
            self.physics.change = self._scenario.energy_change
            found = (1 + self.physics.change) / (1 + before) - 1 + self.physics.rng.gauss(0, self._scenario.noise)
            report = self._bundle(document, "kept", {"figures": {"proven": True, "energy": {"m": round(found, 4)}}})
        self._tell(self._topics.bundle_state, True, report)
        self.outbox.append("evt", {**self._stamp(), "event": "bundle", **report})
        if self.loop is not None:
            self.loop.work(self)

    def _bundle(self, document: dict[str, Any], status: str, more: dict[str, Any]) -> dict[str, Any]:
        ver = document.get("ver")
        return {"ver": ver, "status": status, "in_force_ver": ver if status == "kept" else None, **more}

    def _tell(self, topic: str, retain: bool, fields: dict[str, Any]) -> None:
        payload = json.dumps({"v": 1, "boot": self._boot, **self._stamp(), **fields}).encode()
        if not self.link.send(topic, payload, retain) and self.loop is not None:
            self.loop.at(time.monotonic() + 1.0, lambda: self._tell(topic, retain, fields))


def simulated(scenario: Scenario, mqtt: MqttSettings, folder: Path, clock: Clock) -> BoardLoop:
    """All boards of a scenario, ready to begin."""
    boot = int(clock.wall_s())
    boards = [
        SimulatedBoard(i, scenario, mqtt, folder, boot, clock)
        for i in range(scenario.first, scenario.first + scenario.boards)
    ]
    loop = BoardLoop(boards, scenario.period_s, scenario.seed)
    for board in boards:
        board.loop = loop
    loop.producing = True
    return loop


def _answered(document: dict[str, Any]) -> dict[str, Any]:
    """What became of a command: done at once, or refused as a board refuses one that it does not know."""
    name = str(document.get("command"))
    fields = {"id": document.get("id"), "command": name}
    wrong = unknown(name)
    if wrong is None:
        return {**fields, "status": "ok", "attempts": 1}
    return {**fields, "status": "rejected", "code": "unknown_command", "message": wrong, "attempts": 0}


def _document(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(json.loads(payload)["doc"])
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
