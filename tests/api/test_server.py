"""The server's life: binding, keys, certificates, slow and vanished clients, stopping."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from email.utils import parsedate_to_datetime

import httpx
import numpy as np
import pytest

from agent.api import server as server_module
from agent.api.server import HttpServer
from agent.errors import ConfigError
from agent.schema.settings import HttpSettings

REQUEST = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}'
INFER = "/v2/models/add1/infer"


def until(condition, timeout_s=60.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in time"
        time.sleep(0.01)


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request, monkeypatch):
    """Both event loops; the second as if uvloop were not installed."""
    if request.param == "asyncio":
        monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    else:
        pytest.importorskip("uvloop")
    return request.param


# ---------------------------------------------------------------------------------------------- binding


def test_port_zero_finds_a_port_and_the_url_names_it(loop, serve):
    server = serve()
    assert server.alive()
    assert server.port
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert httpx.get(f"{server.url}/v2/health/live").json() == {"live": True}


def test_a_port_in_use_names_its_holder_and_the_setting(server, service):
    second = HttpServer(service, HttpSettings(port=server.port))
    with pytest.raises(
        ConfigError, match=rf"port {server.port} on 127.0.0.1 is in use by .+ \(pid \d+\): set http.port"
    ):
        second.start()
    assert not second.alive()
    second.stop()


def test_a_host_that_is_not_ours_is_named(service, tmp_path):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    for host in ("203.0.113.7", "no.such.host.invalid"):
        with pytest.raises(ConfigError, match="is not an address of this machine"):
            HttpServer(service, HttpSettings(host=host, port=0, api_key_file=key)).start()


def test_ipv6_works(serve):
    server = serve(host="::1")
    assert server.url.startswith("http://[::1]:")
    assert httpx.get(f"{server.url}/v2/health/live").status_code == 200


def test_a_unix_socket_serves_and_is_removed(loop, serve, tmp_path):
    path = tmp_path / "qeil.sock"
    server = serve(unix_socket=path)
    assert server.url == f"unix:{path}"
    assert path.stat().st_mode & 0o777 == 0o660
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://any.name") as client:
        assert client.post(INFER, content=REQUEST).json()["outputs"][0]["data"] == [2, 3, 4, 5]
    server.stop()
    assert not path.exists()


def test_a_stale_socket_is_replaced_but_nothing_else_is(serve, service, tmp_path):
    path = tmp_path / "qeil.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    serve(unix_socket=path)
    with pytest.raises(ConfigError, match="is in use by another program"):
        HttpServer(service, HttpSettings(unix_socket=path)).start()
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(ConfigError, match="is not a socket"):
        HttpServer(service, HttpSettings(unix_socket=file)).start()
    assert file.read_text() == "precious"
    with pytest.raises(ConfigError, match="No such file"):
        HttpServer(service, HttpSettings(unix_socket=tmp_path / "none" / "s")).start()


# ---------------------------------------------------------------------------------------------- access


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text("correct-horse-battery\n")
    return path


def test_a_key_is_asked_for_everywhere_but_health_and_the_empty_page(serve, key_file):
    url = serve(api_key_file=key_file).url
    assert httpx.get(f"{url}/v2/health/ready").status_code == 200
    assert httpx.get(f"{url}/").status_code == 200
    for path in ("/status", "/metrics", "/events", "/v2", "/v2/models/add1", "/nowhere"):
        answer = httpx.get(url + path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "Authorization: Bearer KEY" in answer.json()["error"]
    key = "correct-horse-battery"
    for headers in ({"Authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key}"}, {"X-API-Key": key}):
        assert httpx.post(url + INFER, content=REQUEST, headers=headers).status_code == 200
    for headers in (
        {"Authorization": "Bearer wrong"},
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"X-API-Key": "é".encode()},
    ):
        assert httpx.post(url + INFER, content=REQUEST, headers=headers).json()["error"] == "the API key is wrong"
    assert httpx.get(url + "/status", headers={"Authorization": "Basic " + key}).status_code == 401


def test_keys_that_are_missing_or_short_stop_the_start(service, tmp_path):
    with pytest.raises(ConfigError, match=r"api_key_file: .*none: No such file"):
        HttpServer(service, HttpSettings(port=0, api_key_file=tmp_path / "none")).start()
    (tmp_path / "short").write_text("abc")
    with pytest.raises(ConfigError, match=r"has 3 characters.*openssl rand"):
        HttpServer(service, HttpSettings(port=0, api_key_file=tmp_path / "short")).start()


def test_without_a_key_web_pages_are_kept_out(http, server):
    rebound = http.get("/status", headers={"Host": "evil.example:8484"})
    assert rebound.status_code == 403
    assert "'evil.example:8484' is not a name of this agent" in rebound.json()["error"]
    for name in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8484", "10.0.0.7:8484", socket.gethostname()):
        assert http.get("/status", headers={"Host": name}).status_code == 200
    cross = {"Origin": "https://evil.example"}
    assert http.post("/v2/repository/models/add1/unload", headers=cross).status_code == 403
    same = {"Origin": server.url}
    assert http.post("/v2/repository/index", headers=same).status_code == 200


def test_tls_serves_https_and_bad_certificates_are_named(serve, service, tmp_path):
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        [shutil.which("openssl"), "req", "-x509",
         "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    server = serve(tls_certificate=certificate, tls_key=key)
    assert server.url.startswith("https://127.0.0.1:")
    trust = ssl.create_default_context(cafile=certificate)
    assert httpx.post(server.url + INFER, content=REQUEST, verify=trust).status_code == 200
    key.write_text("not a key")
    with pytest.raises(ConfigError, match=r"http.tls_certificate .* cannot be used"):
        HttpServer(service, HttpSettings(port=0, tls_certificate=certificate, tls_key=key)).start()


# ---------------------------------------------------------------------------------------------- clients that misbehave


def test_a_client_that_hangs_up_cancels_its_request(connect, loop, serve, service):
    service.hold = True
    client = connect(serve().port)
    client.send(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(REQUEST)))
    client.send(REQUEST)
    assert service.arrived.wait(60)
    client.close()
    until(lambda: service.held[0][1].cancelled())


def test_a_client_that_hangs_up_while_sending_is_forgotten(connect, server, service):
    client = connect(server.port)
    client.send(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n{" % INFER.encode())
    client.close()
    again = connect(server.port)
    assert again.post(INFER, REQUEST).status == 200
    again.close()
    assert len(service.requests) == 1


def test_a_slow_answer_arrives_and_another_thread_may_give_it(connect, loop, serve, service):
    service.hold = True
    client = connect(serve().port)
    threading.Thread(target=lambda: (service.arrived.wait(60), time.sleep(0.1), service.release())).start()
    assert client.post(INFER, REQUEST).status == 200
    assert client.post(INFER, REQUEST, X_Deadline_S="0.001").status == 200


def test_a_deadline_that_passes_is_a_504(connect, server, service):
    service.hold = True
    client = connect(server.port)
    assert client.post(INFER, REQUEST, X_Deadline_S="0.05").status == 504


def test_requests_in_a_pipeline_are_answered_in_order(connect, server, service):
    client = connect(server.port)
    one = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(REQUEST))
    one += REQUEST
    client.send(one + b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" + one)
    assert [client.answer().status for _ in range(3)] == [200, 200, 200]


def test_more_clients_than_allowed_are_told_so(connect, serve, service):
    server = serve(max_connections=1)
    service.hold = True
    first = connect(server.port)
    first.send(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(REQUEST)))
    first.send(REQUEST)
    assert service.arrived.wait(60)
    second = connect(server.port)
    answer = second.answer()
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert "http.max_connections" in answer.error
    assert second.at_end()


@pytest.mark.parametrize(
    "opening",
    [b"", b"POST /v2 HT", b"POST /v2/models/add1/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{"],
    ids=["silent", "half a header", "half a body"],
)
def test_a_request_that_does_not_arrive_is_cut_off(connect, serve, service, opening):
    client = connect(serve(receive_timeout_s=0.2).port)
    client.send(opening)
    answer = client.answer()
    assert answer.status == 408
    assert "did not arrive within 0.2" in answer.error
    assert client.at_end()
    assert service.requests == []


def test_an_idle_connection_and_a_slow_answer_are_not_cut_off(connect, serve, service):
    client = connect(serve(receive_timeout_s=0.5).port)
    assert client.post(INFER, REQUEST).status == 200
    time.sleep(1.0)
    service.hold = True
    threading.Thread(target=lambda: (service.arrived.wait(60), time.sleep(1.0), service.release())).start()
    assert client.post(INFER, REQUEST).status == 200


def test_a_client_that_does_not_read_its_answer_is_cut_off(connect, serve, service):
    service.answer_with = {"y": np.zeros(30_000_000, np.uint8)}
    server = serve(receive_timeout_s=0.2, max_connections=1)
    client = connect(server.port)
    body = REQUEST[:-1] + b',"parameters":{"binary_data_output":true}}'
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(body))
    client.send(head + body)

    def freed():
        with httpx.Client() as other:
            return other.get(f"{server.url}/v2/health/live").status_code == 200

    until(lambda: service.requests)
    until(freed)
    assert freed(), "the only place is not taken again"


@pytest.mark.parametrize(
    ("request_bytes", "status", "part"),
    [
        (b"hello\r\n\r\n", 400, "not a valid HTTP/1.1 request"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400, "not a valid HTTP/1.1 request"),
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400, "not a valid HTTP/1.1 request"),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400, "not a valid HTTP/1.1 request"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", 400, "not a valid HTTP/1.1 request"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431, "exceed 65536 bytes"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 431, "exceed 65536 bytes"),
    ],
    ids=["words", "bytes in the path", "length x", "length -5", "chunk", "headers", "path"],
)
def test_what_is_not_http_is_refused_in_json(connect, server, request_bytes, status, part):
    client = connect(server.port)
    client.send(request_bytes)
    answer = client.answer()
    while answer.status in {200, 405}:  # the headers were fine, the body is not
        answer = client.answer()
    assert answer.status == status
    assert part in answer.error
    assert client.at_end()


def test_expect_continue_is_not_encouraged_when_the_body_is_too_large(connect, server):
    client = connect(server.port)
    client.send(
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 9000000\r\n\r\n"
        % INFER.encode()
    )
    assert client.answer().status == 413


# ---------------------------------------------------------------------------------------------- stopping


def test_stopping_lets_the_answer_in_progress_finish(connect, serve, service):
    service.hold = True
    server = serve()
    client = connect(server.port)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.post(INFER, REQUEST)))
    asking.start()
    assert service.arrived.wait(60)
    stopping = threading.Thread(target=server.stop, args=(60.0,))
    stopping.start()
    time.sleep(0.3)
    service.release()
    asking.join(60)
    stopping.join(60)
    assert answers[0].status == 200
    assert not server.alive()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 1.0)


def test_stopping_does_not_wait_longer_than_told(connect, loop, serve, service):
    service.hold = True
    server = serve()
    client = connect(server.port)
    client.send(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(REQUEST)))
    client.send(REQUEST)
    assert service.arrived.wait(60)
    server.stop(0.2)
    assert service.held[0][1].cancelled()
    service.release()
    server.stop(0.2)
    assert not server.alive()


def test_an_idle_server_looks_at_nothing_until_its_date_is_due_and_still_ends_at_once(serve, monkeypatch):
    monkeypatch.setattr("agent.api.server.DATE_S", 3600.0)
    looks, own = [], server_module._Running.on_tick

    def look(self, counter):
        looks.append(self)
        return own(self, counter)

    monkeypatch.setattr(server_module._Running, "on_tick", look)
    server = serve()
    until(lambda: server._running in looks)
    time.sleep(0.3)
    assert looks.count(server._running) == 1
    server.stop(2.0)
    assert not server.alive()


def test_the_date_of_answers_goes_on(serve, monkeypatch):
    monkeypatch.setattr("agent.api.server.DATE_S", 0.01)
    server = serve()

    def date():
        return parsedate_to_datetime(httpx.get(f"{server.url}/status").headers["date"])

    first = date()
    until(lambda: date() != first)
    assert date() > first


def test_signals_stay_with_the_program(serve):
    import signal

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    serve()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_loop_that_cannot_be_made_is_reported(service, monkeypatch):
    def broken(self, sockets=None):
        raise OSError("no more file descriptors")

    monkeypatch.setattr(server_module.uvicorn.Server, "startup", broken)
    with pytest.raises(Exception, match="did not start: no more file descriptors"):
        HttpServer(service, HttpSettings(port=0)).start()
