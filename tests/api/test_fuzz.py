"""Whatever a client sends, it gets an answer that blames the right side: never a 500, never a dead server."""

from __future__ import annotations

import json
from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.api import messages, tensors
from agent.errors import RequestError
from agent.ports import InferenceAnswer
from agent.schema.bfloat16 import to_floats
from tests.api.raw import RawClient

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(max_examples=300, deadline=None)
FIXED = sorted(set(tensors.DTYPES) - {"BYTES"})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
datatypes = st.sampled_from([*tensors.DTYPES, "FP33", ""]) | json_values
shapes = st.lists(st.integers(-1, 5) | st.integers(), max_size=4) | json_values
parameters = st.fixed_dictionaries(
    {},
    optional={
        "binary_data_size": st.integers(-1, 40) | json_values,
        "binary_data": json_values,
        "binary_data_output": json_values,
        "timeout": json_values,
        "classification": json_values,
        "placement": json_values,
        "sequence_id": json_values,
        "shared_memory_region": json_values,
    },
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y", ""]) | json_values,
        "datatype": datatypes,
        "shape": shapes,
        "data": st.lists(st.integers() | st.floats() | st.booleans() | st.text(max_size=3), max_size=6) | json_values,
        "parameters": parameters | json_values,
    },
)
documents = (
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.text(max_size=5) | json_values,
            "inputs": st.lists(entries | json_values, max_size=3) | json_values,
            "outputs": st.lists(entries | json_values, max_size=3) | json_values,
            "parameters": parameters | json_values,
        },
    )
    | json_values
)


@MANY
@given(documents, st.binary(max_size=40), st.integers(-3, 3) | st.none())
def test_any_document_is_decoded_or_refused_with_one_sentence(document, raw, lie):
    header = json.dumps(document).encode()
    length = None if lie is None else max(0, len(header) + lie)
    message, decoded = "", None
    try:
        decoded = messages.decode("m", header + (raw if lie is not None else b""), length, None, "r")
    except RequestError as error:
        message = error.message
    assert "\n" not in message
    assert len(message) < 600
    assert bool(message) != bool(decoded)


@MANY
@given(st.binary(max_size=200))
@example(b'{"a":"\\ud800"}')
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_parsed_or_refused(data):
    message = "it is an object"
    try:
        assert isinstance(messages.parse_object(data, "it"), dict)
    except RequestError as error:
        message = error.message
    assert message.startswith(("it ", "the JSON"))


@MANY
@given(
    st.sampled_from(FIXED).flatmap(
        lambda d: st.tuples(st.just(d), hnp.arrays(tensors.DTYPES[d], hnp.array_shapes(min_side=0)))
    )
)
def test_every_array_survives_the_way_through_raw_bytes(case):
    datatype, array = case
    assert tensors.datatype_of(array) == datatype
    data = memoryview(bytes(tensors.to_binary(array)))
    back = tensors.from_binary("x", datatype, array.shape, data)
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()
    assert not array.size or np.shares_memory(back, np.frombuffer(data, np.uint8))


def finite(datatype):
    dtype = np.dtype(tensors.DTYPES[datatype])
    elements = hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    if datatype == "BF16":  # to numpy its bits are an integer
        elements = elements.filter(lambda bits: bits & 0x7F80 != 0x7F80)
    return st.tuples(st.just(datatype), hnp.arrays(dtype, hnp.array_shapes(min_side=0), elements=elements))


@MANY
@given(st.sampled_from(FIXED).flatmap(finite), st.booleans())
def test_every_finite_array_survives_the_way_through_json(case, nested):
    datatype, array = case
    numbers = to_floats(array) if datatype == "BF16" else array
    values = json.loads(json.dumps(numbers.tolist() if nested and array.size else tensors.to_json("x", array)))
    back = tensors.from_json("x", datatype, array.shape, values)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@MANY
@given(st.lists(st.binary(max_size=9), max_size=6))
def test_every_list_of_byte_strings_survives(words):
    array = np.empty(len(words), object)
    array[:] = words
    back = tensors.from_binary("x", "BYTES", array.shape, memoryview(tensors.to_binary(array)))
    assert list(back) == words


@MANY
@given(st.binary(max_size=40), st.integers(0, 6))
def test_any_bytes_as_strings_are_read_completely_or_refused(data, count):
    try:
        array = tensors.from_binary("x", "BYTES", (count,), memoryview(data))
    except RequestError:
        return
    assert tensors.to_binary(array) == data


@MANY
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), unique_by=lambda pair: pair[0], max_size=4))
def test_outputs_are_binary_exactly_where_asked(wishes):
    outputs = [{"name": name, "parameters": {"binary_data": wish}} for name, wish in wishes]
    entry = {"name": "x", "datatype": "FP32", "shape": [0], "data": []}
    decoded = messages.decode("m", json.dumps({"inputs": [entry], "outputs": outputs}).encode(), None, None, "r")
    arrays = {name: np.arange(3, dtype=np.int16) for name, _ in wishes}
    answer = InferenceAnswer(arrays, "m", "1", "cpu", "P", None, 0.1, 2.0, "measured", "d")
    encoded = messages.encode(answer, decoded)
    header = json.loads(encoded.body[: encoded.header_bytes])
    assert [("data" not in o) for o in header["outputs"]] == [wish for _, wish in wishes]
    assert len(encoded.body) == (encoded.header_bytes or len(encoded.body)) + 6 * sum(wish for _, wish in wishes)
    assert all(prod(o["shape"]) == 3 for o in header["outputs"])


# ---------------------------------------------------------------------------------------------- over the wire

headers = st.dictionaries(
    st.sampled_from(
        [
            "Inference-Header-Content-Length",
            "Content-Encoding",
            "Accept-Encoding",
            "X-Deadline-S",
            "Content-Type",
            "Expect",
        ]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12) | st.integers(-2, 300).map(str),
    max_size=3,
)


@FEW
@given(st.binary(max_size=300) | documents.map(lambda d: json.dumps(d).encode()), headers)
def test_any_body_with_any_headers_is_never_a_500(server, service, body, headers):
    client = RawClient(server.port)
    try:
        answer = client.post("/v2/models/add1/infer", body, **headers)
        while answer.status == 100:
            answer = client.answer()
        assert answer.status in {200, 400, 413, 415}, answer.body
        if answer.status != 200:
            assert answer.error
    finally:
        client.close()


@FEW
@given(
    st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
)
def test_any_path_is_answered(server, service, method, path):
    client = RawClient(server.port)
    try:
        client.send(f"{method} /v2/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        status = int(client.socket.recv(4096).split()[1])
        assert status in {200, 400, 404, 405}
    finally:
        client.close()


@FEW
@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_instead_of_http_leave_the_server_alive(server, service, data):
    client = RawClient(server.port)
    client.send(data)
    client.close()
    again = RawClient(server.port)
    assert again.post("/v2/repository/index", b"").status == 200
    again.close()


@pytest.mark.parametrize("cut", range(0, 100, 9))
def test_a_request_cut_anywhere_never_reaches_the_service(server, service, cut):
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    body = json.dumps({"inputs": [entry]}).encode()
    whole = b"POST /v2/models/add1/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    client = RawClient(server.port)
    client.send(whole[: len(whole) * cut // 100])
    client.close()
    again = RawClient(server.port)
    assert again.post("/v2/models/add1/infer", body).status == 200
    again.close()
    assert len(service.requests) == 1
