"""Which actuators a profile gets, and what a run under another profile left behind."""

from __future__ import annotations

import json

from agent.sensors.actuators import SysfsActuator
from agent.sensors.power_modes import PowerModeActuator
from agent.service import assembly

CLOCK = "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq"


def test_each_kind_of_actuator_is_found_and_says_why_it_cannot_set_anything(tmp_path):
    pi = assembly.actuators(assembly.named_profile("raspberry-pi-5"), tmp_path / "state", tmp_path)
    jetson = assembly.actuators(assembly.named_profile("jetson-orin-nano"), tmp_path / "state", tmp_path)
    assert [type(a) for a in pi.values()] == [SysfsActuator]
    assert [(name, type(a)) for name, a in jetson.items()] == [("gpu", PowerModeActuator)]
    assert "nvpmodel.conf" in jetson["gpu"].problem


def test_what_a_run_under_another_profile_set_is_put_back(tmp_path):
    (tmp_path / CLOCK).parent.mkdir(parents=True)
    (tmp_path / CLOCK).write_text("1000000\n")
    memo = tmp_path / "state/operating-point.sys-devices-gone.json"
    memo.parent.mkdir()
    memo.write_text(json.dumps({CLOCK: 2400000}))
    assembly.actuators(assembly.named_profile("jetson-orin-nano"), tmp_path / "state", tmp_path)
    assert (tmp_path / CLOCK).read_text() == "2400000\n"
    assert not memo.exists()


def test_what_cannot_be_put_back_stays_remembered(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    files = state / "operating-point.sys-devices-gone.json"
    files.write_text(json.dumps({CLOCK: 2400000}))
    mode = state / "operating-point.etc-nvpmodel-conf.json"
    mode.write_text(json.dumps({"mode": 2}))
    assert assembly.actuators(assembly.named_profile("generic-x86"), state, tmp_path) == {}
    assert files.exists()
    assert mode.exists()
