"""The API against its own description: whatever comes in, an answer that the description names, and never a 5xx."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from agent.fleet.messages import parse
from tests.fleet.served import Served
from tests.mqtt.signed import command_text, signed

TEXT = st.one_of(
    st.sampled_from("acme b1 tlm pause 1 0 -1 acme/b1 site=berlin !x a= =,= , \0".split(" ")),
    st.text(max_size=40), st.text(alphabet="%/.\\?#;=,! \x00\x7f\u202e\U0001f600", max_size=12),
)  # fmt: skip
SEGMENT = TEXT.filter(lambda text: text not in {"", ".", ".."} and max(text) < "\ud800")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    made = Served(tmp_path_factory.mktemp("fuzz"))
    row = {"v": 1, "boot": 1, "cls": "tlm", "seq0": 0, "rows": [{"ts": 1.0, "mono": 1.0, "tq": "ntp"}]}
    made.store.take([parse("qeil/v1/acme/b1/up/tlm/agent", json.dumps(row).encode())], 1.0)
    made.client = TestClient(made.rest.app(), raise_server_exceptions=True)
    made.operations = [
        (path, method, found)
        for path, methods in made.rest.openapi()["paths"].items()
        for method, found in methods.items()
    ]
    yield made
    made.stop()


def body_for(data, served, operation):
    """Of the right shape with anything inside, anything at all, or a message that was really signed."""
    content = operation.get("requestBody")
    if content is None:
        return data.draw(st.sampled_from([b"", b"{}", b"\xff"]))
    name = content["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schema = served.rest.openapi()["components"]["schemas"][name]
    message = json.loads(signed(command_text("reload")))
    shaped = st.fixed_dictionaries(
        {key: JSON | st.just(message) | st.just({"a": "b"}) | st.just(message["doc"]) for key in schema["properties"]}
    )
    found = data.draw(shaped | JSON | st.just(message) | st.binary(max_size=30))
    return found if isinstance(found, bytes) else json.dumps(found).encode()


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_request_is_answered_with_a_fault_or_with_what_the_description_does_not_name(served, data):
    from urllib.parse import quote

    path, method, operation = data.draw(st.sampled_from(served.operations))
    url, query = path, {}
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            url = url.replace(f"{{{parameter['name']}}}", quote(data.draw(SEGMENT), safe=""))
        elif data.draw(st.booleans()):
            query[parameter["name"]] = data.draw(TEXT.filter(lambda t: t.isprintable()))
    token = data.draw(st.sampled_from([*served.tokens.values(), "nonsense", ""]))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = served.client.request(
        method, url, params=query, headers=headers, content=body_for(data, served, operation)
    )
    # A path whose text holds an encoded slash may be another path, or none, to a server: that is not the operation's.
    known = {*operation["responses"], "404", "405"}
    assert str(answer.status_code) in known, answer.text
    assert answer.status_code < 500
    if answer.status_code >= 400 and answer.headers.get("content-type") == "application/json":
        assert set(answer.json()) == {"error", "code"}


@pytest.mark.parametrize("header", [b"Bear\xc3\xa9r x", b"Bearer \xff\xfe", b"Basic eDp5", b"Bearer", b""])
def test_a_header_that_is_no_token_is_unauthorised_whatever_its_bytes(served, header):
    answer = served.client.get("/v1/boards", headers=[(b"authorization", header)])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_tokens_that_cannot_be_read_are_the_controllers_trouble_and_no_callers_business(tmp_path):
    made = Served(tmp_path)
    client = TestClient(made.rest.app(), raise_server_exceptions=False)
    (tmp_path / "tokens").unlink()
    answer = client.get("/v1/boards", headers={"authorization": f"Bearer {made.tokens['read']}"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert str(tmp_path) not in answer.text
    made.stop()


def test_the_description_names_every_body_whole(served):
    found = served.rest.openapi()
    text = json.dumps(found)
    for name in {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in found["components"]["schemas"]
    assert {"Plan", "Signed", "RolloutRequest", "Labels"} <= set(found["components"]["schemas"])


@pytest.mark.parametrize("what", ["", "/rows/tlm", "/hours"])
def test_a_board_that_nobody_knows_is_not_found_whatever_is_asked_of_it(served, what):
    headers = {"Authorization": f"Bearer {served.tokens['read']}"}

    assert served.client.get(f"/v1/boards/acme/b1{what}", headers=headers).status_code == 200
    answer = served.client.get(f"/v1/boards/acme/nobody{what}", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (404, "there is no board acme/nobody")


def test_a_refused_method_is_told_every_method_of_the_path(served):
    headers = {"Authorization": f"Bearer {served.tokens['operate']}"}

    answer = served.client.options("/v1/rollouts", headers=headers)
    assert answer.status_code == 405
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))
    assert served.client.get("/v1/rollouts", headers=headers).status_code == 200
    assert served.client.head("/v1/rollouts", headers=headers).status_code == 200
    assert served.client.post("/v1/rollouts", headers=headers, json={}).status_code == 400


def test_the_description_names_the_labels_that_are_taken(served):
    labels = served.rest.openapi()["components"]["schemas"]["Labels"]["properties"]["labels"]

    assert labels["additionalProperties"] is False
    assert list(labels["patternProperties"]) == ["^[a-z0-9][a-z0-9._-]{0,63}$"]
