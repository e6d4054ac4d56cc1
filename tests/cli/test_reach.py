"""One place knows how to reach an agent: behind a key, TLS or a unix socket, as its settings or the variables say."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.api.server import HttpServer
from agent.cli.main import run
from agent.cli.reach import DEFAULT_URL, Reach, find
from agent.errors import QeilError
from agent.schema.settings import HttpSettings
from tests.fakes_service import FakeService

KEY = "k" * 32
COMMANDS = (["infer", "add1"], ["models", "load", "add1", "--wait", "1"])


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch, tmp_path):
    for name in ("QEIL_URL", "QEIL_API_KEY", "QEIL_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QEIL_CONFIG", str(tmp_path / "agent.yaml"))


@pytest.fixture
def serve(tmp_path):
    """Start an agent's edge with these settings, which its settings file says too."""
    started = []

    def start(**settings):
        server = HttpServer(FakeService(), HttpSettings(**{"port": 0, **settings}))
        server.start()
        started.append(server)
        section = {k: str(v) for k, v in settings.items()} | ({"port": server.port} if server.port else {})
        (tmp_path / "agent.yaml").write_text(json.dumps({"version": 1, "http": section}))
        return server

    yield start
    for server in started:
        server.stop(2.0)


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    return path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=board", "-addext", "subjectAltName=DNS:board,DNS:localhost",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem"


def tls(certificate):
    return {"tls_certificate": certificate, "tls_key": certificate.with_name("key.pem")}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_the_settings_alone_lead_to_an_agent_behind_a_key(serve, key_file, command):
    serve(api_key_file=key_file)
    assert run(command) in {0, 1}
    assert run(["infer", "add1"]) == 0


def test_the_settings_alone_lead_to_a_unix_socket(serve, tmp_path, key_file):
    serve(unix_socket=tmp_path / "q.sock", api_key_file=key_file)
    assert run(["infer", "add1"]) == 0


def test_the_settings_alone_lead_to_tls_whatever_name_the_certificate_carries(serve, certificate):
    serve(**tls(certificate))
    assert run(["infer", "add1"]) == 0


def test_a_unix_socket_may_be_given_as_url(serve, tmp_path, monkeypatch):
    serve(unix_socket=tmp_path / "q.sock")
    monkeypatch.setenv("QEIL_CONFIG", str(tmp_path / "none.yaml"))
    assert run(["infer", "add1", "--url", f"unix:{tmp_path / 'q.sock'}"]) == 0
    monkeypatch.setenv("QEIL_URL", f"unix://{tmp_path / 'q.sock'}")
    assert run(["infer", "add1"]) == 0


def test_without_the_key_the_variable_is_named(serve, key_file, capsys, monkeypatch, tmp_path):
    server = serve(api_key_file=key_file)
    monkeypatch.setenv("QEIL_CONFIG", str(tmp_path / "none.yaml"))
    assert run(["infer", "add1", "--url", server.url]) == 1
    assert "set QEIL_API_KEY to it" in capsys.readouterr().err
    monkeypatch.setenv("QEIL_API_KEY", "wrong" * 8)
    assert run(["infer", "add1", "--url", server.url]) == 1
    assert "QEIL_API_KEY is not what the agent's http.api_key_file holds" in capsys.readouterr().err
    monkeypatch.setenv("QEIL_API_KEY", KEY)
    assert run(["infer", "add1", "--url", server.url]) == 0


