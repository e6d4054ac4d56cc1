"""Metrics arrive at a collector under the names of /metrics; one that is away is told once and held up by nothing."""

from __future__ import annotations

import http.server
import queue
import threading

import pytest

from agent.errors import ConfigError
from agent.otlp.exporter import MetricsExport, headers
from agent.schema.metric import Histogram, Metric
from agent.schema.settings import OtlpSettings

service_pb2 = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")


class Collector:
    """Decodes what is pushed, as the real one does."""

    def __init__(self) -> None:
        self.status = 200
        self.pushed: queue.Queue = queue.Queue()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.pushed.put(
                    (
                        {k.lower(): v for k, v in self.headers.items()},
                        service_pb2.ExportMetricsServiceRequest.FromString(body),
                    )
                )
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/metrics"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(60)


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


def families() -> tuple[Metric, ...]:
    return (
        Metric("qeil_model_requests_total", "counter", "Requests accepted", (({"model": "a"}, 7.0),)),
        Metric("qeil_accelerator_power_watts", "gauge", "Power", (({"accelerator": "gpu"}, 4.5),)),
        Metric("qeil_unknown", "gauge", "Nobody knows", ()),
        Metric("qeil_s", "histogram", "Seconds", (), (({}, Histogram((1.0,), (2,), 3, 9.5)),)),
    )


def export(url: str, told: list, **more) -> MetricsExport:
    settings = OtlpSettings(endpoint=url, interval_s=3600, timeout_s=30, **more)
    return MetricsExport(settings, {"host.name": "b1"}, families, told.append)


def points(request) -> dict:
    found = {}
    for metric in request.resource_metrics[0].scope_metrics[0].metrics:
        kind = metric.WhichOneof("data")
        for point in getattr(metric, kind).data_points:
            labels = {a.key: a.value.string_value for a in point.attributes}
            found[metric.name] = (kind, labels, point.as_double)
    return found


def test_what_metrics_shows_arrives_under_the_same_names(collector, tmp_path):
    told: list = []
    (tmp_path / "headers").write_text("Authorization: Bearer abc\n\n")
    made = export(collector.url, told, headers_file=tmp_path / "headers")
    made.stop()
    sent, request = collector.pushed.get(timeout=60)
    assert points(request) == {
        "qeil_model_requests_total": ("sum", {"model": "a"}, 7.0),
        "qeil_accelerator_power_watts": ("gauge", {"accelerator": "gpu"}, 4.5),
        "qeil_s_bucket": ("sum", {"le": "+Inf"}, 3.0),
        "qeil_s_sum": ("sum", {}, 9.5),
        "qeil_s_count": ("sum", {}, 3.0),
    }
    resource = {a.key: a.value.string_value for a in request.resource_metrics[0].resource.attributes}
    assert (resource["service.name"], resource["host.name"]) == ("qeil", "b1")
    assert sent["authorization"] == "Bearer abc"
    assert told == []


def test_a_collector_that_refuses_is_told_once_and_its_return_too(collector):
    told: list = []
    made = export(collector.url, told)
    collector.status = 400
    made._provider.force_flush()
    made._provider.force_flush()
    collector.status = 200
    made._provider.force_flush()
    made.stop()
    assert told == [f"{collector.url} takes no metrics", None]


@pytest.mark.parametrize("line", ["no colon", "name:", ": value"])
def test_a_line_that_is_no_header_is_named(tmp_path, line):
    path = tmp_path / "headers"
    path.write_text(f"a: b\n{line}\n")
    with pytest.raises(ConfigError, match=r"headers:2: expected NAME: VALUE"):
        headers(path)


def test_a_headers_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"otlp.headers_file: .*none"):
        headers(tmp_path / "none")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    with pytest.raises(ConfigError, match=r"qeil-agent\[otlp\]"):
        export("http://127.0.0.1:1", [])
