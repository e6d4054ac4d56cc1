"""Signed commands over a real broker to a real agent."""

from __future__ import annotations

import json
import tarfile
import time
from pathlib import Path

import pytest

from agent.cli.infer import random_inputs
from agent.mqtt import signing_key
from agent.storage import share
from tests.broker import Broker
from tests.integration.agent_process import MAGIKA, NSFW, models, running
from tests.integration.fleet_client import BASE, FleetClient
from tests.mqtt.signed import KEY, STRANGER, command_text, signed

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    broker = Broker(folder)
    policy = folder / "policy.yaml"
    policy.write_text(share.find_policy("balanced").read_text().replace("ramp_s: 30", "ramp_s: 1"))
    mqtt = {
        "host": "127.0.0.1", "port": broker.port, "tenant": "acme", "resend_s": 2,
        "trusted_keys": [signing_key.generate().public.text(), KEY.public.text()],
    }  # fmt: skip
    fleet = FleetClient(broker.port)
    with running(folder / "agent", board="b1", policy=str(policy), models=models(MAGIKA, NSFW), mqtt=mqtt) as agent:
        agent.policy = policy
        agent.wait_until(lambda: fleet.rows)
        yield agent, fleet
    fleet.close()
    broker.stop()


def test_a_lane_is_restarted_and_serves_on(world):
    agent, fleet = world
    before = agent.accelerator("cpu")
    result = fleet.run("restart-lane", {"accelerator": "cpu"})
    assert result["status"] == "ok", result
    assert result["out"]["restarts"] == before["restarts"] + 1
    assert [d["status"] for d in fleet.of(result["id"])][:2] == ["accepted", "running"]
    with agent.client() as client:
        assert client.infer("magika", random_inputs(client.get("/v2/models/magika"))).outputs
    agent.wait_until(lambda: [r for r in fleet.rows.values() if r.get("id") == result["id"]])
    event = next(r for r in fleet.rows.values() if r.get("id") == result["id"])
    assert (event["event"], event["status"], event["attempts"]) == ("command", "ok", 1)


def test_response_topic_and_correlation_are_the_callers(world):
    _, fleet = world
    text = command_text("set-log-level", args={"level": "debug"})
    fleet.publish(
        "cmd/set-log-level", signed(text), ResponseTopic=f"{BASE}/up/res/mine", CorrelationData=b"\x00\x01mine"
    )
    result = fleet.final(json.loads(text)["id"])
    assert (result["status"], result["out"]["level"]) == ("ok", "debug")
    topics = {(topic, correlation) for topic, d, correlation in fleet.responses if d["id"] == result["id"]}
    assert topics == {("mine", b"\x00\x01mine")}
    fleet.run("set-log-level", {"level": "info"})


def test_a_response_topic_in_somebody_elses_tree_is_not_used(world):
    _, fleet = world
    text = command_text("set-log-level", args={"level": "info"})
    fleet.publish("cmd/set-log-level", signed(text), ResponseTopic="qeil/v1/acme/b2/down/cmd/drain")
    fleet.final(json.loads(text)["id"])
    assert {t for t, d, _ in fleet.responses if d["id"] == json.loads(text)["id"]} == {"set-log-level"}


def test_a_repeat_is_answered_from_the_table_and_not_run_again(world):
    agent, fleet = world
    text = command_text("restart-lane", args={"accelerator": "cpu"})
    fleet.publish("cmd/restart-lane", signed(text))
    first = fleet.final(json.loads(text)["id"])
    restarts = agent.accelerator("cpu")["restarts"]
    for _ in range(3):
        fleet.publish("cmd/restart-lane", signed(text))
    repeats = agent.wait_until(lambda: [d for d in fleet.of(first["id"]) if d.get("repeat")])
    assert repeats[0]["out"] == first["out"]
    time.sleep(0.5)
    assert agent.accelerator("cpu")["restarts"] == restarts


def test_a_model_is_taken_off_and_put_back(world):
    agent, fleet = world
    assert fleet.run("model-remove", {"name": "open-nsfw"})["status"] == "ok"
    assert "open-nsfw" not in [m["name"] for m in agent.status()["models"]]
    back = fleet.run("model-add", {"name": "open-nsfw"})
    assert back["status"] == "ok", back
    assert back["out"]["placement"]
    missing = fleet.run("model-add", {"name": "nothing"})
    assert (missing["status"], missing["code"]) == ("failed", "not_found")
    assert "magika" in missing["message"]


