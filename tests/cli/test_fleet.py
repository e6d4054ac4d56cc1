"""`qeil fleet keys` and `sign`, and `qeil diag`: what an operator does by hand."""

from __future__ import annotations

import json
import os
import tarfile

import pytest
import yaml
from click.testing import CliRunner

from agent.cli.diag import diag_command
from agent.cli.fleet import fleet_command
from agent.cli.main import run
from agent.mqtt import signing_key
from agent.mqtt.envelope import opened
from agent.mqtt.minisign import parse_public_key
from agent.schema.bundle import Offer
from agent.schema.command import Command
from agent.schema.desired import Desired
from agent.service.doctor import diag, diag_runs, redaction
from agent.storage import bundle_archive, share
from agent.storage.yaml_files import load_settings


def invoke(*arguments, **options):
    return CliRunner().invoke(fleet_command, [str(a) for a in arguments], catch_exceptions=False, **options)


@pytest.fixture
def key(tmp_path):
    result = invoke("keys", "generate", "--no-password", "--key", tmp_path / "fleet.key")
    text = result.output.split("[")[1].split("]")[0]
    return tmp_path / "fleet.key", parse_public_key(text)


def test_a_command_is_completed_signed_and_can_be_checked_with_the_printed_key(tmp_path, key):
    path, public = key
    (tmp_path / "c.yaml").write_text("tenant: acme\nboard: b1\ncommand: plan\n")
    message = invoke("sign", tmp_path / "c.yaml", "--key", path, "--expires", "60").output
    document, _ = opened(message.strip().encode(), [public])
    command = Command.model_validate(document)
    assert (command.command, round(command.exp - command.iat)) == ("plan", 60)
    again = json.loads(invoke("sign", tmp_path / "c.yaml", "--key", path).output)
    assert json.loads(again["doc"])["id"] != command.id


def test_a_desired_state_is_signed_too(tmp_path, key):
    (tmp_path / "d.yaml").write_text("tenant: acme\nboard: b1\nver: 3\npolicy: quiet\nmodels: [a]\n")
    message = invoke("sign", tmp_path / "d.yaml", "--key", key[0]).output
    document, _ = opened(message.strip().encode(), [key[1]])
    assert Desired.model_validate_json(json.dumps(document)).ver == 3


def test_what_a_board_would_refuse_is_not_signed(tmp_path, key, capsys):
    (tmp_path / "c.yaml").write_text("tenant: acme\nbord: b1\ncommand: plan\n")
    assert run(["fleet", "sign", str(tmp_path / "c.yaml"), "--key", str(key[0])]) == 78
    assert "did you mean board" in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text("tenant: acme\nboard: b1\ncommand: restart-lan\n")
    assert run(["fleet", "sign", str(tmp_path / "c.yaml"), "--key", str(key[0])]) == 78
    said = capsys.readouterr()
    assert "there is no command 'restart-lan' (did you mean restart-lane?)" in said.err
    assert not said.out
    assert run(["fleet", "exec", "board=b1", "sing-a-song", "--key", str(key[0]), "--url", "http://127.0.0.1:9"]) == 78
    assert "known: reload, plan" in capsys.readouterr().err


def test_the_message_can_go_to_a_file(tmp_path, key):
    (tmp_path / "c.json").write_text(json.dumps({"tenant": "acme", "board": "b1", "command": "plan"}))
    result = invoke("sign", tmp_path / "c.json", "--key", key[0], "--out", tmp_path / "m")
    assert "written to" in result.output
    assert opened((tmp_path / "m").read_bytes(), [key[1]])