def test_a_certificate_that_is_not_trusted_names_the_option_and_the_option_helps(
    serve, certificate, capsys, monkeypatch, tmp_path
):
    server = serve(**tls(certificate))
    monkeypatch.setenv("QEIL_CONFIG", str(tmp_path / "none.yaml"))
    url = f"https://localhost:{server.port}"
    assert run(["infer", "add1", "--url", url]) == 1
    message = capsys.readouterr().err
    assert "is not trusted" in message
    assert "--ca FILE or QEIL_CA" in message
    assert run(["infer", "add1", "--url", url, "--ca", str(certificate)]) == 0
    monkeypatch.setenv("QEIL_CA", str(certificate))
    assert run(["infer", "add1", "--url", url]) == 0
    assert run(["infer", "add1", "--url", f"https://127.0.0.1:{server.port}"]) == 1
    assert "is for another name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("there", "asked", "hint"), [("http", "https", "try --url http://"), ("https", "http", "use --url https://")]
)
def test_the_wrong_scheme_is_said(serve, certificate, capsys, there, asked, hint):
    server = serve(**(tls(certificate) if there == "https" else {}))
    assert run(["infer", "add1", "--url", f"{asked}://localhost:{server.port}"]) == 1
    assert hint in capsys.readouterr().err


def test_a_ca_file_that_is_none_is_said(capsys, tmp_path):
    (tmp_path / "ca.pem").write_text("x")
    assert run(["status", "--url", "https://127.0.0.1:9", "--ca", str(tmp_path / "ca.pem")]) == 1
    assert "ca.pem" in capsys.readouterr().err


def test_the_key_of_the_settings_goes_to_no_other_address(key_file, tmp_path):
    config = tmp_path / "agent.yaml"
    config.write_text(json.dumps({"version": 1, "http": {"api_key_file": str(key_file)}}))
    assert find(None, None, config, {}).api_key == KEY
    assert find(DEFAULT_URL, None, config, {}).api_key == KEY
    assert find("http://elsewhere:8484", None, config, {}).api_key is None
    assert find(None, None, config, {"QEIL_URL": "http://elsewhere:8484"}).api_key is None


@pytest.mark.parametrize(
    ("http", "url"),
    [
        ({}, DEFAULT_URL),
        ({"host": "0.0.0.0", "port": 9}, "http://127.0.0.1:9"),
        ({"host": "::"}, "http://[::1]:8484"),
        ({"port": 0}, DEFAULT_URL),
        ({"tls_certificate": "/c", "tls_key": "/k", "host": "edge"}, "https://edge:8484"),
        ({"unix_socket": "/run/qeil/q.sock"}, "unix:/run/qeil/q.sock"),
    ],
)
def test_the_address_is_the_settings(tmp_path, http, url):
    config = tmp_path / "a.yaml"
    config.write_text(json.dumps({"version": 1, "http": http, "nonsense": 1}))  # a mistake elsewhere keeps nobody out
    assert find(None, None, config, {}).url == url


def test_variables_of_settings_count_and_a_url_counts_more(tmp_path):
    environ = {"QEIL_HTTP_PORT": "7", "QEIL_CONFIG": str(tmp_path / "none")}
    assert find(environ=environ).url == "http://127.0.0.1:7"
    assert find(environ={**environ, "QEIL_URL": "http://b:1"}).url == "http://b:1"
    assert find("http://c:2", environ={**environ, "QEIL_URL": "http://b:1"}).url == "http://c:2"


def test_a_key_that_cannot_be_read_is_told_with_the_refusal(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text(json.dumps({"version": 1, "http": {"api_key_file": str(tmp_path / "gone")}}))
    found = find(None, None, config, {})
    assert found.api_key is None
    assert str(tmp_path / "gone") in found.key_trouble


@pytest.mark.parametrize("url", ["ftp://a", "unix:relative", "http://a:b", "http://a/b"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(QeilError, match="expected http://HOST:PORT"):
        Reach(url)


def test_a_socket_that_is_not_there_is_one_line(capsys, tmp_path):
    assert run(["status", "--url", f"unix:{tmp_path / 'none.sock'}"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_every_command_that_asks_an_agent_takes_the_same_options():
    sources = {p.name: p.read_text() for p in (Path(__file__).parents[2] / "agent/cli").glob("*.py")}
    commands = {n for n, text in sources.items() if "AgentClient(" in text and "@click.command" in text}
    assert commands >= {"status.py", "infer.py", "top.py", "diag.py", "models_load.py"}
    assert [n for n in sorted(commands) if "@reach_options" not in sources[n]] == [
        "demo.py"
    ]  # asks an agent of its own