def test_reload_reads_the_policy_file_and_a_broken_one_leaves_the_old_in_force(world):
    agent, fleet = world
    before = agent.status()["agent"]["policy_digest"]
    text = agent.policy.read_text()
    try:
        agent.policy.write_text(text.replace("ramp_s: 1", "ramp_s: 2"))
        result = fleet.run("reload")
        assert result["status"] == "ok"
        assert result["out"]["digest"] != before
        agent.wait_until(lambda: agent.status()["agent"]["policy_digest"] == result["out"]["digest"])
        agent.policy.write_text(text.replace("ramp_s: 1", "ramp_sec: 1"))
        broken = fleet.run("reload")
        assert (broken["status"], broken["code"]) == ("failed", "config")
        assert "ramp_sec" in broken["message"]
        assert agent.status()["agent"]["policy_digest"] == result["out"]["digest"]
    finally:
        agent.policy.write_text(text)
        agent.wait_until(lambda: agent.status()["agent"]["policy_digest"] == before)


def test_plan_says_where_every_model_may_run(world):
    _, fleet = world
    result = fleet.run("plan")
    assert result["status"] == "ok"
    assert "cpu" in result["out"]["models"]["magika"]


def test_drain_takes_no_requests_until_it_is_lifted(world):
    agent, fleet = world
    assert fleet.run("drain")["out"] == {"draining": True}
    assert agent.status()["agent"]["mode"] == "draining"
    assert fleet.run("drain", {"on": False})["status"] == "ok"
    agent.wait_until(lambda: agent.status()["agent"]["mode"] == "ready")


def test_diag_is_bounded_and_holds_no_secret(world):
    _, fleet = world
    result = fleet.run("collect-diag")
    assert result["status"] == "ok", result
    path = Path(result["out"]["path"])
    assert path.stat().st_size == result["out"]["size_bytes"] < 4 * 1024 * 1024
    with tarfile.open(path) as archive:
        names = {Path(n).name for n in archive.getnames()}
    assert {"status.json", "settings.json", "outbox.json", "threads.txt", "about.json", "policy.json"} <= names


def test_what_is_not_there_yet_or_unknown_or_wrong_is_refused_with_a_code(world):
    _, fleet = world
    found = fleet.run("evaluate", {"window_s": 0.5})["out"]["models"]["magika"]
    assert found["requests"] == 0
    assert found["predicted_s"] > 0
    unknown = fleet.run("restart-lanes")
    assert (unknown["status"], unknown["code"]) == ("rejected", "unknown_command")
    assert "did you mean restart-lane" in unknown["message"]
    wrong = fleet.run("restart-lane", {"acelerator": "cpu"})
    assert (wrong["status"], wrong["code"]) == ("rejected", "bad_args")
    assert "accelerator" in wrong["message"]
    now_s = time.time()
    late = fleet.run("drain", iat=now_s - 20, exp=now_s - 10)
    assert (late["status"], late["code"]) == ("expired", "expired")


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"{", "malformed"),
        (b"[" * 50_000, "malformed"),
        (b'{"v":1,"doc":{},"sig":""}', "unsigned"),
        (command_text("drain").encode(), "unsigned"),
        (signed(command_text("drain"), STRANGER), "unknown_key"),
        (signed(command_text("drain")).replace(b"drain", b"dra1n"), "bad_signature"),
        (signed(command_text("drain", board="b2")), "wrong_board"),
        (signed(command_text("drain", tenant="other")), "wrong_board"),
        (signed(command_text("drain", extra=1)), "invalid"),
        (signed(command_text("drain", kind="desired")), "invalid"),
        (signed(command_text("drain", exp=time.time() + 1e7)), "invalid"),
        (signed(command_text("drain", iat=time.time() + 7200, exp=time.time() + 7300)), "not_yet"),
        (signed("[]"), "invalid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_nobody_of_ours_sent_to_this_board_is_refused_with_a_code_and_reported(world, payload, code):
    agent, fleet = world
    before = len(fleet.responses)
    fleet.publish("cmd/drain", payload)
    agent.wait_until(lambda: [d for t, d, _ in fleet.responses[before:] if t == "refused" and d["code"] == code])
    agent.wait_until(
        lambda: [r for r in fleet.rows.values() if r.get("event") == "command_refused" and r["code"] == code]
    )
    agent.wait_until(lambda: agent.status()["agent"]["mode"] == "ready")


def test_an_id_stands_for_one_text_only(world):
    agent, fleet = world
    result = fleet.run("plan")
    before = len(fleet.responses)
    fleet.publish("cmd/drain", signed(command_text("drain", id=result["id"])))
    agent.wait_until(lambda: [d for _, d, _ in fleet.responses[before:] if d.get("code") == "id_reused"])
    agent.wait_until(lambda: agent.status()["agent"]["mode"] == "ready")
