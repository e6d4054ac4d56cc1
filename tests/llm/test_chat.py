from datetime import datetime

import pytest

from agent.errors import BadInput
from agent.llm.chat import ChatTemplate

ASKED = [{"role": "system", "content": "Be <brief>."}, {"role": "user", "content": "grüße"}]


def prompt(source, messages=ASKED, special=None):
    return ChatTemplate("tiny", source, special or {}).prompt(messages, lambda: datetime(2026, 2, 3))  # noqa: DTZ001


def test_a_template_that_writes_the_date_has_it():
    source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    assert prompt(source) == "03 Feb 2026"


def test_tools_and_documents_are_none_rather_than_undefined():
    assert prompt("{% if tools is not none or documents is not none %}tools{% else %}plain{% endif %}") == "plain"


def test_json_in_a_prompt_is_not_escaped_for_web_pages():
    assert prompt("{{ messages[0] | tojson }}") == '{"role": "system", "content": "Be <brief>."}'
    assert prompt("{{ messages[1].content | tojson }}") == '"grüße"'
    assert prompt("{{ {'a': 1} | tojson(indent=2) }}") == '{\n  "a": 1\n}'


def test_what_is_marked_for_training_is_taken_as_it_is():
    assert prompt("{% for m in messages %}{% generation %}[{{ m.role }}]{% endgeneration %}{% endfor %}") == (
        "[system][user]"
    )


def test_tokens_have_their_names_and_blocks_leave_no_lines():
    source = (
        "{{ bos_token }}{% for m in messages %}\n{% if m.role == 'user' %}\n{{ m.content }}\n{% endif %}{% endfor %}"
    )
    assert prompt(source, special={"bos_token": "<s>"}) == "<s>grüße\n"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for m in messages %}", "does not take"),
        ("{{ messages[7].content }}", "does not take"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "without end"),
        ("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}", "count further"),
        ("{{ 'a' * 10000000000 }}", "multiplies"),
        ("{{ 10000000000 * 'a' }}", "multiplies"),
        ("{{ 2 ** 64 ** 64 ** 64 }}", "power"),
        ("{{ messages.append(1) }}", "does not take"),
        ("{% set t = 'abcdefgh' * 100000 %}{% for i in range(10) %}{{ t }}{% endfor %}", "longer than"),
    ],
)
def test_a_bad_template_is_one_line(source, says):
    with pytest.raises(BadInput, match=says) as caught:
        prompt(source)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_template_does_not_change_the_messages_it_is_given():
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(BadInput):
        prompt("{% set _ = messages[0].update({'content': 'x'}) %}{{ messages[0].content }}", messages)
    assert messages == [{"role": "user", "content": "hi"}]
