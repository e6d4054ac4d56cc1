"""Texts of a prescribed form, written with the vocabulary of a small model and logits that know nothing of it."""

import json

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BadInput
from agent.llm.engine import Engine, Failed, Finished, Job, Written
from agent.llm.grammar import Form, Grammars
from agent.llm.row import Prompt, Row
from agent.llm.sampler import Sampling, choose
from agent.schema.text import TextForm

SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["a", "b"],
     "additionalProperties": False},
    {"enum": ["red", "green", 7, None]},
    {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 3},
    {"anyOf": [{"type": "number", "minimum": 0, "maximum": 99}, {"const": "none"}]},
    {"type": "object", "properties": {"n": {"$ref": "#/$defs/leaf"}}, "required": ["n"],
     "$defs": {"leaf": {"type": "string", "pattern": "^[ab]{2,5}$"}}},
]  # fmt: skip
CLOSING = [*map(ord, '"}]')]


@pytest.fixture(scope="module")
def grammars(tiny):
    return Grammars(tiny.folder)


def schema_form(schema):
    return TextForm("json_schema", json.dumps(schema))


def written(tiny, form, seed, options=None, limit=400):
    """A whole text from random logits that lean towards closing what is open."""
    rng = np.random.default_rng(seed)
    row = Row(tiny.folder, Prompt((1,), limit, sampling=options or Sampling(1.0, seed=seed), form=form), 0)
    text, end = "", None
    places = [tiny.folder.encode(chr(c))[-1] for c in CLOSING]
    while end is None:
        logits = rng.normal(0, 1, tiny.folder.vocabulary).astype(np.float32)
        logits[places] += len(row.written) / 4
        piece = row.take(logits)
        text, end = text + piece.text, piece.end
    return text, end


@given(schema=st.sampled_from(SCHEMAS), seed=st.integers(0, 2**32), greedy=st.booleans())
def test_whatever_the_logits_say_a_finished_text_keeps_its_schema(tiny, grammars, schema, seed, greedy):
    options = Sampling(0.0 if greedy else 1.5, top_k=0 if seed % 2 else 5, top_p=1.0 if seed % 3 else 0.7, seed=seed)
    text, end = written(tiny, grammars.compile(schema_form(schema)), seed, options)
    assert end == "stop"
    jsonschema.validate(json.loads(text), schema)


@given(seed=st.integers(0, 2**32))
def test_any_json_object_is_one(tiny, grammars, seed):
    text, end = written(tiny, grammars.compile(TextForm("json")), seed)
    assert end == "stop"
    assert isinstance(json.loads(text), dict)


@given(seed=st.integers(0, 2**32))
def test_a_grammar_in_gbnf_is_kept(tiny, grammars, seed):
    form = grammars.compile(TextForm("gbnf", 'root ::= move+\nmove ::= [a-h] [1-8] "; "\n'))
    text, end = written(tiny, form, seed, limit=40)
    for move in text.split("; ")[:-1]:
        assert move[0] in "abcdefgh"
        assert move[1] in "12345678"
        assert len(move) == 2
    assert end in {"stop", "length"}


@given(
    seed=st.integers(0, 2**32), top_k=st.integers(0, 9), top_p=st.floats(0.01, 1), min_p=st.floats(0, 1),
    temperature=st.floats(0, 5), repetition=st.floats(0.1, 10),
)  # fmt: skip
def test_only_allowed_tokens_are_chosen(seed, top_k, top_p, min_p, temperature, repetition):
    rng = np.random.default_rng(seed)
    allowed = np.flatnonzero(rng.random(300) < 0.1)
    allowed = allowed if len(allowed) else np.array([7])
    options = Sampling(temperature, top_k, top_p, min_p, repetition, seed)
    logits = rng.normal(0, 30, 300).astype(np.float32)
    assert choose(logits, options, [3, int(allowed[0])], rng, allowed) in allowed


