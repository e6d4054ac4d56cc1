"""The unit file: accepted by systemd, hardened, and in agreement with the command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "systemd" / "qeil.service"


def analyze(*arguments: str) -> subprocess.CompletedProcess:
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is not installed, and CI must have it")
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def test_systemd_accepts_the_unit_without_a_word():
    done = analyze("verify", str(UNIT))
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_the_exposure_stays_below_one_and_a_half():
    done = analyze("security", "--offline=true", "--threshold=15", str(UNIT))
    assert done.returncode == 0, done.stdout[-300:]


def test_the_unit_starts_a_command_that_exists_and_knows_its_exit_code():
    from agent.cli.main import COMMANDS, EXIT_CONFIG

    text = UNIT.read_text()
    assert re.search(r"^ExecStart=.*qeil (\w+)", text, re.MULTILINE).group(1) in COMMANDS
    assert f"RestartPreventExitStatus={EXIT_CONFIG}" in text
    assert "Type=notify" in text
    assert "WatchdogSec=" in text


def test_users_and_folders_of_the_service_are_declared():
    assert "u qeil" in (ROOT / "systemd" / "sysusers.conf").read_text()
    assert "/var/lib/qeil" in (ROOT / "systemd" / "tmpfiles.conf").read_text()
    assert re.search(r"^User=qeil$", UNIT.read_text(), re.MULTILINE)


def test_the_door_to_power_modes_is_where_the_agent_knocks_and_shut_to_others():
    from agent.sensors.power_modes import DOOR

    opened = (ROOT / "systemd" / "qeil-power-mode.socket").read_text()
    assert f"ListenStream=/{DOOR}\n" in opened
    assert "SocketGroup=qeil\nSocketMode=0660\nAccept=yes\n" in opened
    build = (ROOT / "deploy/debian/build").read_text()
    answered_by = re.search(
        r"^ExecStart=/(\S+)$", (ROOT / "systemd/qeil-power-mode@.service").read_text(), re.MULTILINE
    )
    assert f'("systemd/qeil-power-mode", "{answered_by.group(1)}")' in build
