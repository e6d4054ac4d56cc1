"""The direct path takes usual infer requests only, and what it remembers of them changes no answer."""

from __future__ import annotations

import json
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api import messages
from agent.api.access import Gate
from agent.api.body import BodyBudget
from agent.api.direct import MAX_KEPT, MAX_KEPT_BYTES, UNRESERVED_BYTES, DirectPath
from agent.api.forms import MAX_FORMS, Forms
from agent.api.heads import MAX_HEADS, Heads
from agent.errors import BadInput, Overloaded
from agent.ports import InferenceAnswer, RequestLimits
from tests.fakes_service import FakeService

INFER = b"/v2/models/wide/infer"
USUAL = [(b"host", b"localhost"), (b"content-length", b"10")]


class Line:
    """A connection that remembers its answers; the loop's calls wait in `later`."""

    def __init__(self):
        self.answers = []
        self.later = []

    def answer(self, exchange, status, head, *pieces):
        body = b"".join(pieces)
        exchange.response_complete = True
        self.answers.append((status, head, body))

    def on_loop(self, function):
        self.later.append(function)


def confess(error, method, path):
    return BadInput(f"{method} {path}: {error}")


def direct(service=None, budget=None, key=None):
    refuse = lambda error, asked: (400, [], error.message.encode())  # noqa: E731
    gate = Gate(key, "localhost")
    return DirectPath(
        service or FakeService(), gate, budget or BodyBudget(2 * UNRESERVED_BYTES), refuse, confess, count(1)
    )


def binary(values, dtype="FP32", name="wide", **extra):
    """(JSON part, body) of a request for one row."""
    x = np.atleast_2d(np.asarray(values))
    entry = {"name": "x", "datatype": dtype, "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}, **extra}).encode()
    return head, head + x.tobytes()


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        (b"/v2/models/wide/infer?x=1", USUAL),
        (b"/v2/models/wide/versions/1/infer", USUAL),
        (b"/v2/models/wi%64e/infer", USUAL),
        (INFER, [*USUAL, (b"transfer-encoding", b"chunked")]),
        (INFER, [*USUAL, (b"content-encoding", b"gzip")]),
        (INFER, [*USUAL, (b"expect", b"100-continue")]),
        (INFER, [*USUAL, (b"connection", b"close")]),
        (INFER, [*USUAL, (b"host", b"elsewhere")]),
        (INFER, [(b"host", b"evil.example"), (b"content-length", b"10")]),
        (INFER, [*USUAL, (b"inference-header-content-length", b"many")]),
        (INFER, [*USUAL, (b"inference-header-content-length", b"1000001")]),
        (INFER, [(b"host", b"localhost"), (b"content-length", b"1000001")]),
        (INFER, [(b"host", b"localhost"), (b"content-length", b"ten")]),
    ],
)
def test_what_is_unusual_or_would_be_refused_goes_to_the_application(url, fields):
    assert direct().open(Line(), url, fields) is None


def test_a_usual_request_is_taken_and_a_key_is_asked_for():
    assert direct().open(Line(), INFER, USUAL) is not None
    locked = direct(key=b"k" * 16)
    assert locked.open(Line(), INFER, USUAL) is None
    assert locked.open(Line(), INFER, [*USUAL, (b"x-api-key", b"k" * 16)]) is not None


def test_a_head_like_an_earlier_one_is_still_held_to_the_bounds_in_force_and_none_that_was_refused_is_remembered():
    path = direct(key=b"k" * 16)
    fields = [*USUAL, (b"x-api-key", b"k" * 16)]
    assert path.open(Line(), INFER, USUAL) is None
    assert path.open(Line(), INFER, fields) is not None
    assert [key[-1] for key in path._known] == [(b"x-api-key", b"k" * 16)]

    path.service.limits = lambda: RequestLimits(1, 1)
    assert path.open(Line(), INFER, fields) is None


def test_long_heads_are_read_every_time():
    path = direct()
    assert path.open(Line(), INFER, [*USUAL, (b"x-trace", bytes(MAX_KEPT_BYTES))]) is not None
    assert path._known == {}


def test_request_heads_are_remembered_within_a_bound():
    path = direct()
    for number in range(3 * MAX_KEPT):
        assert path.open(Line(), b"/v2/models/m%d/infer" % number, USUAL) is not None
    assert len(path._known) <= MAX_KEPT