def test_an_encrypted_key_asks_for_its_password(tmp_path, monkeypatch):
    monkeypatch.setattr(signing_key, "_OPS", 32768)
    monkeypatch.setattr(signing_key, "_MEMORY_BYTES", 16 * 1024 * 1024)
    path = tmp_path / "k"
    made = invoke("keys", "generate", "--key", path, input="hush\nhush\n")
    assert "trusted_keys" in made.output
    assert "hush" not in made.output
    (tmp_path / "c.yaml").write_text("tenant: acme\nboard: b1\ncommand: plan\n")
    assert '"sig"' in invoke("sign", tmp_path / "c.yaml", "--key", path, input="hush\n").output
    monkeypatch.setenv("QEIL_FLEET_PASSWORD", "hush")
    assert '"sig"' in invoke("sign", tmp_path / "c.yaml", "--key", path).output


def test_diag_without_an_agent_says_what_is_not_in_it(tmp_path, monkeypatch):
    journalctl = tmp_path / "bin" / "journalctl"
    journalctl.parent.mkdir()
    journalctl.write_text("#!/bin/sh\necho started: $*\necho password=hunter2\n")
    journalctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{journalctl.parent}:{os.environ['PATH']}")
    password = tmp_path / "password"
    password.write_text("hunter2")
    config = tmp_path / "agent.yaml"
    mqtt = {"host": "h", "username": "joe", "password_file": str(password)}
    config.write_text(yaml.safe_dump({"version": 1, "state_dir": str(tmp_path / "state"), "mqtt": mqtt}))
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "boot.json").write_text('{"note": "password=hunter2"}')
    arguments = ["--config", str(config), "--url", "http://127.0.0.1:9", "--json"]
    made = json.loads(CliRunner().invoke(diag_command, arguments).output)
    assert any(line.startswith("outbox.json") for line in made["missing"])
    assert "state/calibration.json: this board is not calibrated (qeil calibrate)" in made["missing"]
    assert "state/last-good-policy.json: not there" in made["missing"]
    with tarfile.open(made["path"]) as archive:
        texts = {n: archive.extractfile(n).read().decode() for n in archive.getnames()}
    assert not any("hunter2" in text or "joe" in text for text in texts.values())
    said = {name.rpartition("/")[2]: text for name, text in texts.items()}
    assert "started: --unit qeil.service" in said["journal.txt"]
    assert {"clock", "broker", "canary cpu"} & {item["check"] for item in json.loads(said["doctor.json"])}
    assert any(str(password) in text for text in texts.values())
    monkeypatch.setattr(diag_runs, "doctor", lambda *_, **__: "[]")
    plain = CliRunner().invoke(diag_command, arguments[:-1])
    assert "not in it: status" in plain.stderr
    for second in range(5):
        diag.collect(load_settings(config, {}), float(second), None, None)
    assert len(list((tmp_path / "state" / "diag").iterdir())) <= 3


@pytest.mark.parametrize(
    ("dirty", "secret"),
    [
        ("mqtts://joe:hunter2@broker/x", "hunter2"),
        ("Authorization: Bearer abcdefgh12345", "abcdefgh12345"),
        ("password: 'hunter2' rest", "hunter2"),
        ("api_key=hunter2", "hunter2"),
        ("-----BEGIN EC PRIVATE KEY-----\nhunter2\n-----END EC PRIVATE KEY-----", "hunter2"),
        ({"mqtt": {"password": "hunter2"}}, "hunter2"),
        ([{"api_key": ["hunter2"]}], "hunter2"),
    ],
)
def test_secrets_are_taken_out(dirty, secret):
    assert secret not in json.dumps(redaction.redacted(dirty))


def test_what_is_no_secret_stays():
    document = {"password_file": "/etc/p", "tokens": 5, "key": "http.port", "secret": None, "n": [1, "text"]}
    assert redaction.redacted(document) == document


def test_a_bundle_is_packed_and_its_offer_signed(tmp_path, key):
    policy = share.find_policy("quiet")
    (tmp_path / "m.onnx").write_bytes(b"model")
    out = tmp_path / "out"
    result = invoke(
        "bundle", policy, tmp_path / "m.onnx", "--name", "calm", "--ver", 3, "--tenant", "acme", "--key", key[0],
        "--out", out, "--trial", "windows=8",
    )  # fmt: skip
    assert "calm-3.tar" in result.output
    document, _ = opened((out / "calm-3.offer").read_bytes(), [key[1]])
    offer = Offer.model_validate_json(json.dumps(document))
    assert (offer.policy, offer.models, offer.trial.windows, offer.chunk_bytes) == ("quiet", ("m",), 8, 131072)
    bundle_archive.check(out / "calm-3.tar", offer.sha256, offer.bytes)
    assert set(bundle_archive.unpack(out / "calm-3.tar", out / "x").files("policies")) == {"quiet"}


