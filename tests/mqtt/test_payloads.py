"""The schema files themselves: they accept what is meant and refuse what would mislead a backend."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest

from agent.mqtt.topics import Topics
from agent.schema.bundle import Offer
from agent.schema.command import Command
from agent.schema.desired import Desired
from tests.mqtt.payloads import SCHEMAS, validate
from tests.mqtt.signed import command_text, desired_text, signed

STATE = {
    "v": 1, "online": True, "boot": 3, "conn": 1, "ts": 1.0, "mono": 2.0, "tq": "ntp", "agent": "0.1",
    "policy": {"name": "p", "sha256": "d"}, "cond": [{"type": "x", "since": "2026-01-01T00:00:00Z"}],
}  # fmt: skip
ACK = {"v": 1, "boot": 1, "cls": "tlm", "cum": 3, "rng": [[5, 9]]}
EVENT = {"v": 1, "boot": 1, "cls": "evt", "seq0": 0, "rows": [{"ts": 1.0, "mono": 1.0, "tq": "rtc", "event": "mode"}]}
GAP = {"v": 1, "boot": 1, "cls": "gap", "seq0": 0, "rows": [{"reason": "queue_full", "cls": "tlm", "rows": 3}]}


def changed(document, **fields):
    made = copy.deepcopy(document)
    for key, value in fields.items():
        if value is None:
            del made[key]
        else:
            made[key] = value
    return made


def test_every_topic_has_a_schema_that_names_it():
    names = {path.stem: json.loads(path.read_text())["title"] for path in SCHEMAS.glob("*.json")}
    topics = Topics("t", "b")
    base = "qeil/v1/t/b/"
    published = {"state": topics.state, "ack": topics.ack, **{cls: topics.rows(cls) for cls in ("tlm", "evt", "gap")}}
    published |= {"res": topics.response("NAME"), "envelope": topics.command("NAME"), "rep": topics.reported}
    published["bundle-state"] = topics.bundle_state
    for name, topic in published.items():
        assert base + names.pop(name) == topic
    assert names == {"cmd": "Command", "des": "Desired", "bundle": "Offer"}


@pytest.mark.parametrize(("name", "schema"), [("cmd", Command), ("des", Desired), ("bundle", Offer)])
def test_the_schema_of_what_is_signed_is_the_one_that_boards_check_by(name, schema):
    published = json.loads((SCHEMAS / f"{name}.json").read_text())
    for key, value in schema.model_json_schema().items():
        if key not in {"title", "description"}:
            assert published[key] == value


def test_a_signed_command_fits_its_schemas():
    text = command_text("plan")
    validate("envelope", json.loads(signed(text)))
    validate("cmd", json.loads(text))
    validate("des", json.loads(desired_text(3, models=["a"])))


@pytest.mark.parametrize(
    ("name", "document"),
    [("state", STATE), ("state", {"v": 1, "online": False, "boot": 3, "conn": 1}), ("ack", ACK), ("evt", EVENT),
     ("ack", changed(ACK, rng=None)), ("gap", GAP), ("evt", changed(EVENT, later="field"))],
)  # fmt: skip
def test_what_is_meant_passes(name, document):
    validate(name, document)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("state", changed(STATE, boot=None)),
        ("state", changed(STATE, ts=None)),
        ("state", changed(STATE, conn=0)),
        ("state", changed(STATE, v=2)),
        ("ack", {"v": 1, "boot": 1, "cls": "tlm"}),
        ("ack", changed(ACK, cls="other")),
        ("ack", changed(ACK, rng=[[1]])),
        ("evt", changed(EVENT, rows=[])),
        ("evt", changed(EVENT, cls="tlm")),
        ("gap", changed(GAP, rows=[{"reason": "spool_full", "cls": "tlm"}])),
        ("gap", changed(GAP, rows=[{"reason": "because", "cls": "tlm", "rows": 1}])),
    ],
)
def test_what_would_mislead_is_refused(name, document):
    with pytest.raises(jsonschema.ValidationError):
        validate(name, document)
