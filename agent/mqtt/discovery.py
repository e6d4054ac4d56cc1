"""Discovery: what Home Assistant needs to show a board by itself – its MQTT device discovery, made from a snapshot.

Values come from the board's own telemetry rows, whether it is there from its birth and will: nothing is sent twice.
"""

from __future__ import annotations

import json
import re
from typing import Any

from agent.mqtt.topics import Topics
from agent.schema.snapshot import AgentSnapshot

_ROW = "value_json['rows'][-1]"
_ID = re.compile(r"[^a-zA-Z0-9_-]")


def topic(prefix: str, topics: Topics) -> str:
    """Where the configuration is retained."""
    return f"{prefix}/device/{_identifier(topics.tenant)}/{_identifier(topics.board)}/config"


def config(topics: Topics, snapshot: AgentSnapshot, version: str) -> bytes:
    """The device with a component for every quantity that it measures."""
    device = f"qeil_{_identifier(topics.tenant)}_{_identifier(topics.board)}"
    components = {**_board(), **_accelerators(snapshot), **_models(snapshot)}
    document = {
        "device": {
            "identifiers": [device], "name": topics.board, "manufacturer": "QEIL", "model": snapshot.agent.profile,
            "sw_version": version,
        },
        "origin": {"name": "qeil-agent", "sw_version": version},
        "state_topic": topics.rows("tlm"),
        "availability": [
            {"topic": topics.state, "value_template": "{{ 'online' if value_json['online'] else 'offline' }}"}
        ],
        "qos": 1,
        "components": {
            key: {**component, "unique_id": f"{device}_{key}"} for key, component in components.items()
        },
    }  # fmt: skip
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _board() -> dict[str, dict[str, Any]]:
    problem = {
        "platform": "binary_sensor", "name": "Problem", "device_class": "problem",
        "value_template": "{{ 'ON' if " + _ROW + "['conditions'] else 'OFF' }}",
    }  # fmt: skip
    return {"mode": _sensor("Mode", "['mode']"), "problem": problem}


def _accelerators(snapshot: AgentSnapshot) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for lane in snapshot.accelerators:
        key, row = _identifier(lane.name), f"['accelerators'].get('{lane.name}', {{}})"
        made[f"{key}_state"] = _sensor(f"{lane.name} state", f"{row}.get('state')")
        for quantity, value, title, kind, unit in (
            ("temperature_c", lane.temperature_c, "temperature", "temperature", "°C"),
            ("power_w", lane.power_w, "power", "power", "W"),
        ):
            if value is not None:
                template = f"{row}.get('{quantity}', {{}}).get('mean')"
                made[f"{key}_{quantity}"] = _sensor(f"{lane.name} {title}", template, kind, unit)
    return made


def _models(snapshot: AgentSnapshot) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for model in snapshot.models:
        key, row = _identifier(model.name), f"['models'].get('{model.name}', {{}})"
        made[f"{key}_state"] = _sensor(f"{model.name} state", f"{row}.get('state')")
        made[f"{key}_placement"] = _sensor(f"{model.name} placement", f"{row}.get('placement')")
        made[f"{key}_requests"] = _sensor(f"{model.name} requests", f"{row}.get('requests')", unit="requests")
        made[f"{key}_p50"] = _sensor(f"{model.name} median", f"{row}.get('p50_ms')", "duration", "ms")
        made[f"{key}_p99"] = _sensor(f"{model.name} p99", f"{row}.get('p99_ms')", "duration", "ms")
    return made


def _sensor(name: str, template: str, kind: str | None = None, unit: str | None = None) -> dict[str, Any]:
    sensor: dict[str, Any] = {"platform": "sensor", "name": name, "value_template": "{{ " + _ROW + template + " }}"}
    if kind is not None:
        sensor["device_class"] = kind
    if unit is not None:
        sensor |= {"unit_of_measurement": unit, "state_class": "measurement"}
    return sensor


def _identifier(text: str) -> str:
    """Home Assistant takes no other characters in topics and ids."""
    return _ID.sub("_", text)
