"""What boards publish: taken as it is meant, or refused by one word; never anything else."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.fleet.messages import MAX_BYTES, MAX_NUMBER, MAX_ROWS, MessageRefused, Rows, Told, parse

TLM = "qeil/v1/acme/b1/up/tlm/agent"


def document(**fields) -> bytes:
    return json.dumps({"v": 1, "boot": 1, "cls": "tlm", "seq0": 0, "rows": [{}], **fields}).encode()


@pytest.mark.parametrize(
    ("topic", "payload", "code"),
    [
        ("qeil/v1/acme/b1/down/ack", b"{}", "bad_topic"),
        ("qeil/v1/ACME/b1/up/gap", b"{}", "bad_topic"),
        ("qeil/v1/acme/b1/up/else", b"{}", "bad_topic"),
        (TLM, b"{", "malformed"),
        (TLM, b"\xff", "malformed"),
        (TLM, b"[]", "malformed"),
        (TLM, b"[" * 100_000, "malformed"),
        (TLM, b"x" * (MAX_BYTES + 1), "too_large"),
        (TLM, document(v=2), "wrong_version"),
        (TLM, document(cls="evt"), "bad_rows"),
        (TLM, document(rows=[]), "bad_rows"),
        (TLM, document(rows=[1]), "bad_rows"),
        (TLM, document(rows=[{}] * (MAX_ROWS + 1)), "bad_rows"),
        (TLM, document(seq0=-1), "bad_number"),
        (TLM, document(seq0=True), "bad_number"),
        (TLM, document(boot=MAX_NUMBER + 1), "bad_number"),
        (TLM, document(seq0=MAX_NUMBER), "bad_number"),
        (TLM, b'{"v":1,"boot":1,"cls":"tlm","seq0":0,"rows":[{"x":NaN}]}', "malformed"),
        (TLM, b'{"v":1,"boot":1,"cls":"tlm","seq0":0,"rows":[{"x":1e999}]}', "malformed"),
        ("qeil/v1/acme/b1/up/state", b'{"v":1,"online":"yes","boot":1,"conn":1}', "bad_state"),
        ("qeil/v1/acme/b1/up/res/plan", b'{"v":1,"status":3}', "bad_response"),
        ("qeil/v1/acme/b1/up/rep", b'{"v":1,"x":-1e999}', "malformed"),
    ],
)
def test_what_is_none_is_refused_by_its_name(topic, payload, code):
    with pytest.raises(MessageRefused) as refused:
        parse(topic, payload)
    assert refused.value.code == code
    assert refused.value.board == (("acme", "b1") if topic.startswith("qeil/v1/acme/b1/up/") else None)


def test_a_retained_message_that_was_deleted_says_nothing():
    assert parse(TLM, b"") is None


@given(st.binary(max_size=60) | st.dictionaries(st.text(), st.none() | st.text()).map(lambda d: json.dumps(d).encode()))
def test_whatever_comes_is_taken_or_refused(payload):
    for part in ("tlm/agent", "evt/agent", "gap", "state", "rep", "bundle", "res/x"):
        with contextlib.suppress(MessageRefused):
            assert isinstance(parse(f"qeil/v1/acme/b1/up/{part}", payload), Rows | Told | None)
