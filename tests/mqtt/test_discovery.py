"""Home Assistant's discovery: every template finds its value in a row as the agent writes it."""

from __future__ import annotations

import json
from dataclasses import replace

from agent.mqtt import discovery
from agent.mqtt.topics import Topics
from agent.service.remote.telemetry import Window
from tests.fakes_service import SNAPSHOT

TOPICS = Topics("acme", "edge.01")
WARM = replace(SNAPSHOT, accelerators=(replace(SNAPSHOT.accelerators[0], temperature_c=51.0),))


def components(snapshot=WARM) -> dict:
    return json.loads(discovery.config(TOPICS, snapshot, "1.0"))["components"]


def value_of(component: dict, message: dict):
    """What the template comes to. Ours are Python expressions as much as they are Jinja's."""
    expression = component["value_template"].removeprefix("{{").removesuffix("}}")
    return eval(expression, {"__builtins__": {}}, {"value_json": message})  # noqa: S307  (our own templates)


def message(snapshot=WARM) -> dict:
    window = Window(0.0)
    window.add(snapshot)
    return {"rows": [{}, window.close(snapshot, {}, 10.0, 1.0)]}


def test_every_component_reads_its_value_from_a_telemetry_row():
    found = {key: value_of(component, message()) for key, component in components().items()}
    assert found == {
        "mode": "ready", "problem": "OFF", "cpu_state": "ready", "cpu_temperature_c": 51.0, "cpu_power_w": 12.5,
        "add1_state": "ready", "add1_placement": "cpu", "add1_requests": 0, "add1_p50": 0.1, "add1_p99": 0.2,
    }  # fmt: skip


def test_a_row_without_the_model_leaves_its_value_unknown():
    empty = {"rows": [{**message()["rows"][1], "models": {}, "accelerators": {}}]}
    assert value_of(components()["add1_p50"], empty) is None
    assert value_of(components()["cpu_temperature_c"], empty) is None


def test_what_is_not_measured_has_no_component():
    assert "cpu_temperature_c" not in components(SNAPSHOT)
    assert "cpu_power_w" in components(SNAPSHOT)


def test_ids_and_topic_use_only_what_home_assistant_takes():
    document = json.loads(discovery.config(TOPICS, WARM, "1.0"))
    assert discovery.topic("homeassistant", TOPICS) == "homeassistant/device/acme/edge_01/config"
    assert document["components"]["mode"]["unique_id"] == "qeil_acme_edge_01_mode"
    assert document["availability"][0]["topic"] == TOPICS.state
    expression = document["availability"][0]["value_template"]
    assert value_of({"value_template": expression}, {"online": False}) == "offline"
