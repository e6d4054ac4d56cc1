from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.openai_request import MAX_NESTING, MAX_TEXTS, decode
from agent.errors import BadInput
from agent.schema.text import TextForm

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PLAIN = {"model": "m", "prompt": "hi"}
FIELDS = [
    "model", "messages", "prompt", "n", "seed", "stop", "stream", "temperature", "top_p", "max_tokens", "logprobs",
    "qeil",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def read(document, chat=True):
    return decode(json.dumps(document).encode(), chat=chat, request_id="r", deadline_s=None)


def test_what_is_left_out_is_what_openai_leaves_out():
    text = read(CHAT).text
    assert (text.temperature, text.top_p, text.samples, text.max_tokens, text.logprobs) == (1.0, 1.0, 1, None, None)
    assert read(PLAIN, chat=False).text.max_tokens == 16
    assert read(CHAT).text.seed != read(CHAT).text.seed
    assert read({**CHAT, "seed": -1}).text.seed >= 0


def test_null_asks_for_nothing_and_hints_are_no_matter():
    nothing = dict.fromkeys(
        ["tools", "functions", "audio", "reasoning_effort", "n", "stop", "service_tier", "metadata"]
    )
    hints = {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "auto", "store": False}
    left_out = read({**CHAT, "seed": 1}).text
    assert read({**CHAT, "seed": 1, **nothing}).text == left_out
    assert read({**CHAT, "seed": 1, **hints}).text == left_out


def test_a_field_named_by_half_a_character_is_refused_by_it():
    with pytest.raises(BadInput, match=r"^the name of the field '\\ud800' holds half a character$"):
        read({**CHAT, "\ud800": 1})


def test_messages_may_come_in_parts_and_from_developers():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts, "name": "x"}]
    assert read({**CHAT, "messages": messages}).text.messages == (
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "ab"},
    )  # fmt: skip


def test_a_form_is_taken_as_openai_and_as_llama_cpp_spell_it():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    as_json = json.dumps(schema, separators=(",", ":"))
    assert read({**CHAT, "response_format": named}).text.form == TextForm("json_schema", as_json)
    theirs = {"type": "json_object", "schema": schema}
    assert read({**CHAT, "response_format": theirs}).text.form == TextForm("json_schema", as_json)
    assert read({**CHAT, "response_format": {"type": "json_object"}}).text.form == TextForm("json")
    assert read({**PLAIN, "grammar": 'root ::= "a"'}, chat=False).text.form == TextForm("gbnf", 'root ::= "a"')
    assert read({**CHAT, "response_format": {"type": "text"}}).text.form is None
    assert read(CHAT).text.form is None


@pytest.mark.parametrize("prompt", ["hi", ["hi"]])
def test_a_prompt_is_one_text(prompt):
    assert read({**PLAIN, "prompt": prompt}, chat=False).text.prompt == "hi"


