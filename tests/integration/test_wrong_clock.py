"""A board whose clock says 1970 at boot: it serves, its telemetry flows, and is dated once time arrives."""

from __future__ import annotations

import time

import pytest

from agent.storage import share
from tests.fleet.test_controller import World
from tests.integration.agent_process import MAGIKA, AgentProcess, models
from tests.mqtt.stack import until

pytestmark = pytest.mark.broker

CLOCK = """
import os, time
real, begun_s = time.time, {begun_s}
time.time = lambda: real() if os.path.exists({arrived!r}) else real() - begun_s
"""


def test_rows_of_a_board_without_time_are_dated_once_it_arrives(tmp_path):
    world = World(tmp_path, f"sqlite:///{tmp_path}/fleet.db")
    folder, arrived, begun_s = tmp_path / "agent", tmp_path / "time-arrived", time.time()
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CLOCK.format(begun_s=begun_s, arrived=str(arrived)))
    policy = folder / "policy.yaml"
    text = share.find_policy("balanced").read_text()
    policy.write_text(text.replace("  window_s: 10 ", "  window_s: 1 ", 1))
    assert policy.read_text() != text
    mqtt = {"host": "127.0.0.1", "port": world.broker.port, "tenant": "acme", "resend_s": 2}
    settings = {"board": "b1", "policy": str(policy), "models": models(MAGIKA), "mqtt": mqtt}
    agent = AgentProcess(folder, settings, {"PYTHONPATH": str(folder)})
    try:
        agent.wait_ready()
        api = world.api("read")

        def rows(enough) -> list[dict]:
            found = api.get("/v1/boards/acme/b1/rows/tlm")
            return found if enough(found) else []

        until(lambda: api.get("/v1/boards", select="status=online"))
        undated = until(lambda: rows(lambda found: len(found) >= 2))
        assert {(row["when_s"], row["row"]["tq"]) for row in undated} == {(None, "none")}
        assert all(row["row"]["ts"] < 600 for row in undated)
        assert agent.status()["agent"]["mode"] == "ready"
        agent.process.kill()  # and the time comes in the next life, of the agent's if not the machine's
        agent.process.wait(60)
        agent.process.stdout.close()
        agent = AgentProcess(folder, settings, {"PYTHONPATH": str(folder)})
        agent.wait_ready()
        until(lambda: rows(lambda found: any(row["boot"] == 2 for row in found)))
        arrived.touch()
        known = {(row["boot"], row["seq"]) for row in undated}
        dated = until(lambda: rows(lambda found: all(row["when_s"] for row in found)))
        assert known <= {(row["boot"], row["seq"]) for row in dated}
        assert all(begun_s <= row["when_s"] <= time.time() for row in dated)
        assert [row["when_s"] for row in dated] == sorted((row["when_s"] for row in dated), reverse=True)
    finally:
        agent.stop()
        world.stop()
