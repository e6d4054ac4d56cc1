"""Bundles over a real broker to a real agent under load: kept, reverted with the broker gone, refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent.errors import QeilError
from agent.storage import share, yaml_files
from agent.storage.bundle_archive import pack
from tests.broker import Broker
from tests.integration.agent_process import MAGIKA, AgentProcess, models
from tests.integration.fleet_client import FleetClient
from tests.mqtt.payloads import validate
from tests.mqtt.signed import KEY, signed

pytestmark = [pytest.mark.broker, pytest.mark.slow]

SHIPPED = yaml_files.load_policy(share.find_policy("balanced")).model_dump(mode="json")
BALANCED = {**SHIPPED, "recovery": {**SHIPPED["recovery"], "hang_floor_s": 5.0}}
"""On a host that takes its cores away a call of 0.2 s is no hang; what a lost lane does is not asked here."""
HUNGRY = {**BALANCED, "name": "hungry", "pinned": [{"model": "*", "accelerator": "npu0"}]}
FRUGAL = {**BALANCED, "name": "frugal", "pinned": [{"model": "*", "accelerator": "gpu0"}]}
CALM = {**BALANCED, "name": "calm", "pinned": [{"model": "*", "accelerator": "cpu"}]}
TRIAL = {"windows": 24, "window_s": 0.4, "min_requests": 2}


class World:
    """Agent, broker, and somebody who asks all the time. `npu0` takes far more joules than `gpu0` for the same.

    Both are simulated, so that their joules do not follow the pace of the host, as those of its own CPU do.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = Broker(folder)
        self.fleet = FleetClient(self.broker.port)
        (folder / "agent").mkdir()
        mqtt = {
            "host": "127.0.0.1", "port": self.broker.port, "tenant": "acme", "resend_s": 2,
            "trusted_keys": [KEY.public.text()],
        }  # fmt: skip
        policy = folder / "agent" / "policy.yaml"
        own = {**BALANCED, "name": "own", "pinned": [{"model": "*", "accelerator": "cpu"}]}
        policy.write_text(yaml.safe_dump(own))
        self.agent = AgentProcess(
            folder / "agent",
            {
                "board": "b1", "policy": str(policy), "profile": "generic-x86", "models": models(MAGIKA), "mqtt": mqtt,
                "simulated_accelerators": [
                    {"name": "npu0", "like": "raspberry-pi-4/cpu"},
                    {"name": "gpu0", "like": "core-ultra-285hx-npu-rtx-pro-5000/gpu"},
                ],
            },
        )  # fmt: skip
        self.agent.wait_ready()
        self.stopping = threading.Event()
        self.errors: list[str] = []
        self.asker = threading.Thread(target=self._ask, daemon=True)
        self.asker.start()

    def _ask(self) -> None:
        with self.agent.client() as client:
            tensor = client.get("/v2/models/magika")["inputs"][0]
            inputs = {tensor["name"]: np.zeros([max(1, n) for n in tensor["shape"]], np.int32)}
            while not self.stopping.is_set():
                try:
                    client.infer("magika", inputs)
                except QeilError as error:
                    self.errors.append(error.message)
                time.sleep(0.02)

    def offer(self, ver: int, policy: dict, **fields) -> None:
        name = policy["name"]
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(policy))
        archive = self.folder / f"{name}.tar"
        pack({f"policies/{name}.yaml": file}, archive)
        content = archive.read_bytes()
        now_s = time.time()
        document = {
            "v": 1, "kind": "bundle", "tenant": "acme", "name": name, "ver": ver, "policy": name, "iat": now_s,
            "exp": now_s + 600, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content),
            "url": f"file://{archive}", "trial": TRIAL, **fields,
        }  # fmt: skip
        self.fleet.publish("bundle", signed(json.dumps(document)), retain=True)

    def offer_figures(self, ver: int, profile) -> None:
        """The same hardware with other figures, and the policy `calm`."""
        policy, figures = self.folder / "calm.yaml", self.folder / "figures.yaml"
        figures.write_text(profile.model_dump_json())
        archive = self.folder / f"figures-{ver}.tar"
        pack({"policies/calm.yaml": policy, "profiles/figures.yaml": figures}, archive)
        content = archive.read_bytes()
        self.offer(
            ver, CALM, profile="figures", sha256=hashlib.sha256(content).hexdigest(), bytes=len(content),
            url=f"file://{archive}", trial={**TRIAL, "windows": 4},
        )  # fmt: skip

    def joules(self) -> float:
        """What plans reckon with."""
        return self.agent.model("magika")["energy_j"]

    def record(self) -> dict:
        with contextlib.suppress(OSError):
            return json.loads((self.folder / "agent" / "state" / "bundles.json").read_text())
        return {"phase": "none", "ver": 0}

    def settled(self, ver: int) -> dict:
        def found():
            record = self.record()
            return record if record["ver"] == ver and record["phase"] in {"kept", "reverted", "refused"} else None

        return self.agent.wait_until(found, 240.0)

    def told(self, status: str) -> dict | None:
        found = self.fleet.retained("qeil/v1/acme/b1/up/bundle")
        return found if found["status"] == status else None

    def policy(self) -> str:
        return self.agent.status()["agent"]["policy"]


