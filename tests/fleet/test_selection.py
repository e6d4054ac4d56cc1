"""Which boards a selection means, and what is none."""

from __future__ import annotations

import pytest

from agent.errors import BadInput
from agent.fleet.selection import selection

FACTS = {"site": "berlin", "stage": "test", "note": "a=b"}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("site=berlin", True), ("site=ber*,!canary", True), ("site!=berlin", False), ("note=a=b", True), ("", True),
    ],
)  # fmt: skip
def test_all_parts_must_hold(text, meant):
    assert selection(text)(FACTS) is meant


@pytest.mark.parametrize("text", ["site==", "site==berlin", "site!==berlin", "!site=berlin", "=berlin", "a b"])
def test_what_is_no_part_is_named_and_not_taken_for_a_value(text):
    with pytest.raises(BadInput, match="is no part of a selection; expected name"):
        selection(text)