def test_large_bodies_are_counted_until_their_request_is_over():
    budget = BodyBudget(2 * UNRESERVED_BYTES)
    path = direct(budget=budget)
    fields = [(b"host", b"localhost"), (b"content-length", b"%d" % (UNRESERVED_BYTES + 1))]
    fields.append((b"inference-header-content-length", b"2"))
    line = Line()
    exchange = path.open(line, INFER, fields)
    assert exchange is not None
    assert budget.held_bytes == UNRESERVED_BYTES + 1
    assert path.open(Line(), INFER, fields) is None  # no room: the application refuses it
    exchange.add(b"{}" + b"\0" * (UNRESERVED_BYTES - 1))
    exchange.run()
    assert line.answers[0][0] == 400
    assert budget.held_bytes == 0
    gone = path.open(Line(), INFER, fields)
    assert gone is not None
    gone.give_up()
    assert budget.held_bytes == 0


def test_a_body_in_pieces_is_put_together():
    head, body = binary(np.arange(1000, dtype=np.float32))
    fields = [(b"host", b"localhost"), (b"content-length", b"%d" % len(body))]
    fields.append((b"inference-header-content-length", b"%d" % len(head)))
    line = Line()
    exchange = direct().open(line, INFER, fields)
    assert exchange is not None
    for at in range(0, len(body), 700):
        exchange.add(body[at : at + 700])
    exchange.run()
    status, _, answer = line.answers[0]
    assert status == 200
    assert np.array_equal(np.frombuffer(answer[-4000:], np.float32), np.arange(1000) + 1)


def test_an_answer_is_compressed_where_the_client_wants_it():
    head, body = binary(np.zeros(1000, np.float32))
    fields = [(b"host", b"localhost"), (b"content-length", b"%d" % len(body)), (b"accept-encoding", b"gzip")]
    fields.append((b"inference-header-content-length", b"%d" % len(head)))
    line = Line()
    exchange = direct().open(line, INFER, fields)
    exchange.add(body)
    exchange.run()
    assert b"content-encoding: gzip\r\n" in line.answers[0][1]


def test_a_bug_costs_one_answer():
    service = FakeService()
    service.bug = ZeroDivisionError("division by zero")
    line = Line()
    exchange = direct(service).open(line, INFER, USUAL)
    exchange.add(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}')
    exchange.run()
    status, _, body = line.answers[0]
    assert (status, body) == (400, b"POST /v2/models/wide/infer: division by zero")


def test_an_answer_that_cannot_be_written_costs_one_answer():
    service = FakeService()
    service.answer_with = {"y": "no tensor"}  # type: ignore[dict-item]
    line = Line()
    exchange = direct(service).open(line, INFER, USUAL)
    exchange.add(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}')
    exchange.run()
    assert line.answers[0][0] == 400


def asked(service, line):
    exchange = direct(service).open(line, INFER, USUAL)
    exchange.add(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}')
    exchange.run()
    return exchange


def test_an_answer_of_another_thread_is_sent_from_the_loop():
    service, line = FakeService(), Line()
    service.hold = True
    exchange = asked(service, line)
    exchange._thread = -1
    service.release()
    assert line.answers == []
    line.later[0]()
    assert line.answers[0][0] == 200


def test_a_call_that_is_cancelled_inside_is_to_be_sent_again():
    service, line = FakeService(), Line()
    service.hold = True
    asked(service, line)
    service.held[0][1].cancel()
    assert b"send it again" in line.answers[0][2]


def test_a_client_that_went_gets_no_answer_and_its_call_is_cancelled():
    service, line = FakeService(), Line()
    service.hold = True
    exchange = asked(service, line)
    exchange.give_up()
    assert service.held[0][1].cancelled()
    assert line.answers == []


def test_overload_is_the_services_word():
    service, line = FakeService(), Line()
    service.error = Overloaded("full", 3.0)
    asked(service, line)
    assert line.answers[0][2] == b"full"


# ---------------------------------------------------------------------------------------------- heads


@given(rows=st.lists(st.lists(st.integers(-100, 100), min_size=3, max_size=3), min_size=2, max_size=5))
def test_a_head_that_was_seen_decodes_as_it_did_the_first_time(rows):
    heads = Heads()
    for number, row in enumerate(rows):
        head, body = binary(np.array(row, np.float32))
        found = heads.decode("wide", body, len(head), None, f"r{number}")
        plain = messages.decode("wide", body, len(head), None, f"r{number}")
        assert np.array_equal(found.request.inputs["x"], plain.request.inputs["x"])
        assert found.request.inputs["x"].dtype == plain.request.inputs["x"].dtype
        assert (found.request.request_id, found.request.model) == (f"r{number}", "wide")
        assert found.wants_binary("y") == plain.wants_binary("y")
        assert (found.request.outputs, found.client_id) == (plain.request.outputs, plain.client_id)
    assert len(heads._known) == 1


def test_the_model_of_a_remembered_head_is_the_one_that_is_asked_now():
    heads = Heads()
    head, body = binary(np.zeros(3, np.float32))
    assert heads.decode("wide", body, len(head), None, "1").request.model == "wide"
    assert heads.decode("half", body, len(head), None, "2").request.model == "half"


