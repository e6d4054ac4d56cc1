"""YAML is read as the 1.2 core schema, with positions, and bounded."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.storage.problem import Problem
from agent.storage.yaml_text import MAX_BYTES, MAX_NODES, Document, Unreadable, parse


def data_of(text: str) -> object:
    return parse(text.encode(), "f.yaml").data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1.5e-3", 1.5e-3),
        ("-12", -12),
        ("007", 7),
        ("0x1F", 31),
        ("0o17", 15),
        (".5", 0.5),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2026-01-02", "2026-01-02"),
        ("=", "="),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ('"null"', "null"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1.5", 1.5),
        (".inf", math.inf),
        ("9" * 400, math.inf),
    ],
)
def test_a_scalar_has_the_type_of_the_yaml_1_2_core_schema(text: str, value: object) -> None:
    found = data_of(f"key: {text}\n")

    assert found == {"key": value}
    assert isinstance(found, dict)
    assert type(found["key"]) is type(value)


def test_not_a_number_is_read_as_such() -> None:
    found = data_of("key: .nan\n")

    assert isinstance(found, dict)
    assert math.isnan(found["key"])


def test_every_key_and_list_item_knows_its_line_and_column() -> None:
    document = parse(b"a: 1\nb:\n  - x\n  - c: 2\n    d: {e: 3}\n", "f.yaml")

    assert document.positions[("b", 1, "c")] == (4, 5)
    assert document.positions[("b", 0)] == (3, 5)
    assert document.positions[("b", 1, "d", "e")] == (5, 9)
    assert document.line(("b", 1, "missing", "deeper")) == 4
    assert Document({}, {}).line(("any",)) == 1


def test_an_alias_repeats_value_and_positions_of_its_anchor() -> None:
    document = parse(b"a: &x\n  k: [1, 2]\nb: *x\n", "f.yaml")

    assert document.data == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}}
    assert document.positions[("b",)] == (3, 1)
    assert document.positions[("b", "k")] == (2, 3)


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert parse(b"\xef\xbb\xbfversion: 1\n", "f.yaml").data == {"version": 1}


@pytest.mark.parametrize(
    ("raw", "line", "message"),
    [
        (b"x" * (MAX_BYTES + 1), 1, "at most"),
        (b"a: 1\n? [b]\n: 2\n", 2, "a key must be plain text"),
        (b"a: &a [*a]\n", 1, "not complete above it"),
        (b"a: !!map x\n", 1, "not supported"),
        (b"a: !!int x\n", 1, "not supported"),
        (b"a:\n  !mine {b: 1}\n", 2, "not supported"),
        (b"a: [1, 2\nb: 3\n", 2, "not valid YAML"),
        (b"".join(b"k%d: &a%d 1\n" % (i, i) for i in range(65)), 65, "more than 64 anchors"),
        (
            b"a: &a [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]\nb: {c: [[[[[[[[[[[[[[[*a]]]]]]]]]]]]]]]}\n",
            2,
            "nested deeper",
        ),
        (b"a: [" + b"1," * MAX_NODES + b"]\n", 1, "more than"),
    ],
)
def test_what_is_not_accepted_is_a_problem_with_its_line(raw: bytes, line: int, message: str) -> None:
    with pytest.raises(Unreadable) as refused:
        parse(raw, "f.yaml")

    assert refused.value.problem.line == line
    assert message in refused.value.problem.message


words = st.text(alphabet=st.characters(max_codepoint=0x7E) | st.sampled_from("äß€😀"), max_size=8)


def outcome(raw: bytes) -> Document | Problem:
    try:
        return parse(raw, "f.yaml")
    except Unreadable as refused:
        return refused.problem


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(words, plain, max_size=5))
def test_json_reads_back_as_it_is(data: dict[str, object]) -> None:
    text = json.dumps(data, ensure_ascii=False)

    assert data_of(text) == data


@given(st.binary(max_size=200))
def test_any_bytes_give_a_document_or_a_problem(raw: bytes) -> None:
    assert isinstance(outcome(raw), (Document, Problem))
