"""Doctor: the port, the broker, certificates and secrets."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from agent.api.server import HttpServer
from agent.schema.settings import HttpSettings, MqttSettings, MqttTls, OtlpSettings
from agent.service.doctor import doctor_links
from agent.service.doctor.certificates import expires_at_s
from agent.service.doctor.doctor_broker import connect_packet
from tests.fakes_service import FakeService
from tests.service.test_doctor import NOW_S, by_check, settings


def made_certificate(folder, days):
    """A self-signed certificate and its key, and when it ends according to openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    certificate, key = folder / f"c{days}.pem", folder / f"k{days}.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-keyout", key, "-out", certificate, "-days", str(days), "-subj", "/CN=broker.invalid"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    end = subprocess.run(
        [openssl, "x509", "-noout", "-enddate", "-in", certificate], check=True, capture_output=True, text=True
    )
    return certificate, key, ssl.cert_time_to_seconds(end.stdout.strip().removeprefix("notAfter="))


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    return made_certificate(tmp_path_factory.mktemp("pem"), 365)


def test_a_free_port_and_a_unix_socket_are_fine_and_a_foreign_address_is_not(tmp_path):
    assert doctor_links.http_port(settings(tmp_path)).result == "ok"
    assert doctor_links.http_port(settings(tmp_path, http=HttpSettings(unix_socket=tmp_path / "s"))).result == "ok"
    foreign = HttpSettings(host="192.0.2.1", api_key_file=tmp_path / "k")
    assert doctor_links.http_port(settings(tmp_path, http=foreign)).result == "fail"


@pytest.mark.parametrize(("status", "result"), [(200, "ok"), (404, "fail")])
def test_a_taken_port_is_fine_when_an_agent_answers_there(tmp_path, status, result):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, format, *args):  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        found = doctor_links.http_port(settings(tmp_path, http=HttpSettings(port=server.server_port)))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

    assert found.result == result


@contextlib.contextmanager
def answering(answer):
    """A server that reads a CONNECT and answers the bytes."""
    heard = []

    def serve():
        connection, _ = listener.accept()
        with connection:
            heard.append(connection.recv(4096))
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()
    assert heard[0][2:8] == b"\x00\x04MQTT"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\x20\x03\x00\x86\x00", "wrong user name or password"),
        (b"\x20\x03\x00\x87\x00", "not authorised"),
        (b"\x20\x02\x00\x01", "does not speak MQTT 5"),
        (b"\x20\x03\x00\x99\x00", "reason 0x99"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no MQTT broker"),
    ],
)
def test_a_broker_that_refuses_is_quoted(tmp_path, answer, words):
    password = tmp_path / "password"
    password.write_text("secret\n")
    with answering(answer) as port:
        mqtt = MqttSettings(host="127.0.0.1", port=port, username="board", password_file=password)
        result = doctor_links.broker(settings(tmp_path, mqtt=mqtt))

    assert (result.check, result.result) == ("broker", "fail")
    assert words in result.message


def test_a_server_that_hangs_up_is_not_reachable(tmp_path):
    with answering(b"") as port:
        result = doctor_links.broker(settings(tmp_path, mqtt=MqttSettings(host="127.0.0.1", port=port)))

    assert result.result == "warn"


def test_the_connect_packet_carries_user_and_password_and_its_own_length():
    packet = connect_packet("u" * 200, b"p")

    assert packet[0] == 0x10
    assert (packet[1] & 0x7F) + (packet[2] << 7) == len(packet) - 3
    assert packet[3:10] == b"\x00\x04MQTT\x05"
    assert packet[10] == 0xC2
    assert packet.endswith(b"u" * 200 + b"\x00\x01p")


def test_a_socket_that_cannot_be_made_is_told(tmp_path):
    def at(path):
        return doctor_links.http_port(settings(tmp_path, http=HttpSettings(unix_socket=path)))

    assert at(tmp_path / "q.sock").result == "ok"
    assert "no socket can be made" in at(tmp_path / "gone" / "q.sock").message
    assert "longer than" in at(tmp_path / ("x" * 120)).message


def test_the_broker_is_tried_and_its_absence_is_no_failure(tmp_path):
    with answering(b"\x20\x03\x00\x00\x00") as port:
        there = MqttSettings(host="127.0.0.1", port=port)
        assert doctor_links.broker(settings(tmp_path, mqtt=there)).result == "ok"
    result = doctor_links.broker(settings(tmp_path, mqtt=there))
    assert result.result == "warn"
    assert "not reachable" in result.message
    assert doctor_links.broker(settings(tmp_path)).result == "ok"


def serve_tls_once(listener, pem):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem[0], pem[1])
    connection, _ = listener.accept()
    try:
        context.wrap_socket(connection, server_side=True).close()
    except OSError:
        connection.close()


def test_a_broker_whose_certificate_is_not_trusted_fails_with_the_reason(tmp_path, pem):
    other = tmp_path / "other.pem"
    other.write_text(pem[0].read_text())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_tls_once, args=(listener, pem))
        thread.start()
        mqtt = MqttSettings(
            host="127.0.0.1", port=listener.getsockname()[1],
            tls=MqttTls(ca=other, certificate=pem[0], key=pem[1]),
        )  # fmt: skip
        result = doctor_links.broker(settings(tmp_path, mqtt=mqtt))
        thread.join()

    assert result.result == "fail"
    assert "TLS is refused" in result.message
    assert "127.0.0.1" in result.message


