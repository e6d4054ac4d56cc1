"""Simulated boards: real links to a real broker and controller, and physics that behaves."""

from __future__ import annotations

import json
import random
import threading

import pytest
from click.testing import CliRunner

from agent.cli.fleet import fleet_command
from agent.fleet.simulation import BoardPhysics, Scenario, _answered, simulated
from agent.schema.settings import MqttSettings
from agent.service.clock import SystemClock
from tests.fleet.test_controller import World
from tests.mqtt.signed import signed
from tests.mqtt.stack import until


def test_a_board_warms_to_where_power_and_air_balance_and_heat_costs_joules():
    board = BoardPhysics(random.Random(1), 0.0, 0.0)
    seen = [board.step(60.0, 21_600.0) for _ in range(60)]
    assert seen[-1]["temperature_c"] == pytest.approx(25 + 4 * seen[-1]["power_w"], abs=0.01)
    per_inference = [s["energy_j"] / s["requests"] for s in seen]
    assert per_inference == sorted(per_inference)
    board.change = 0.2
    assert board.step(60.0, 21_600.0)["energy_j"] == pytest.approx(1.2 * seen[-1]["energy_j"], rel=1e-3)


@pytest.mark.parametrize(("name", "status", "word"), [("reload", "ok", None), ("relod", "rejected", "reload?")])
def test_a_simulated_board_refuses_a_command_that_no_board_knows(name, status, word):
    answer = _answered({"kind": "command", "id": "a", "command": name})
    assert (answer["status"], answer["id"]) == (status, "a")
    assert (word or "") in answer.get("message", "")
    assert ("message" in answer) == (word is not None)


@pytest.mark.broker
@pytest.mark.slow
def test_a_rollout_over_simulated_boards_is_aborted_when_boards_break_and_completes_when_it_is_good(tmp_path):
    world = World(tmp_path, f"sqlite:///{tmp_path}/fleet.db")
    (tmp_path / "boards").mkdir()
    mqtt = MqttSettings(host="127.0.0.1", port=world.broker.port, tenant="acme", resend_s=2)
    scenario = Scenario(60, period_s=1.0, broken_share=0.3, trial_s=0.3)
    loop = simulated(scenario, mqtt, tmp_path / "boards", SystemClock())
    stopping = threading.Event()

    def turn() -> None:
        loop.begin()
        while not stopping.is_set():
            loop.turn(0.05)

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        api = world.api()
        until(lambda: len(api.get("/v1/boards", select="status=online")) == 60, 180)

        def roll_out(ver: int) -> dict:
            document = {
                "v": 1, "kind": "bundle", "tenant": "acme", "name": "n", "ver": ver, "sha256": "0" * 64, "bytes": 1,
                "iat": 1.8e9, "exp": 1.81e9, "policy": "p", "url": "https://x/y",
            }  # fmt: skip
            plan = {"rings": [0.2, 1.0], "soak_s": 0.5}
            key = api.post("/v1/rollouts", {"offer": json.loads(signed(json.dumps(document))), "plan": plan})["id"]
            until(lambda: api.get(f"/v1/rollouts/{key}")["status"] in {"done", "aborted"}, 180)
            return api.get(f"/v1/rollouts/{key}")

        found = roll_out(1)
        assert (found["status"], found["ring"]) == ("aborted", 0)
        for board in loop.boards:
            board.broken = False
        found = roll_out(2)
        assert (found["status"], found["boards"]) == ("done", {"kept": 60})
        assert "acme-n-2 done" in world.run("rollout", "ls")
        entry = api.get("/v1/boards")[0]
        assert (entry["provenance"], entry["bundle_ver"]) == ("modelled", 2)
    finally:
        stopping.set()
        thread.join(60)
        loop.close()
        world.stop()


def test_where_one_process_may_not_open_enough_files_several_share_the_boards(monkeypatch):
    from agent.cli import fleet_simulate

    started: list[list[str]] = []

    class Part:
        returncode = 0

        def __init__(self, command, **options) -> None:
            started.append(command)

        def communicate(self):
            return json.dumps({"boards": 1, "connected": 1, "committed": 2, "acknowledged": 2, "resent": 0}), None

    monkeypatch.setattr(fleet_simulate.subprocess, "Popen", Part)
    monkeypatch.setattr(fleet_simulate.resource, "getrlimit", lambda _: (1000, 1000))
    monkeypatch.setattr(fleet_simulate.resource, "setrlimit", lambda *_: None)
    arguments = ["simulate", "--boards", "200", "--port=1", "--for", "1", "--json"]
    monkeypatch.setattr(fleet_simulate.sys, "argv", ["qeil", "fleet", *arguments])
    done = CliRunner().invoke(fleet_command, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["committed"] == 6
    assert "3 processes: each may open 1000 files, enough for 75 boards" in done.stderr
    sizes = [(c[c.index("--first") + 1], c[c.index("--boards") + 1]) for c in started]
    assert sizes == [("0", "66"), ("66", "67"), ("133", "67")]
    assert all("--port=1" in command and command.count("--boards") == 1 for command in started)