def test_another_length_behind_the_same_head_is_still_refused():
    heads = Heads()
    head, body = binary(np.zeros(3, np.float32))
    heads.decode("wide", body, len(head), None, "1")
    with pytest.raises(BadInput, match="bytes are left"):
        heads.decode("wide", body[:-4], len(head), None, "2")
    with pytest.raises(BadInput, match="bytes follow"):
        heads.decode("wide", body + b"\0", len(head), None, "2")


@pytest.mark.parametrize(
    ("values", "dtype", "extra"),
    [(np.ones(3, np.bool_), "BOOL", {}), (np.ones(3, np.float32), "FP32", {"id": "mine"})],
)
def test_what_needs_a_check_or_differs_every_time_is_not_remembered(values, dtype, extra):
    heads = Heads()
    head, body = binary(values, dtype, **extra)
    heads.decode("wide", body, len(head), None, "1")
    assert heads._known == {}


def test_values_inside_the_json_part_are_not_remembered():
    heads = Heads()
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    head = json.dumps({"inputs": [entry]}).encode()
    heads.decode("wide", head, len(head), None, "1")
    empty = json.dumps({"inputs": [{**entry, "shape": [1, 0], "data": []}]}).encode()
    heads.decode("wide", empty, len(empty), None, "1")
    assert heads._known == {}


def test_a_deadline_in_a_header_is_not_lost():
    heads = Heads()
    head, body = binary(np.zeros(3, np.float32))
    heads.decode("wide", body, len(head), None, "1")
    assert heads.decode("wide", body, len(head), 0.5, "2").request.deadline_s == 0.5


def test_heads_are_remembered_within_a_bound():
    heads = Heads()
    for number in range(3 * MAX_HEADS):
        head, body = binary(np.zeros(3, np.float32), note=number)
        heads.decode("wide", body, len(head), None, "1")
    assert len(heads._known) <= MAX_HEADS


# ---------------------------------------------------------------------------------------------- forms


def answer_of(outputs, **changes):
    facts = {
        "outputs": outputs, "model": "wide", "version": "1", "placement": "cpu", "provider": "CPU",
        "accelerated_fraction": 1.0, "execute_s": 0.001, "energy_j": 0.25, "provenance": "modelled",
        "policy_digest": "d", "replays": 0,
    }  # fmt: skip
    return InferenceAnswer(**{**facts, **changes})


def asked_for(**changes):
    head, body = binary(np.zeros(3, np.float32), **changes)
    return messages.decode("wide", body, len(head), None, "1")


@given(
    figures=st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(), st.integers(0, 9)),
            st.floats(0, 1e6),
            st.sampled_from(["a", "é\0energy", '"quoted"']),
            st.integers(1, 4),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_an_answer_of_a_known_form_is_byte_for_byte_the_one_without(figures):
    forms = Forms()
    for energy_j, execute_s, name, width in figures:
        answer = answer_of({name: np.ones((1, width), np.float32)}, energy_j=energy_j, execute_s=execute_s)
        if energy_j is not None and not np.isfinite(energy_j):
            with pytest.raises(ValueError, match="JSON"):
                forms.encode(answer, asked_for())
            continue
        # A whole number of joules is written as a float, which is the same number in JSON.
        plain = messages.encode(answer_of(answer.outputs, energy_j=_real(energy_j), execute_s=execute_s), asked_for())
        assert forms.encode(answer, asked_for()) == plain


def test_an_answer_says_with_how_many_its_call_was_shared_whatever_was_answered_before():
    forms = Forms()
    for together in (1, 4, 2, 1):
        answer = answer_of({"y": np.ones(2, np.float32)}, together=together)
        encoded = forms.encode(answer, asked_for())
        assert encoded == messages.encode(answer, asked_for())
        assert (b'"together":%d' % together in b"".join(encoded.pieces)) is (together > 1)


def _real(value):
    return None if value is None else float(value)


@pytest.mark.parametrize(
    ("outputs", "wish"),
    [
        ({}, {}),
        ({"y": np.ones(2, np.float32)}, {"id": "mine"}),
        ({"y": np.ones(2, np.float32)}, {"parameters": {"binary_data_output": False}}),
        ({"\0energy": np.ones(2, np.float32)}, {}),
    ],
)
def test_answers_of_other_forms_are_not_remembered(outputs, wish):
    forms = Forms()
    answer = answer_of(outputs)
    assert forms.encode(answer, asked_for(**wish)) == messages.encode(answer, asked_for(**wish))
    assert forms._known == {}


def test_forms_are_remembered_within_a_bound():
    forms = Forms()
    for number in range(3 * MAX_FORMS):
        forms.encode(answer_of({"y": np.ones(1, np.float32)}, policy_digest=str(number)), asked_for())
    assert len(forms._known) <= MAX_FORMS
