"""What the installed service may open, told without being it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from agent.schema.settings import HttpSettings, ModelEntry, Settings
from agent.service.doctor import doctor_service, doctor_settings, service_unit
from agent.service.doctor.service_unit import Account

SHIPPED = Path(__file__).parents[2] / "systemd" / "qeil.service"
ME = pwd.getpwuid(os.getuid()).pw_name
STRANGER = Account("stranger", 54_321, frozenset({54_321}))


def install(root: Path, **drop_in: str) -> Path:
    """The shipped unit for a user of this machine, with a drop-in; returns the settings file it names."""
    folder = root / "usr/lib/systemd/system"
    folder.mkdir(parents=True)
    (folder / "qeil.service").write_text(SHIPPED.read_text().replace("User=qeil", f"User={drop_in.pop('User', ME)}"))
    (root / "etc/systemd/system/qeil.service.d").mkdir(parents=True)
    lines = "".join(f"{key}={value}\n" for key, value in drop_in.items())
    (root / "etc/systemd/system/qeil.service.d/mine.conf").write_text(f"# mine\n[Service]\n{lines}")
    config = root / "etc/qeil/agent.yaml"
    config.parent.mkdir()
    config.write_text("version: 1\n")
    return config


def settings(root: Path, **changes) -> Settings:
    return Settings(version=1, state_dir=Path("/var/lib/qeil"), http=HttpSettings(port=8484)).model_copy(update=changes)


def told(root, config, **changes):
    return [(r.result, r.message) for r in doctor_service.service(settings(root, **changes), config, root)]


def test_without_a_unit_or_for_other_settings_nothing_is_said(tmp_path):
    assert told(tmp_path, tmp_path / "etc/qeil/agent.yaml") == []
    config = install(tmp_path, ProtectHome="no", PrivateTmp="no")
    assert told(tmp_path, tmp_path / "mine.yaml") == []
    assert told(tmp_path, None) == []
    assert doctor_service.serves(config, tmp_path)
    assert not doctor_service.serves(tmp_path / "mine.yaml", tmp_path)
    advice = doctor_settings.calibrated(settings(tmp_path, state_dir=tmp_path / "s"), None, 0.0, in_service=True).mend
    assert advice.startswith("sudo -u qeil qeil calibrate")  # what root writes there the service cannot read
    assert [result for result, _ in told(tmp_path, config)] == ["ok"]


def test_a_user_that_was_never_made_stops_the_service(tmp_path):
    config = install(tmp_path, User="nobody-of-that-name")

    assert [(r, "cannot start" in m) for r, m in told(tmp_path, config)] == [("fail", True)]


def test_a_model_in_a_home_is_hidden_from_the_service(tmp_path):
    config = install(tmp_path, PrivateTmp="no")
    models = (ModelEntry(name="m", path=Path("/home/someone/m.onnx")),)

    assert any("hidden from the service (ProtectHome=yes)" in m for _, m in told(tmp_path, config, models=models))


def test_a_privileged_port_is_not_the_services(tmp_path, monkeypatch):
    config = install(tmp_path, ProtectHome="no", PrivateTmp="no")
    monkeypatch.setattr(service_unit.ServiceUnit, "account", lambda _self: STRANGER)
    low = HttpSettings(port=80)

    assert any("port 80 is root's" in m for _, m in told(tmp_path, config, http=low))
    (tmp_path / "etc/systemd/system/qeil.service.d/cap.conf").write_text("AmbientCapabilities=CAP_NET_BIND_SERVICE\n")
    assert not any("port 80" in m for _, m in told(tmp_path, config, http=low))


def test_a_state_folder_outside_of_what_the_unit_opens_is_read_only(tmp_path):
    config = install(tmp_path, ProtectHome="no", PrivateTmp="no")

    assert any("read-only for the service" in m for _, m in told(tmp_path, config, state_dir=Path("/srv/qeil")))
    (tmp_path / "etc/systemd/system/qeil.service.d/rw.conf").write_text("ReadWritePaths=/srv/qeil\n")
    assert not any("read-only" in m for _, m in told(tmp_path, config, state_dir=Path("/srv/qeil")))


def test_files_of_another_user_are_told_with_the_command_that_opens_them(tmp_path, monkeypatch):
    monkeypatch.setattr(service_unit.ServiceUnit, "account", lambda _self: STRANGER)
    state = tmp_path / "state"
    config = install(tmp_path, ProtectHome="no", PrivateTmp="no", ReadWritePaths=str(state))
    secret = tmp_path / "m.onnx"
    for path in (secret, state):
        path.mkdir() if path is state else path.write_text("x")
        path.chmod(0o700)
    wrong = settings(tmp_path, state_dir=state, models=(ModelEntry(name="m", path=secret),))
    results = doctor_service.service(wrong, config, tmp_path)

    assert {r.result for r in results} == {"fail"}
    assert any("model m:" in r.message and "chgrp -R stranger" in r.mend for r in results)
    assert any("cannot be written" in r.message and f"chown -R stranger: {state}" in r.mend for r in results)


@pytest.mark.parametrize(("private", "words"), [("yes", "does not see renderD128"), ("no", "may not open renderD128")])
def test_device_nodes_that_the_service_does_not_get_are_told(tmp_path, monkeypatch, private, words):
    monkeypatch.setattr(service_unit.ServiceUnit, "account", lambda _self: STRANGER)
    config = install(tmp_path, ProtectHome="no", PrivateTmp="no", PrivateDevices=private)
    node = tmp_path / "dev/dri/renderD128"
    node.parent.mkdir(parents=True)
    node.write_text("")
    node.chmod(0o660)
    results = [r for r in doctor_service.service(settings(tmp_path), config, tmp_path) if words in r.message]

    assert [r.result for r in results] == ["warn"]
    assert ("npu.conf" in results[0].mend) is (private == "yes")
    assert "stranger" in results[0].mend or private == "yes"


def test_permission_bits_count_for_owner_group_and_others_in_that_order(tmp_path):
    file = tmp_path / "f"
    file.write_text("x")
    facts = file.stat()
    file.chmod(0o046)
    owner = Account("o", facts.st_uid or 7, frozenset())
    group = Account("g", 54_321, frozenset({facts.st_gid}))

    assert owner._granted(file, os.R_OK) is (facts.st_uid == 0)  # uid 7 is one of the others of root's file
    assert group._granted(file, os.R_OK)
    assert not group._granted(file, os.W_OK)
    assert STRANGER._granted(file, os.W_OK)
    assert STRANGER.may(file / "gone", os.R_OK) is STRANGER._granted(file, os.X_OK) is False


def test_the_last_value_of_a_directive_wins_and_lists_add_up(tmp_path):
    install(tmp_path, ProtectHome="no", SupplementaryGroups="video", WatchdogSec="3")
    (tmp_path / "etc/systemd/system/qeil.service.d/z.conf").write_text("SupplementaryGroups=render\nProtectHome=\n")
    unit = service_unit.installed(tmp_path)

    assert unit is not None
    assert unit.values["SupplementaryGroups"] == ("video", "render")
    assert unit.one("WatchdogSec") == "3"
    assert unit.hides(Path("/home/a/m.onnx")) == ""
    assert unit.config == Path("/etc/qeil/agent.yaml")