def test_a_text_that_goes_on_elsewhere_keeps_its_form(tiny, grammars):
    form = grammars.compile(schema_form({"enum": ["abc", "abd"]}))
    prompt = Prompt((1,), 20, sampling=Sampling(seed=3), form=form)
    ids = tiny.folder.encode('"ab')
    row = Row(tiny.folder, prompt, 0, ids)
    flat = np.zeros(tiny.folder.vocabulary, np.float32)
    assert row.take(flat).text in {"c", "d", 'c"', 'd"'}


def test_compiled_forms_are_kept_within_a_bound(tiny, grammars):
    first = grammars.compile(schema_form({"const": -1}))
    assert grammars.compile(schema_form({"const": -1})) is first
    for number in range(40):
        grammars.compile(schema_form({"const": number}))
    assert grammars.compile(schema_form({"const": -1})) is not first


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (TextForm("json_schema", "{"), "not JSON"),
        (schema_form({"type": "strin"}), "strin"),
        (schema_form({"$ref": "#/nothing"}), "/nothing"),
        (schema_form({"if": {"type": "object"}}), "if"),
        (schema_form({"type": "string", "pattern": "("}), "not usable: pattern: unclosed group"),
        (schema_form({"properties": {"ok": {"pattern": "^a$"}, "id": {"anyOf": [{"pattern": "^(?=x)y"}]}}}),
         r"not usable: properties\.id\.anyOf\.0\.pattern: look-around, .* not supported"),
        (schema_form({"patternProperties": {"(?!a)b": {"type": "string"}}}), ": patternProperties: look-around"),
        (TextForm("gbnf", 'root ::= "a'), "grammar"),
        (TextForm("gbnf", "root ::= missing"), "missing"),
        (TextForm("gbnf", 'root ::= root "a"'), "no text can begin with it; a rule that leads back to itself needs"),
        (TextForm("gbnf", "root ::= a\na ::= b\nb ::= a"), "a rule that leads back to itself needs"),
        (TextForm("gbnf", "root ::= " + "(" * 9000 + '"a"' + ")" * 9000), "nested too deeply"),
        (schema_form({"$ref": "#"}), r"no text can begin with it; a \$ref that leads back to itself needs"),
        (schema_form({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}), "leads back to"),
        (TextForm("json_schema", '{"items":' * 400 + "{}" + "}" * 400), "nested too deeply"),
        (TextForm("json_schema", '{"items":' * 9000 + "{}" + "}" * 9000), "nested too deeply"),
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_read_says_what_is_wrong(grammars, form, words):
    with pytest.raises(BadInput, match=words) as caught:
        grammars.compile(form)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "form",
    [
        schema_form({"type": "object", "properties": {"next": {"$ref": "#"}}}),
        schema_form({"type": "array", "items": {"$ref": "#"}}),
        TextForm("gbnf", 'root ::= "(" root ")" | "x"'),
    ],
)
def test_a_form_that_contains_itself_is_usable_where_it_can_begin(grammars, form):
    assert len(grammars.compile(form).begin().allowed()) > 0


class _Endless:
    """A matcher whose parser gives up after some tokens."""

    def __init__(self, after):
        self.left = after

    def deep_copy(self):
        return _Endless(self.left)

    def compute_bitmask(self):
        self.left -= 1
        return b"\xff" * 64

    def is_error(self):
        return self.left < 0

    def get_error(self):
        return "too complex" if self.left < 0 else ""

    def consume_token(self, _):
        return True

    def is_stopped(self):
        return False


def test_a_form_that_cannot_be_kept_ends_its_own_job_alone(tiny):
    engine = Engine(tiny, rows=4, context=32)
    broken = Form(_Endless(3), tiny.folder.vocabulary)
    engine.add(Job(1, Prompt((1, 2), 10, 2, form=broken, through_end=True), (0, 1)))
    engine.add(Job(2, Prompt((1, 2), 10, through_end=True), (0,)))
    events = []
    while not engine.idle:
        events += engine.turn()
    assert [event.number for event in events if isinstance(event, Failed)] == [1]
    assert "too complex" in next(event.error.message for event in events if isinstance(event, Failed))
    assert [event.number for event in events if isinstance(event, Finished)] == [2]
    assert sum(isinstance(event, Written) and event.number == 2 for event in events) == 10
