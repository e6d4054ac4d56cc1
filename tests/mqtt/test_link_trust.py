"""The link against a real mosquitto: passwords, certificates, and somebody else with our id."""

from __future__ import annotations

import gc
import shutil
import ssl
import subprocess
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.errors import LinkError
from agent.mqtt.credentials import Credentials
from agent.schema.settings import MqttSettings
from tests.broker import PATH, Broker
from tests.mqtt.ended import end
from tests.mqtt.linked import Board, certificates, make_link
from tests.mqtt.stack import until


@pytest.mark.broker
def test_a_second_client_with_our_id_is_noticed_damped_and_told(broker, tmp_path):
    board = Board(tmp_path, broker.port)
    thieves = []
    for _ in range(4):  # earlier thieves come back by themselves: the storm may be told before the fourth is sent
        until(lambda: board.link.status().connected or board.link.storm)
        if board.link.storm:
            break
        ended = board.link.counters["disconnects"]
        thief = paho.Client(CallbackAPIVersion.VERSION2, client_id=board.link.client_id, protocol=paho.MQTTv5)
        thief.connect("127.0.0.1", broker.port)
        thief.loop_start()
        thieves.append(thief)
        until(lambda ended=ended: board.link.counters["disconnects"] > ended)
    until(lambda: board.link.storm)
    assert "another client may use our client id acme-b1" in board.link.storm
    assert board.link.alive()
    board.close()
    until(lambda: not board.link._thread.is_alive())  # long before the pause that damps is over
    for thief in thieves:
        end(thief)


@pytest.mark.broker
def test_user_and_password_are_used_and_a_wrong_one_is_told(tmp_path):
    passwords = tmp_path / "passwords"
    tool = shutil.which("mosquitto_passwd", path=PATH)
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run([tool, "-b", "-c", str(passwords), "b1", "secret"], check=True, capture_output=True)
    made = Broker(tmp_path, f"password_file {passwords}", anonymous=False)
    (tmp_path / "good").write_text("secret\n")
    (tmp_path / "bad").write_text("wrong")
    link = make_link(made.port, username="b1", password_file=tmp_path / "good")
    link.start()
    until(lambda: link.status().connected)
    link.stop()
    link = make_link(made.port, username="b1", password_file=tmp_path / "bad")
    link.start()
    until(lambda: link.status().last_error)
    assert "the broker refused us: Not authorized" in link.status().last_error
    until(lambda: link.counters["attempts"] >= 2)
    assert not link.status().connected
    link.stop()
    made.stop()


@pytest.mark.broker
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho drops a socket whose TLS failed
def test_mutual_tls_connects_and_a_foreign_authority_is_told(tmp_path):
    ca, board, foreign = certificates(tmp_path)
    options = (
        f"cafile {ca}.crt\ncertfile {board}.crt\nkeyfile {board}.key\nrequire_certificate true\n"
        "use_identity_as_username true"
    )
    made = Broker(tmp_path, options, anonymous=False)
    tls = {"ca": f"{ca}.crt", "certificate": f"{board}.crt", "key": f"{board}.key"}
    backend_rows = Board(tmp_path, made.port, host="localhost", tls=tls, delete_on="puback")
    for i in range(200):
        backend_rows.outbox.append("tlm", {"i": i, "x": "y" * 300})
    until(lambda: backend_rows.outbox.counters["acknowledged"] == 200)
    backend_rows.close()
    link = make_link(made.port, host="localhost", tls={**tls, "ca": f"{foreign}.crt"})
    link.start()
    until(lambda: link.status().last_error)
    assert "certificate verify failed" in link.status().last_error
    link.stop()
    made.stop()
    gc.collect()  # what paho dropped warns here and not in a later test


def test_files_that_cannot_be_used_are_one_clear_error(tmp_path):
    with pytest.raises(LinkError, match=r"mqtt\.password_file: .*none"):
        make_link(9, username="b1", password_file=tmp_path / "none")
    (tmp_path / "ca").write_text("no certificate")
    with pytest.raises(LinkError, match=r"mqtt\.tls: "):
        make_link(9, tls={"ca": str(tmp_path / "ca")})


def test_tls_files_are_read_again_only_when_one_of_them_has_changed(tmp_path):
    ca, board, _ = certificates(tmp_path)
    renewed = tmp_path / "renewed.key"
    tls = {"ca": f"{ca}.crt", "certificate": f"{board}.crt", "key": f"{board}.key"}
    credentials = Credentials(MqttSettings(host="localhost", port=9, tenant="acme", tls=tls))

    def shown():
        client = paho.Client(CallbackAPIVersion.VERSION2)
        credentials.show(client)
        return client._ssl_context

    first = shown()
    assert shown() is first
    assert first.check_hostname
    assert first.verify_mode is ssl.CERT_REQUIRED

    renewed.write_bytes(Path(f"{board}.key").read_bytes())
    renewed.replace(f"{board}.key")
    second = shown()
    assert second is not first
    assert shown() is second

    Path(f"{board}.key").unlink()
    with pytest.raises(LinkError, match=r"mqtt\.tls: .*check the files"):
        shown()