@pytest.mark.parametrize("days", [365, 30_000])  # two-digit years until 2049, four-digit ones after
def test_the_end_of_a_certificate_is_what_openssl_says(tmp_path, days):
    certificate, _, ends_s = made_certificate(tmp_path, days)

    assert expires_at_s(certificate) == ends_s


@pytest.mark.parametrize(("left_s", "result"), [(40 * 86_400, "ok"), (86_400, "warn"), (-1, "fail")])
def test_a_certificate_that_ends_soon_is_a_warning_and_an_ended_one_a_failure(tmp_path, pem, left_s, result):
    http = HttpSettings(tls_certificate=pem[0], tls_key=pem[1])

    results = by_check(doctor_links.certificates(settings(tmp_path, http=http), pem[2] - left_s))

    assert (results["http certificate"].result, results["http key"].result) == (result, "ok")


def test_unreadable_damaged_and_foreign_certificates_fail(tmp_path, pem):
    text, damaged, key = tmp_path / "t.pem", tmp_path / "d.pem", tmp_path / "wrong-key.pem"
    text.write_text("hello")
    damaged.write_text("-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n")
    key.write_text("no key")

    def checked(certificate, key):
        tls = MqttTls(ca=pem[0], certificate=certificate, key=key)
        mqtt = MqttSettings(host="b", tls=tls, password_file=tmp_path / "none")
        return by_check(doctor_links.certificates(settings(tmp_path, mqtt=mqtt), pem[2] - 1e7))

    for certificate in (text, damaged, tmp_path / "absent.pem"):
        assert checked(certificate, pem[1])["broker certificate"].result == "fail"
    assert checked(pem[0], key)["broker key"].result == "fail"
    assert checked(pem[0], tmp_path / "absent.pem")["broker key"].result == "fail"
    assert checked(pem[0], pem[1])["broker password"].result == "fail"


def test_an_empty_secret_is_a_failure(tmp_path):
    key = tmp_path / "key"
    key.write_text("\n")
    key.chmod(0o600)
    wanted = settings(tmp_path, http=HttpSettings(api_key_file=key))
    assert by_check(doctor_links.certificates(wanted, NOW_S))["api key"].message == f"{key} is empty"


def test_a_collector_that_nobody_runs_is_told_and_one_that_listens_is_fine(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/metrics"
        wanted = settings(tmp_path, otlp=OtlpSettings(endpoint=url))
        assert "not reachable" in by_check(doctor_links.collector(wanted))["collector"].message
        listener.listen()
        assert by_check(doctor_links.collector(wanted))["collector"].result == "ok"
    assert doctor_links.collector(settings(tmp_path)) == []
    nonsense = settings(tmp_path, otlp=OtlpSettings(endpoint="http://h:99999/"))
    assert by_check(doctor_links.collector(nonsense))["collector"].result == "warn"


def test_a_key_that_is_too_short_for_the_agent_is_a_failure(tmp_path):
    key = tmp_path / "key"
    key.write_text("abc\n")
    key.chmod(0o600)
    row = by_check(doctor_links.certificates(settings(tmp_path, http=HttpSettings(api_key_file=key)), NOW_S))["api key"]
    assert (row.result, row.mend) == ("fail", f"openssl rand -hex 32 > {key}")


@pytest.mark.parametrize(("text", "result"), [("X-Token: abc\n", "ok"), ("abc\n", "fail")])
def test_a_headers_file_whose_lines_are_no_headers_is_told_before_the_agent_refuses_it(tmp_path, text, result):
    file = tmp_path / "headers"
    file.write_text(text)
    file.chmod(0o600)
    wanted = settings(tmp_path, otlp=OtlpSettings(endpoint="http://127.0.0.1:9/v1/metrics", headers_file=file))
    row = by_check(doctor_links.certificates(wanted, NOW_S))["collector's headers"]
    assert row.result == result
    assert result == "ok" or (str(file) in row.message and "NAME: VALUE" in row.mend)


def test_a_certificate_that_does_not_count_yet_fails(tmp_path, pem):
    http = HttpSettings(tls_certificate=pem[0], tls_key=pem[1])
    row = by_check(doctor_links.certificates(settings(tmp_path, http=http), pem[2] - 367 * 86_400))["http certificate"]
    assert row.result == "fail"
    assert "counts only in 2.0 days" in row.message


def test_a_file_that_stands_where_the_socket_should_be_is_told(tmp_path):
    (tmp_path / "s").write_text("")
    row = doctor_links.http_port(settings(tmp_path, http=HttpSettings(unix_socket=tmp_path / "s")))
    assert (row.result, "is no socket" in row.message, str(tmp_path / "s") in row.mend) == ("fail", True, True)


def test_an_agent_that_serves_tls_is_no_false_alarm(tmp_path, pem):
    http = HttpSettings(port=0, tls_certificate=pem[0], tls_key=pem[1])
    server = HttpServer(FakeService(), http)
    server.start()
    try:
        wanted = settings(tmp_path, http=http.model_copy(update={"port": server.port}))
        assert doctor_links.http_port(wanted).message == f"an agent answers on 127.0.0.1:{server.port}"
    finally:
        server.stop(2.0)


def test_a_secret_that_others_can_read_is_a_warning(tmp_path):
    secret = tmp_path / "key"
    secret.write_text("s" * 16)
    for mode, result in ((0o644, "warn"), (0o600, "ok")):
        secret.chmod(mode)
        found = doctor_links.certificates(settings(tmp_path, http=HttpSettings(api_key_file=secret)), NOW_S)
        assert [r.result for r in found] == [result]
