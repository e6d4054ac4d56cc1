"""Every mistake a client can make is one clear sentence and the right status."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import threading
import tracemalloc
import zlib

import numpy as np
import pytest

from agent.api.body import Body, BodyBudget
from agent.errors import (
    DeadlineExceeded,
    InferenceFailed,
    LaneDied,
    ModelLoadFailed,
    Overloaded,
    PermitExpired,
    PlacementError,
    TooLarge,
)


def refused(response, status, *parts):
    assert response.status_code == status, response.text
    message = response.json()["error"]
    for part in parts:
        assert part in message
    return message


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"datatype": "FP33"}, "'FP33' is not one of BOOL, UINT8"),
        ({"datatype": None}, "datatype None is not one of"),
        ({"shape": [1, -4]}, "sizes ≥ 0"),
        ({"shape": [True, 4]}, "sizes ≥ 0"),
        ({"shape": [10**4000, 10**4000]}, "sizes ≥ 0"),
        ({"parameters": {"binary_data_size": 10**4000}, "data": None}, "must be a number of bytes"),
        ({"name": "n" * 2000}, "1 to 1024 characters"),
        ({"shape": "1,4"}, "sizes ≥ 0, got '1,4'"),
        ({"shape": [1] * 40}, "at most 32"),
        ({"shape": [1, 5]}, "needs 5 values, data has 4"),
        ({"data": [[1, 2], [3, 4]]}, "1 entries along axis 0 of [1, 4]"),
        ({"data": [[1, 2]]}, "4 entries along axis 1 of [1, 4]"),
        ({"data": [1, 2, 3, "4"]}, "value 3 is '4'"),
        ({"data": [1, 2, 3, True]}, "value 3 is True"),
        ({"data": [1, 2, 3, {}]}, "an object of 0"),
        ({"data": [1, 2, 3, 1e39]}, "beyond the range of FP32"),
        ({"data": [1, 2, 3, 10**400]}, "does not fit FP32"),
        ({"data": 7}, "data must be a list, got 7"),
        ({"data": None}, "neither data nor parameter binary_data_size"),
        ({"parameters": {"binary_data_size": 16}}, "both data and parameter binary_data_size"),
        ({"parameters": {"binary_data_size": 16}, "data": None}, "Inference-Header-Content-Length is missing"),
        ({"parameters": {"binary_data_size": "16"}, "data": None}, "must be a number of bytes"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory is not offered"),
        ({"parameters": []}, "parameters must be an object"),
        ({"name": None}, "an input has no name"),
        ({"name": "z"}, "no input 'z'"),
        ({"datatype": "INT32"}, "expected FP32 [-1, 4]"),
    ],
)
def test_a_wrong_tensor_is_explained(infer, changes, part):
    refused(infer(entry=changes), 400, part)


@pytest.mark.parametrize(
    ("datatype", "data", "part"),
    [
        ("UINT8", [256], "UINT8 holds 0 to 255"),
        ("INT8", [-129], "INT8 holds -128 to 127"),
        ("UINT64", [-1], "holds 0 to 18446744073709551615"),
        ("INT64", [2**63], "INT64 holds"),
        ("INT32", [1.0], "takes whole numbers, value 0 is 1.0"),
        ("BOOL", [2], "true, false, 1 or 0"),
        ("BYTES", [1], "takes strings"),
        ("FP16", [70000], "beyond the range of FP16"),
    ],
)
def test_values_are_never_rounded_or_wrapped(infer, datatype, data, part):
    refused(infer(datatype=datatype, data=data, shape=[1]), 400, part)


def test_half_a_surrogate_pair_is_no_text(http):
    body = b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":["\\ud800"]}]}'
    refused(http.post("/v2/models/text/infer", content=body), 400, "surrogate")


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b'{"inputs":[\n  {,', "line 2 column 4"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"[1]", "must be a JSON object"),
        (b"", "needs 'inputs'"),
        (b"{}", "needs 'inputs'"),
        (b'{"inputs":{}}', "needs 'inputs'"),
        (b'{"inputs":null}', "needs 'inputs'"),
        (b'{"inputs":[1]}', "must be an object"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}', "holds NaN"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[-Infinity]}]}', "holds -Infinity"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1e999]}]}', "beyond the range"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"id":5,"inputs":[]}', "id must be a string"),
        (b'{"id":"' + b"a" * 300 + b'","inputs":[]}', "at most 256"),
        (b'{"parameters":{"timeout":-1},"inputs":[]}', "whole number of microseconds"),
    ],
)
def test_a_broken_document_is_explained(http, body, part):
    refused(http.post("/v2/models/add1/infer", content=body), 400, part)


def test_a_tensor_given_twice_is_refused(http):
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    refused(http.post("/v2/models/add1/infer", json={"inputs": [entry, entry]}), 400, "input 'x' is given twice")
    twice = {"inputs": [entry], "outputs": [{"name": "y"}, {"name": "y"}]}
    refused(http.post("/v2/models/add1/infer", json=twice), 400, "output 'y' is given twice")


@pytest.mark.parametrize(
    ("parameters", "part"),
    [
        ({"timeout": "soon"}, "whole number of microseconds"),
        ({"timeout": -1}, "whole number of microseconds"),
        ({"binary_data_output": 1}, "must be true or false"),
        ({"placement": 3}, "name of an accelerator"),
        ({"sequence_id": 3}, "state between requests"),
    ],
)
def test_wrong_parameters_are_explained(infer, parameters, part):
    refused(infer(parameters=parameters), 400, part)


def test_wrong_output_requests_are_explained(http):
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}

    def ask(output):
        return http.post("/v2/models/add1/infer", json={"inputs": [entry], "outputs": output})

    refused(ask([{"name": "y", "parameters": {"shared_memory_region": "r"}}]), 400, "shared memory")
    refused(ask([{"name": "y", "parameters": {"binary_data": "yes"}}]), 400, "'binary_data' must be true or false")
    refused(ask("y"), 400, "'outputs' must be a list")
    refused(ask([{"name": "q"}]), 400, "no output 'q'")


@pytest.mark.parametrize("value", ["0", "-1", "abc", "99999999999999999999", ""])
def test_a_senseless_header_length_is_refused(http, value):
    headers = {"Inference-Header-Content-Length": value}
    refused(http.post("/v2/models/add1/infer", content=b"{}", headers=headers), 400, "Inference-Header-Content-Length")


def binary(http, size, raw, shape=(1, 4), datatype="FP32", length=None, model="add1"):
    entry = {"name": "x", "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [entry]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header) if length is None else length)}
    return http.post(f"/v2/models/{model}/infer", content=header + raw, headers=headers)


def test_binary_sizes_that_lie_are_caught(http):
    good = np.ones(4, np.float32).tobytes()
    assert binary(http, 16, good).json()["outputs"][0]["data"] == [2, 2, 2, 2]
    refused(binary(http, 16, good, length=5000), 400, "is 5000, the body has only")
    refused(binary(http, 16, good[:-1]), 400, "binary_data_size is 16, only 15 bytes are left")
    refused(binary(http, 16, good + b"!"), 400, "1 bytes follow")
    refused(binary(http, 12, good[:12]), 400, "FP32 [1, 4] needs 16 bytes, binary_data_size is 12")
    refused(binary(http, -1, good), 400, "≥ 0")
    refused(binary(http, 16, good, length=4_000_001), 400, "exceeds 1000000 bytes of JSON")
    refused(binary(http, 16, good, shape=(2**40, 2**40)), 400, "needs")
    refused(binary(http, 0, b"", shape=(0, 2**62, 2**62)), 400, "is empty and yet larger than any tensor")


def test_binary_booleans_are_zero_or_one(http):
    assert binary(http, 2, b"\x00\x01", (2,), "BOOL", model="flags").json()["outputs"][0]["data"] == [True, False]
    refused(binary(http, 2, b"\x00\x02", (2,), "BOOL", model="flags"), 400, "a byte 0 or 1")


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b"", "at least 8 bytes"),
        (struct.pack("<I", 4) + b"abcd", "the data ends before BYTES element 1 of 2"),
        (struct.pack("<I", 9) + b"abcd", "element 0 is longer than the data"),
        (struct.pack("<I", 0) * 2 + b"x", "1 bytes follow the last of 2"),
        (struct.pack("<I", 0) + b"xyz12", "element 1 is longer"),
    ],
)
def test_binary_strings_with_wrong_lengths_are_caught(http, raw, part):
    refused(binary(http, len(raw), raw, (2,), "BYTES", model="text"), 400, part)


def test_too_many_strings_are_too_large(http):
    refused(binary(http, 0, b"", (2_000_000,), "BYTES", model="text"), 413, "at most 1000000")


def test_a_deadline_header_is_read_and_checked(infer, service):
    infer(headers={"X-Deadline-S": "1.5"})
    assert service.requests[-1].deadline_s == 1.5
    infer(headers={"X-Deadline-S": "1.5"}, parameters={"timeout": 250_000})
    assert service.requests[-1].deadline_s == 0.25
    infer(parameters={"timeout": 0})
    assert service.requests[-1].deadline_s is None
    for wrong in ("soon", "0", "-1", "inf", "nan"):
        refused(infer(headers={"X-Deadline-S": wrong}), 400, "X-Deadline-S must be a number of seconds")


# ---------------------------------------------------------------------------------------------- sizes


def test_a_large_json_body_is_refused_before_it_is_sent(connect, server, service):
    client = connect(server.port)
    client.send(b"POST /v2/models/add1/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000001\r\n\r\n")
    answer = client.answer()
    assert answer.status == 413
    assert "max_json_body_bytes" in answer.error
    assert "binary" in answer.error
    assert answer.headers["connection"] == "close"
    assert service.requests == []


def test_a_large_binary_body_is_refused_too(http):
    refused(binary(http, 4, b"\0" * 4_000_001), 413, "4000000 are accepted", "max_body_bytes")


def test_a_chunked_body_is_refused_as_soon_as_it_passes_the_bound(http, service):
    sent = []

    def endless():
        for number in range(100_000):
            sent.append(number)
            yield b" " * 100_000

    refused(http.post("/v2/models/add1/infer", content=endless()), 413, "max_json_body_bytes")
    assert len(sent) < 100_000
    assert service.requests == []


def test_a_chunked_body_within_the_bound_is_served(http):
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 20000], "data": [1.5] * 20000}
    data = json.dumps({"inputs": [entry]}).encode()
    pieces = (data[i : i + 7000] for i in range(0, len(data), 7000))
    response = http.post("/v2/models/wide/infer", content=pieces)
    assert response.json()["outputs"][0]["data"] == [2.5] * 20000


def test_all_bodies_together_are_bounded(connect, serve, service):
    server = serve(max_buffered_bytes=1_048_576)
    service.bounds = type(service.bounds)(8_000_000, 8_000_000)
    client = connect(server.port)
    answer = client.post("/v2/models/add1/infer", b" " * 2_000_000)
    assert answer.status == 503
    assert "http.max_buffered_bytes" in answer.error
    assert answer.headers["retry-after"] == "1"
    client.close()
    again = connect(server.port)
    assert again.post("/v2/models/add1/infer", b" " * 500_000).status == 400  # what was held has been given back
    assert again.post("/v2/models/add1/infer", b" " * 700_000).status == 400


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("X-GZIP", gzip.compress)]
)
def test_compressed_bodies_are_unpacked_within_the_bound(http, encoding, pack):
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    data = json.dumps({"inputs": [entry]}).encode()

    def post(body):
        return http.post("/v2/models/add1/infer", content=body, headers={"Content-Encoding": encoding})

    assert post(pack(data)).status_code == 200
    refused(post(pack(b" " * 50_000_000)), 413, "max_json_body_bytes")
    refused(post(b"not compressed"), 400, "is not valid")
    refused(post(pack(data)[:-3]), 400, "ends early")
    refused(post(pack(data) + b"tail"), 400, "has bytes after it")


def test_unknown_compression_is_named(http):
    headers = {"Content-Encoding": "br"}
    refused(http.post("/v2/models/add1/infer", content=b"{}", headers=headers), 415, "'br'", "gzip")
    identity = {"Content-Encoding": "identity"}
    refused(http.post("/v2/models/add1/infer", content=b"{}", headers=identity), 400, "inputs")


# ---------------------------------------------------------------------------------------------- paths and faults


def test_unknown_paths_and_methods(http):
    refused(http.get("/v3/nothing"), 404, "'/v3/nothing'")
    response = http.get("/v2/models/add1/infer")
    refused(response, 405, "GET is not offered", "use POST")
    assert response.headers["allow"] == "POST"
    refused(http.delete("/status"), 405, "DELETE")
    refused(http.get("/v2/models/nope"), 404, "no model 'nope'")
    refused(http.get("/v2/models/add1/versions/3"), 404, "no version '3'", "known: 1")
    refused(http.post("/v2/models/nope/infer", json={"inputs": []}), 404, "no model 'nope'")
    refused(http.post("/v2/models/nope/infer", json={}), 400)
    refused(http.post("/v2/repository/models/nope/load"), 404, "no model 'nope'")


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (Overloaded("full", 2.2), 503, "3"),
        (DeadlineExceeded("late"), 504, None),
        (LaneDied("signal 11"), 503, "1"),
        (PermitExpired("no permit"), 503, "1"),
        (PlacementError("nothing fits"), 503, "1"),
        (InferenceFailed("runtime said no"), 500, None),
        (ModelLoadFailed("corrupt"), 500, None),
    ],
)
def test_errors_of_the_service_have_their_status(infer, service, error, status, retry):
    service.error = error
    response = infer()
    assert refused(response, status) == error.message
    assert response.json()["code"] == error.code
    assert response.headers.get("retry-after") == retry


def test_a_bug_costs_one_answer_with_an_id_that_the_log_has(infer, service, http, capsys):
    service.bug = ZeroDivisionError("secret detail")
    message = refused(infer(), 500, "the agent has a fault")
    assert "secret" not in message
    number = message.split("id ")[1].split(")")[0]
    captured = capsys.readouterr()
    log = captured.out + captured.err  # where it goes depends on who configured logging in this process
    assert log.count("request_failed") == 1
    assert log.count(number) == 2  # of the trace and of the request's own line
    service.bug = None
    assert infer().status_code == 200


def test_a_cancelled_future_is_an_overload(infer, service):
    service.error = None
    service.hold = True

    def cancel():
        service.arrived.wait(60)
        service.held[0][1].cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    refused(infer(), 503, "cancelled")
    thread.join()


def test_outputs_that_json_cannot_carry_ask_for_binary(infer, service):
    service.answer_with = {"y": np.array([np.nan], np.float32)}
    refused(infer(), 400, "binary_data: true")
    assert infer(parameters={"binary_data_output": True}).status_code == 200
    service.answer_with = {"y": np.array([b"\xff"], object)}
    refused(infer(), 400, "not UTF-8")
    service.answer_with = {"y": np.array([1 + 2j])}
    refused(infer(), 500, "complex128")


def test_outputs_of_odd_layout_travel_right(infer, service):
    service.answer_with = {
        "t": np.arange(6, dtype=np.int32).reshape(2, 3).T,
        "big": np.array([1, 2], ">i2"),
        "none": np.empty((0, 3), np.float32),
        "text": np.array(["a", "bc"]),
    }
    outputs = {o["name"]: o["data"] for o in infer().json()["outputs"]}
    assert outputs == {"t": [0, 3, 1, 4, 2, 5], "big": [1, 2], "none": [], "text": ["a", "bc"]}
    response = infer(parameters={"binary_data_output": True})
    length = int(response.headers["inference-header-content-length"])
    expected = np.array([0, 3, 1, 4, 2, 5], "<i4").tobytes() + b"\x01\x00\x02\x00"
    assert response.content[length:] == expected + b"\x01\x00\x00\x00a\x02\x00\x00\x00bc"


def test_a_client_that_sends_everything_before_it_reads_still_sees_the_refusal(connect, server, service):
    client = connect(server.port)
    assert client.post("/v2/models/add1/infer", b" " * 30_000_000).status == 413
    assert client.at_end()


def test_a_compression_bomb_is_never_unpacked_whole():
    bomb = zlib.compress(bytes(100_000_000), 9)
    budget = BodyBudget(10**9)

    async def receive():
        return {"type": "http.request", "body": bomb, "more_body": False}

    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            asyncio.run(Body(receive, budget, 1_000_000, "here").read(None, b"deflate"))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert budget.held_bytes == 0