@pytest.fixture
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("bundles"))
    yield made
    made.stopping.set()
    made.asker.join(60)
    made.agent.stop()
    made.fleet.close()
    with contextlib.suppress(AssertionError, OSError):
        made.broker.stop()


def test_bundles_are_kept_or_reverted_by_the_board_itself_and_no_request_fails(world):
    world.offer(1, FRUGAL)
    assert world.settled(1)["phase"] == "kept", world.record()
    world.agent.wait_until(lambda: world.policy() == "frugal")
    state = world.agent.wait_until(lambda: world.told("kept"))
    validate("bundle-state", state)
    assert state["in_force_ver"] == 1

    world.offer(2, HUNGRY)
    world.agent.wait_until(lambda: world.record()["ver"] == 2)
    world.broker.kill()  # the board is on its own from here
    record = world.settled(2)
    assert record["phase"] == "reverted", (record, (world.folder / "agent" / "agent.log").read_text()[-3000:])
    assert record["code"].startswith("worse_")
    world.agent.wait_until(lambda: world.policy() == "frugal")
    assert world.errors == []

    world.broker.start()
    known = lambda: [r for r in world.fleet.rows.values() if r.get("event") == "bundle" and r.get("ver") == 2]  # noqa: E731
    assert world.agent.wait_until(known, 120)[0]["status"] == "reverted"

    world.offer(1, FRUGAL)
    answers = world.agent.wait_until(lambda: [d for t, d, _ in world.fleet.responses if t == "refused"])
    assert answers[0]["code"] == "old_version"


def test_figures_of_a_device_profile_come_into_force_and_those_of_another_board_do_not(world):
    world.offer(10, CALM, trial={**TRIAL, "windows": 1})
    assert world.settled(10)["phase"] == "kept"
    before_j = world.joules()
    own = yaml_files.load_profile(share.find_profile("generic-x86"))
    other = own.model_copy(update={"name": "another-board"})
    world.offer_figures(11, other)
    assert world.settled(11)["code"] == "profile_differs"
    assert world.joules() == pytest.approx(before_j, rel=0.5)

    cpu = own.accelerators[0]
    base_w = cpu.base_power_w.model_copy(update={"value": 20 * cpu.base_power_w.value})
    accelerators = (cpu.model_copy(update={"base_power_w": base_w}), *own.accelerators[1:])
    hungry = own.model_copy(update={"accelerators": accelerators})
    world.offer_figures(12, hungry)
    record = world.settled(12)
    assert record["phase"] == "kept", (record["code"], record["message"])
    world.agent.wait_until(lambda: world.joules() > 3 * before_j)
    assert world.errors == []
