"""Every request leaves one line in the log, whether it was refused at the door, failed, was given up or answered."""

from __future__ import annotations

import json
import socket
import time

import httpx
import pytest
import structlog
import structlog.testing

from agent.api import request_line
from agent.errors import DeadlineExceeded, LaneDied

KEY = "k" * 32


@pytest.fixture
def lines(monkeypatch):
    """Waits for so many request lines of any level, and takes all there are."""
    capture = structlog.testing.LogCapture()
    log = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.stdlib.BoundLogger)
    monkeypatch.setattr(request_line, "_log", log)

    def take(count=1):
        end_s = time.monotonic() + 10.0
        while len(capture.entries) < count and time.monotonic() < end_s:
            time.sleep(0.005)  # the server's thread writes the line after the answer
        found, capture.entries[:] = list(capture.entries), []
        assert all(line["event"] == "request" for line in found)
        return found

    return take


def only(found):
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("change", "code", "status"),
    [
        ({"shape": [1, 5]}, 400, "bad_input"),
        ({"datatype": "FP7"}, 400, "bad_input"),
        ({"model": "add2"}, 404, "not_found"),
        ({"headers": {"X-Deadline-S": "soon"}}, 400, "bad_input"),
        ({"headers": {"Host": "evil.example"}}, 403, "forbidden"),
    ],
)
def test_an_inference_refused_before_it_runs_leaves_one_line(infer, lines, change, code, status):
    assert infer(**change).status_code == code
    line = only(lines())
    assert (line["http"], line["status"], line["log_level"]) == (code, status, "info")
    assert line["path"] == f"/v2/models/{change.get('model', 'add1')}/infer"
    assert line["error"]


def test_a_request_that_has_a_number_is_told_with_it_and_with_its_model(infer, lines):
    infer(shape=[1, 5])
    infer(shape=[1, 5], headers={"X-Deadline-S": "9"})
    first, second = lines(2)
    assert first["id"].startswith("http-")
    assert first["id"] != second["id"]
    assert {first["model"], second["model"]} == {"add1"}


@pytest.mark.parametrize("path", ["/v2/models/add1/versions/7/infer", "/v2/models/add1/infer"])
def test_both_ways_to_a_model_number_from_one_count(http, lines, path):
    assert http.post(path, content=b"{").status_code in {400, 404}
    assert http.post("/v2/models/add1/infer", content=b"{").status_code == 400
    assert len({line["id"] for line in lines(2)}) == 2


def test_a_failure_inside_is_a_warning_and_tells_replays(infer, service, lines):
    service.error = LaneDied("gone", replays=2)
    assert infer().status_code == 503
    line = only(lines())
    assert (line["log_level"], line["status"], line["replays"], line["http"]) == ("warning", "lane_died", 2, 503)
    service.error = DeadlineExceeded("late")
    infer()
    assert only(lines())["status"] == "deadline_exceeded"


def test_without_the_key_the_refusal_is_told_and_the_key_never(serve, tmp_path, lines):
    (tmp_path / "key").write_text(KEY)
    server = serve(api_key_file=tmp_path / "key")
    httpx.get(f"{server.url}/status", headers={"X-API-Key": "wrong" * 5})
    line = only(lines())
    assert (line["http"], line["status"], line["path"]) == (401, "unauthorized", "/status")
    assert "wrong" * 5 not in json.dumps(line)


def test_unknown_paths_wrong_methods_and_language_models_that_are_not_there_are_told(http, lines):
    http.get("/nothing")
    http.get("/v2/models/add1/infer")
    http.post("/v1/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": "x"}]})
    found = lines(3)
    assert [line["http"] for line in found] == [404, 405, 404]
    assert (found[2]["model"], found[2]["id"][:9]) == ("m", "chatcmpl-")


def test_a_bug_leaves_its_trace_and_one_request_line(infer, service, lines):
    service.bug = ValueError("oops")
    assert infer().status_code == 500
    assert only(lines())["log_level"] == "warning"


@pytest.mark.parametrize(
    ("sent", "code"), [(b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", 431)]
)
def test_what_is_no_request_at_all_is_told_and_counted(server, connect, lines, sent, code):
    before = _errors(server, code)
    lines()
    connect(server.port).send(sent)
    line = only(lines())
    assert (line["http"], line["log_level"]) == (code, "info")
    assert _errors(server, code) == before + 1


def _errors(server, code):
    text = httpx.get(f"{server.url}/metrics").text
    start = f'qeil_http_errors_total{{code="{code}"}} '
    return next((float(row.removeprefix(start)) for row in text.splitlines() if row.startswith(start)), 0.0)


def test_a_client_that_hangs_up_is_told(server, service, connect, lines):
    service.hold = True
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}).encode()
    head = b"POST /v2/models/add1/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    client = connect(server.port)
    client.send(head + body)
    assert service.arrived.wait(5.0)
    client.close()
    assert only(lines())["status"] == "client_gone"
    service.release()


@pytest.mark.parametrize("length", [b"content-length: 100", b"transfer-encoding: chunked"])
def test_a_request_that_ends_before_its_body_is_told_once_and_nobody_is_said_to_have_hung_up(
    server, connect, lines, length
):
    client = connect(server.port)
    client.send(b"POST /v2/models/add1/infer HTTP/1.1\r\nhost: localhost\r\n%s\r\n\r\n" % length)
    client.socket.shutdown(socket.SHUT_WR)
    assert client.answer().status == 400
    assert client.at_end()
    httpx.get(f"{server.url}/nothing")  # after which whoever waited for the body has noticed
    assert [line["status"] for line in lines(2)] == ["bad_http", "not_found"]


def test_pages_that_are_polled_are_told_to_debuggers_and_orders_to_everybody(http, lines):
    http.get("/status")
    http.post("/v2/repository/models/add1/unload")
    assert [(line["log_level"], line["status"]) for line in lines(2)] == [("debug", "ok"), ("info", "ok")]


def test_a_page_that_says_not_ready_while_it_is_polled_is_no_warning(http, infer, service, lines):
    service.unload_model("half")
    http.get("/v2/models/half/ready")
    service.error = LaneDied("gone")
    infer()
    assert [(line["log_level"], line["http"]) for line in lines(2)] == [("info", 503), ("warning", 503)]
