"""What people, Prometheus and the page see."""

from __future__ import annotations

import dataclasses
import json
import threading

import httpx
import numpy as np
import pytest

from agent.api import prometheus
from agent.schema.metric import Metric
from tests.api.test_server import until
from tests.fakes_service import SNAPSHOT


def test_status_is_the_snapshot(http):
    status = http.get("/status").json()
    assert list(status) == ["agent", "accelerators", "models", "conditions", "zones"]
    assert status["agent"]["policy_digest"] == "d1"
    assert status["accelerators"][0]["temperature_c"] is None
    assert status["models"][0]["energy_j"] == 0.003
    assert status["conditions"] == []


def test_metrics_are_valid_exposition_text(http, infer):
    infer(data=["bad", 1, 2, 3])
    response = http.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = response.text.splitlines()
    assert 'qeil_requests_total{model="a\\"b\\\\c\\nd"} 0' in lines
    assert lines.count("# TYPE qeil_mode gauge") == lines.count("# HELP qeil_mode Mode") == 1
    assert lines.index('qeil_mode{mode="fault"} 0') == lines.index('qeil_mode{mode="ready"} 1') + 1
    errors = next(line for line in lines if line.startswith('qeil_http_errors_total{code="400"}'))
    assert int(errors.split()[1]) >= 1
    assert "qeil_http_buffered_bytes 0" in lines


def test_metric_values_keep_their_precision_and_their_infinities():
    samples = tuple(({}, value) for value in (0.1, 1e300, 3.0, float("nan"), float("inf"), float("-inf")))
    text = prometheus.render([Metric("m", "gauge", "a\\b\nc", samples)]).decode()
    assert text == "# HELP m a\\\\b\\nc\n# TYPE m gauge\nm 0.1\nm 1e+300\nm 3\nm NaN\nm +Inf\nm -Inf\n"


def events(lines):
    return (json.loads(line[6:]) for line in lines if line.startswith("data: "))


def test_events_send_the_snapshot_and_then_every_change(serve, service):
    url = serve().url
    with httpx.stream("GET", f"{url}/events", timeout=60.0) as response:
        assert response.headers["content-type"] == "text/event-stream"
        stream = events(response.iter_lines())
        assert next(stream)["agent"]["mode"] == "ready"
        service.status = dataclasses.replace(SNAPSHOT, agent=dataclasses.replace(SNAPSHOT.agent, mode="degraded"))
        assert next(stream)["agent"]["mode"] == "degraded"


def test_event_streams_are_bounded_and_leavers_make_room(serve):
    url = serve(max_event_streams=1).url
    with httpx.stream("GET", f"{url}/events", timeout=60.0) as first:
        stream = events(first.iter_lines())
        next(stream)
        refused = httpx.get(f"{url}/events")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "10"
        assert "http.max_event_streams" in refused.json()["error"]
        assert "qeil_http_event_streams 1\n" in httpx.get(f"{url}/metrics").text
    until(lambda: "qeil_http_event_streams 0\n" in httpx.get(f"{url}/metrics").text)


def test_a_stop_ends_event_streams(serve):
    server = serve()
    with httpx.stream("GET", f"{server.url}/events", timeout=60.0) as response:
        stream = events(response.iter_lines())
        next(stream)
        stopping = threading.Thread(target=server.stop, args=(20.0,))
        stopping.start()
        assert list(stream) == []
        stopping.join(60)
        assert not stopping.is_alive()


def test_head_requests_have_no_body(connect, server, service):
    client = connect(server.port)
    for path in ("/status", "/v2", "/"):
        client.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = client._stream.readline()
        assert b"200" in head
        while client._stream.readline().strip():
            pass


def test_health_says_why_it_is_bad(http, service):
    service.unload_model("half")
    response = http.get("/v2/health/ready")
    assert response.status_code == 503
    assert response.json()["error"] == "not ready: half (unloaded)"
    assert "is not ready: unloaded" in http.get("/v2/models/half/ready").json()["error"]
    service.is_live = False
    assert "supervisor" in http.get("/v2/health/live").json()["error"]


def test_the_repository_extension_reads_its_flags(http, service):
    service.unload_model("half")
    assert "half" not in {row["name"] for row in http.post("/v2/repository/index", json={"ready": True}).json()}
    assert http.post("/v2/repository/models/half/load", json={"parameters": {}}).json() == {}
    refused = http.post("/v2/repository/models/half/load", json={"parameters": {"config": "{}"}})
    assert refused.status_code == 400
    assert "agent.yaml" in refused.json()["error"]
    assert http.post("/v2/repository/index", content=b"x" * 70_000).status_code == 413


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("gzip", "gzip"),
        ("br, deflate", "deflate"),
        ("gzip;q=0, deflate;q=0.5", "deflate"),
        ("identity", None),
        ("", None),
    ],
)
def test_answers_are_compressed_as_asked(infer, service, accept, encoding):
    service.answer_with = {"y": np.zeros(1000, np.float32)}
    response = infer(headers={"Accept-Encoding": accept})
    assert response.headers.get("content-encoding") == encoding
    assert response.json()["outputs"][0]["data"] == [0.0] * 1000
    service.answer_with = {"y": np.zeros(2, np.float32)}
    assert "content-encoding" not in infer(headers={"Accept-Encoding": accept}).headers
