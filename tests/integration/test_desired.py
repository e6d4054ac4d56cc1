"""A desired state over a real broker to a real agent: followed, refused, kept over restarts, never rolled back."""

from __future__ import annotations

import json

import pytest

from agent.storage import share, yaml_files
from tests.broker import Broker
from tests.integration.agent_process import MAGIKA, NSFW, AgentProcess, models
from tests.integration.fleet_client import FleetClient
from tests.mqtt.signed import KEY, STRANGER, desired_text, signed

pytestmark = pytest.mark.broker

QUIET = yaml_files.load_policy(share.find_policy("quiet")).model_dump(mode="json")


class World:
    """Agent, broker and fleet."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.broker = Broker(folder)
        self.fleet = FleetClient(self.broker.port)
        self.ver = 10  # so that there are older ones, whichever test comes first
        self.agent: AgentProcess
        self.begin()

    def begin(self) -> None:
        folder = self.folder / "agent"
        folder.mkdir(exist_ok=True)
        mqtt = {
            "host": "127.0.0.1", "port": self.broker.port, "tenant": "acme", "resend_s": 2,
            "trusted_keys": [KEY.public.text()], "home_assistant": "homeassistant",
        }  # fmt: skip
        policy = folder / "policy.yaml"
        policy.write_text(share.find_policy("balanced").read_text())
        settings = {"board": "b1", "policy": str(policy), "models": models(MAGIKA, NSFW), "mqtt": mqtt}
        self.policy = policy
        self.agent = AgentProcess(folder, settings)
        self.agent.wait_ready()

    def want(self, **fields) -> dict:
        """Publish the next version; the report that settles it."""
        self.ver += 1
        self.fleet.publish("des", signed(desired_text(self.ver, **fields)), retain=True)
        return self.report(lambda r: r["des_ver"] == self.ver and r["status"] != "pending")

    def shows(self, policy: str, *models: str) -> None:
        """Wait until status shows that policy and, if any are named, these models alone."""

        def shown() -> bool:
            status = self.agent.status()
            return status["agent"]["policy"] == policy and (
                not models or tuple(m["name"] for m in status["models"]) == models
            )

        self.agent.wait_until(shown)

    def report(self, condition) -> dict:
        def found():
            return next((r for r in reversed(self.fleet.reported) if condition(r)), None)

        return self.agent.wait_until(found, 120.0)

    def refused(self, payload: bytes) -> str:
        before = len(self.fleet.responses)
        known = [d for _, d, _ in self.fleet.responses]  # a broker that comes back may deliver an old one again
        self.fleet.publish("des", payload, retain=True)
        answers = self.agent.wait_until(
            lambda: [d for t, d, _ in self.fleet.responses[before:] if t == "refused" and d not in known]
        )
        assert answers[0]["command"] == "desired" or answers[0]["code"] in {"malformed", "unsigned"}
        return answers[0]["code"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("desired"))
    yield made
    made.agent.stop()
    made.fleet.close()
    made.broker.stop()


def test_policy_models_window_and_log_level_are_followed_and_reported_by_key(world):
    report = world.want(policy="quiet", models=["magika"], window_s=1.0, log_level="warning")
    assert report["status"] == "applied", report
    assert report["keys"]["policy"]["digest"] == report["doc"]["policy_digest"] != ""
    assert report["keys"]["models.0"] == {"model": "magika", "status": "applied"}
    assert report["keys"]["window_s"] == report["keys"]["log_level"] == {"status": "applied"}
    doc = world.report(lambda r: r["des_ver"] == world.ver and r["doc"]["models"] == {"magika": "ready"})["doc"]
    assert (doc["policy"], doc["window_s"], doc["log_level"]) == ("quiet", 1.0, "warning")
    world.shows("quiet", "magika")
    world.agent.wait_until(lambda: [r for r in world.fleet.rows.values() if 0.9 <= r.get("window_s", 0) < 2.0])


def test_the_policy_file_does_not_overrule_the_fleet_and_status_says_so(world):
    world.want(policy="quiet")
    world.policy.write_text(world.policy.read_text().replace("description: ", "description: own "))
    world.agent.wait_until(lambda: any(c["type"] == "policy_overruled" for c in world.agent.status()["conditions"]))
    world.shows("quiet")
    reload = world.fleet.run("reload")
    assert (reload["status"], reload["code"]) == ("failed", "overruled")


def test_an_inline_policy_with_wrong_keys_is_refused_with_their_paths_and_the_old_one_serves(world):
    world.want(policy="quiet")
    broken = {**QUIET, "thermal": {**QUIET["thermal"], "soft_c": 200, "hard": 1}}
    before = len(world.fleet.responses)
    world.fleet.publish("des", signed(desired_text(world.ver + 1, inline_policy=broken)), retain=True)
    answer = world.agent.wait_until(lambda: [d for t, d, _ in world.fleet.responses[before:] if t == "refused"])[0]
    assert answer["code"] == "invalid"
    assert "inline_policy.thermal.hard" in answer["message"]
    world.shows("quiet")


def test_home_assistant_finds_the_board_and_what_it_serves(world):

    def announced():  # anew whenever what is served changes
        found = world.fleet.retained("homeassistant/device/acme/b1/config")
        return found if {"mode", "problem", "cpu_state", "magika_p50"} <= found["components"].keys() else None

    found = world.agent.wait_until(announced)
    assert found["device"]["identifiers"] == ["qeil_acme_b1"]
    assert found["state_topic"] == "qeil/v1/acme/b1/up/tlm/agent"


def test_an_inline_policy_is_followed_and_a_withdrawal_gives_the_files_back(world):
    inline = {**QUIET, "name": "from-the-fleet"}
    assert world.want(inline_policy=inline)["doc"]["policy"] == "from-the-fleet"
    report = world.want()
    assert (report["status"], report["keys"]) == ("applied", {})
    files = lambda r: r["doc"]["policy"] == "balanced" and len(r["doc"]["models"]) == 2  # noqa: E731
    doc = world.report(lambda r: r["des_ver"] == world.ver and files(r))["doc"]
    assert doc["log_level"] == "info"


def test_an_unknown_policy_or_model_is_rejected_as_a_whole(world):
    world.want(policy="quiet", models=["magika"])
    report = world.want(policy="quite", models=["magika", "nothing"])
    assert report["status"] == "rejected"
    assert "did you mean quiet" in report["keys"]["policy"]["message"]
    assert "magika" in report["keys"]["models"]["message"]
    assert report["in_force_ver"] == world.ver - 1
    world.shows("quiet", "magika")


def test_what_is_old_reused_foreign_or_unsigned_is_refused(world):
    world.want(policy="quiet")
    assert world.refused(signed(desired_text(world.ver - 1))) == "old_version"
    assert world.refused(signed(desired_text(world.ver, log_level="error"))) == "version_reused"
    assert world.refused(signed(desired_text(world.ver + 1, board="b2"))) == "wrong_board"
    assert world.refused(signed(desired_text(world.ver + 1), STRANGER)) == "unknown_key"
    assert world.refused(desired_text(world.ver + 1).encode()) == "unsigned"
    assert world.refused(signed(desired_text(world.ver + 1, kind="command"))) == "invalid"


def test_a_restart_without_a_broker_follows_what_was_kept_and_nothing_older_is_taken_after_it(world):
    world.want(policy="quiet", models=["magika"])
    world.agent.process.kill()
    world.agent.process.wait()
    world.agent.process.stdout.close()
    world.broker.kill()
    world.begin()
    world.shows("quiet", "magika")
    world.broker.start()
    world.agent.wait_until(lambda: not any(
        c["type"] == "broker_unreachable" for c in world.agent.status()["conditions"]
    ), 120.0)  # fmt: skip
    assert world.refused(signed(desired_text(world.ver - 1, policy="balanced"))) == "old_version"
    record = json.loads((world.folder / "agent" / "state" / "desired.json").read_text())
    assert (record["ver"], record["status"], record["kept_ver"]) == (world.ver, "applied", world.ver)