def test_a_prompt_may_be_tokens():
    assert read({**PLAIN, "prompt": [1, 2]}, chat=False).text.prompt == (1, 2)


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"temperature": "1"}, "temperature", "number"),
        ({"n": 1.5}, "n", "integer"),
        ({"n": MAX_TEXTS + 1}, "n", "less than or equal"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "equal to 0"),
        ({"presence_penalty": -1}, "presence_penalty", "repetition_penalty"),
        ({"frequency_penalty": "low"}, "frequency_penalty", "expected a number, got a string"),
        ({"messages": None}, "messages", "^messages: expected a list, got null$"),
        ({"messages": "hi"}, "messages", "expected a list, got a string"),
        ({"messages": [5]}, "messages.0", "expected an object, got an integer"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "a string or a list, got null"),
        ({"stream": 1}, "stream", "expected true or false, got an integer"),
        ({"response_format": "json"}, "response_format", "expected an object, got a string"),
        ({"top_k": True}, "top_k", "expected an integer, got true"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "^logit_bias is not offered here; leave it empty"),
        ({"tools": []}, "tools", "^tools is not offered here$"),
        ({"functions": []}, "functions", "^functions is not offered here$"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "^reasoning_effort is not offered here$"),
        ({"service_tier": "flex"}, "service_tier", "'auto' or 'default'"),
        ({"tuple": None}, "tuple", "^unknown field tuple; "),
        ({"repeat_penalty": 1.1}, "repeat_penalty", "did you mean repetition_penalty"),
        ({"stop": 5}, "stop", "^stop: "),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema",
            "schema",
        ),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= x"}, "grammar", "contradict"),
        ({"response_format": {"type": "json_object", "schema": {"const": "x" * 70_000}}}, "response_format", "65536"),
        ({"grammar": ""}, "grammar", "at least 1"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages.0.role", "assistant"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": 1}]}, "messages.0.tool_calls", "unknown field"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
        ({"messages": []}, "messages", "at least 1"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.type",
            "'text'",
        ),
        ({"qeil": {"alpha": 2}}, "qeil.alpha", "less than 1"),
        ({"qeil": {"answer": "choice", "choices": ["a", "A"]}}, "qeil.choices", "are the same"),
        ({"qeil": {"answer": "choice", "choices": ["A", "A"]}}, "qeil.choices", "are the same"),
        ({"qeil": {"answer": "choice", "choices": ["A", ""]}}, "qeil.choices", "no label"),
        ({"qeil": {"answer": "choice", "choices": ["A", " B"]}}, "qeil.choices", "no label"),
        ({"qeil": {"answer": "choice", "choices": ["A"]}}, "qeil.choices", "at least 2"),
    ],
)
def test_a_wrong_field_is_named(change, param, says):
    with pytest.raises(BadInput, match=says) as caught:
        read({**CHAT, **change})
    assert caught.value.context["param"] == param
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"best_of": 3}, "best_of"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": None}, "^prompt: expected a string or a list, got null$"),
        ({"prompt": []}, "^prompt: must hold at least 1$"),
        ({"prompt": [None]}, "^prompt.0: expected a string or an integer, got null$"),
        ({"suffix": "x"}, "^suffix: expected null, got a string$"),
        ({"max_tokens": 0}, "needs echo"),
        ({"echo": True, "qeil": {}}, "contradict"),
        ({"echo": 1}, "echo"),
    ],
)
def test_what_completions_do_not_offer_is_refused(change, says):
    with pytest.raises(BadInput, match=says):
        read({**PLAIN, **change}, chat=False)


def test_echo_asks_for_the_prompt_in_front_or_for_nothing_else():
    text = read({**PLAIN, "echo": True, "logprobs": 1, "max_tokens": 0}, chat=False).text
    assert (text.echo, text.max_tokens, text.logprobs) == (True, 0, 1)
    assert read(PLAIN, chat=False).text.echo is False
    with pytest.raises(BadInput, match="unknown field echo"):
        read({**CHAT, "echo": True})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body):
    with pytest.raises(BadInput):
        decode(body, chat=True, request_id="r", deadline_s=None)


@pytest.mark.parametrize("levels", [MAX_NESTING + 1, 400, 900])
def test_a_schema_nested_too_deeply_is_refused_with_the_bound(levels):
    schema = '{"items":' * levels + "{}" + "}" * levels
    wanted = '{"type": "json_object", "schema": ' + schema + "}"
    body = json.dumps({**CHAT, "response_format": "HERE"}).replace('"HERE"', wanted)
    with pytest.raises(BadInput, match=f"nested more than {MAX_NESTING} levels deep"):
        decode(body.encode(), chat=True, request_id="r", deadline_s=None)


def test_a_schema_may_be_nested_up_to_the_bound():
    schema = {}
    for _ in range(MAX_NESTING):
        schema = {"items": schema}
    assert read({**CHAT, "response_format": {"type": "json_object", "schema": schema}}).text.form is not None


def test_half_a_character_is_refused():
    body = b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}'
    with pytest.raises(BadInput, match="half a character"):
        decode(body, chat=True, request_id="r", deadline_s=None)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4), st.booleans())
def test_any_json_is_read_or_refused(changes, chat):
    try:
        asked = read({**(CHAT if chat else PLAIN), **changes}, chat=chat)
    except BadInput as error:
        assert error.message  # noqa: PT017
        return
    assert asked.text.samples >= 1