def test_a_bundle_and_a_token_are_told_as_json_too(tmp_path, key):
    arguments = (share.find_policy("quiet"), "--name", "calm", "--ver", 3, "--key", key[0], "--out", tmp_path)
    told = json.loads(invoke("bundle", *arguments, "--json").output)
    assert told["archive"] == str(tmp_path / "calm-3.tar")
    document, _ = opened((tmp_path / "calm-3.offer").read_bytes(), [key[1]])
    assert told["offered"] == document
    made = json.loads(invoke("token", "ann", "--role", "operate", "--file", tmp_path / "tokens", "--json").output)
    assert (made["name"], made["role"]) == ("ann", "operate")
    assert made["token"] not in (tmp_path / "tokens").read_text()


def test_a_bundle_with_a_device_profile_is_for_boards_that_have_it(tmp_path, key):
    profile = share.find_profile("raspberry-pi-4")
    invoke("bundle", profile, "--name", "figures", "--ver", 4, "--key", key[0], "--out", tmp_path)
    document, _ = opened((tmp_path / "figures-4.offer").read_bytes(), [key[1]])
    offer = Offer.model_validate_json(json.dumps(document))
    assert (offer.profile, offer.profiles, offer.policy) == ("raspberry-pi-4", ("raspberry-pi-4",), None)


def test_what_no_board_could_use_is_not_packed(tmp_path, key, capsys):
    policies = [str(share.find_policy(name)) for name in ("quiet", "balanced")]
    base = ["--name", "n", "--ver", "1", "--out", str(tmp_path), "--key", str(key[0])]
    assert run(["fleet", "bundle", *policies, *base]) == 1
    assert "one policy" in capsys.readouterr().err
    boards = [str(share.find_profile(name)) for name in ("raspberry-pi-4", "raspberry-pi-5")]
    assert run(["fleet", "bundle", *boards, *base]) == 1
    assert "one device profile" in capsys.readouterr().err
    (tmp_path / "x.txt").write_text("x")
    assert run(["fleet", "bundle", str(tmp_path / "x.txt"), *base]) == 1
    assert "expected a policy" in capsys.readouterr().err
    assert run(["fleet", "bundle", policies[0], *base, "--trial", "windows"]) == 2
    assert run(["fleet", "bundle", policies[0], *base, "--trial", "windoze=3"]) == 78


@pytest.mark.parametrize(
    ("command", "args", "words"),
    [
        ("drain", "{wait_s: 9999}", "wait_s"),
        ("drain", "{on: yes please}", "on"),
        ("restart-lane", "{}", "accelerator"),
        ("set-log-level", "{level: loud}", "level"),
        ("calibrate", "{quik: true}", "quik"),
    ],
)
def test_arguments_that_no_board_would_take_are_not_signed(tmp_path, key, capsys, command, args, words):
    file = tmp_path / "c.yaml"
    file.write_text(f"tenant: acme\nboard: edge-01\ncommand: {command}\nargs: {args}\n")
    assert run(["fleet", "sign", str(file), "--key", str(key[0])]) == 78
    message = capsys.readouterr().err
    assert words in message
    assert f"{file}:4" in message or "accelerator" in message


def test_arguments_that_no_board_would_take_are_not_sent_either(key, capsys):
    order = ["board=b1", "drain", "wait_s=9999"]
    assert run(["fleet", "exec", *order, "--key", str(key[0]), "--url", "http://127.0.0.1:9"]) == 78
    assert "wait_s" in capsys.readouterr().err
