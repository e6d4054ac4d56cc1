"""Power modes with a program that stands for nvpmodel: set, asked after, put back at the end and after a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.schema.device import Accelerator, Actuator
from agent.sensors import power_modes
from agent.sensors.power_modes import PowerModeActuator

TABLE = """# modes
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=MODE_15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=7W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=0 >
"""
PROGRAM = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/calls"
[ -e "$here/hangs" ] && exec sleep 60
if [ "$1" = -q ]; then
    echo "NVPM WARN: fan mode is not set!"
    echo "NV Power Mode: some"
    cat "$here/mode"
    exit 0
fi
if [ -e "$here/denies" ]; then echo "NVPM ERROR: Permission denied" >&2; exit 1; fi
[ "$2" = "$(cat "$here/needs-reboot" 2>/dev/null)" ] || echo "$2" > "$here/mode"
[ -e "$here/lingers" ] && sleep 2 &
exit 0
"""


def quantity(value: float) -> dict[str, object]:
    return {"value": value, "provenance": "measured", "source": "test"}


def gpu() -> Accelerator:
    return Accelerator.model_validate({
        "name": "gpu", "kind": "gpu", "memory_domain": "ram",
        "runtimes": [{"backend": "onnx", "provider": "CUDAExecutionProvider"}],
        "peak_flops_per_s": {"fp32": quantity(1e12)}, "energy_j_per_flop": {"fp32": quantity(1e-11)},
        "base_power_w": quantity(2.0), "actuator": {"kind": "nvpmodel", "path": "etc/nvpmodel.conf"},
        "operating_points": [
            {"name": "7w", "clock_share": 0.4, "active_units_share": 0.5}, {"name": "15w", "clock_share": 0.8},
            {"name": "maxn-super"}, {"name": "40w", "clock_share": 0.9},
        ],
    })  # fmt: skip


class Module:
    """A Jetson of files; its program keeps the mode in a file beside it."""

    def __init__(self, folder: Path, mode: int = 2) -> None:
        self.root, self.memo, self.now_s = folder, folder / "state/operating-point.json", 0.0
        self.folder = folder / "usr/sbin"
        self.folder.mkdir(parents=True)
        (folder / "etc").mkdir()
        (folder / "etc/nvpmodel.conf").write_text(TABLE)
        self.put("nvpmodel", PROGRAM)
        (self.folder / "nvpmodel").chmod(0o755)
        self.put("mode", f"{mode}\n")

    def put(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text)

    def mode(self) -> int:
        return int((self.folder / "mode").read_text())

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def actuator(self) -> PowerModeActuator:
        return PowerModeActuator(gpu(), self.root, self.memo, lambda: self.now_s)


@pytest.fixture
def module(tmp_path: Path) -> Module:
    return Module(tmp_path)


def settle(actuator: PowerModeActuator, point: str) -> str:
    """Tick until nothing is under way."""
    why = actuator.set(point)
    while actuator._change is not None:
        actuator._change.program.wait(30)
        why = actuator.set(point)
    return why


def test_points_below_the_mode_found_are_offered_the_fastest_first(module):
    assert [(p.name, p.clock_share) for p in module.actuator().points()] == [("15w", 0.8), ("7w", 0.4)]


def test_points_are_shares_of_the_mode_that_was_found(tmp_path):
    (seven,) = Module(tmp_path, mode=0).actuator().points()
    assert (seven.name, seven.active_units_share, seven.clock_share) == ("7w", 0.5, pytest.approx(0.5))


def test_a_point_is_set_and_put_back(module):
    actuator = module.actuator()
    assert settle(actuator, "7w") == ""
    assert module.mode() == 1
    assert json.loads(module.memo.read_text()) == {"mode": 2}
    assert settle(actuator, "15w") == ""
    assert module.mode() == 0
    assert settle(actuator, "") == ""
    assert module.mode() == 2
    assert not module.memo.exists()


def test_a_point_that_is_set_is_not_set_again(module):
    actuator = module.actuator()
    settle(actuator, "7w")
    before = module.calls()
    assert actuator.set("7w") == ""
    assert actuator._change is None
    assert module.calls() == before == ["-q", "-m 1", "-q"]


def test_setting_waits_for_nothing(module):
    actuator = module.actuator()
    module.put("hangs")
    assert actuator.set("7w") == ""
    assert actuator.set("7w") == ""
    module.now_s = power_modes.LIMIT_S
    assert actuator.set("7w") == f"{module.folder / 'nvpmodel'}: no end after 10 s"
    assert actuator._change is None


def test_what_the_program_leaves_running_is_not_waited_for(module):
    module.put("lingers")
    assert settle(module.actuator(), "7w") == ""


def test_the_end_puts_back_the_mode_found(module):
    actuator = module.actuator()
    assert actuator.restore() == ""
    settle(actuator, "7w")
    assert actuator.restore() == ""
    assert module.mode() == 2
    assert not module.memo.exists()


def test_the_end_interrupts_a_change_under_way(module):
    actuator = module.actuator()
    module.put("hangs")
    actuator.set("7w")
    (module.folder / "hangs").unlink()
    assert actuator.restore() == ""
    assert module.mode() == 2
    assert actuator._change is None


def test_the_next_start_puts_back_what_a_crash_left(module):
    settle(module.actuator(), "7w")
    assert [p.name for p in module.actuator().points()] == ["15w", "7w"]
    assert module.mode() == 2
    assert not module.memo.exists()


def test_a_mode_that_cannot_be_put_back_is_a_problem_and_stays_remembered(module):
    settle(module.actuator(), "7w")
    module.put("denies")
    actuator = module.actuator()
    assert f"Permission denied (exit 1); {power_modes._WHO}" in actuator.problem
    assert actuator.points() == ()
    assert actuator.set("15w") == actuator.problem
    assert module.memo.exists()


def test_a_mode_that_needs_a_reboot_is_told_and_offered_no_more(module):
    actuator = module.actuator()
    module.put("needs-reboot", "1")
    assert settle(actuator, "7w") == f"{module.folder / 'nvpmodel'} -m 1: the mode stays 2; it may need a reboot"
    assert [p.name for p in actuator.points()] == ["15w"]
    before = module.calls()
    assert "reboot" in actuator.set("7w")
    assert module.calls() == before
    settle(actuator, "15w")
    assert module.mode() == 0


def test_without_permission_it_says_so_in_one_line(module):
    actuator = module.actuator()
    module.put("denies")
    why = settle(actuator, "7w")
    assert why == f"{module.folder / 'nvpmodel'}: NVPM ERROR: Permission denied (exit 1); {power_modes._WHO}"


def test_without_a_way_back_nothing_is_set_any_more(module):
    actuator = module.actuator()
    settle(actuator, "7w")
    module.put("denies")
    assert "Permission denied" in settle(actuator, "")
    assert actuator.points() == ()


@pytest.mark.parametrize("after", [0, 1])
def test_a_program_that_vanishes_is_told(module, after):
    actuator = module.actuator()
    for _ in range(after):
        actuator.set("7w")
        assert actuator._change is not None
        actuator._change.program.wait(30)
    (module.folder / "nvpmodel").unlink()
    assert "no such file" in settle(actuator, "7w")


def test_what_cannot_be_remembered_is_not_set(module):
    actuator = module.actuator()
    module.memo.parent.write_text("a file where the folder should be")
    assert "a crash would leave it changed" in settle(actuator, "7w")
    assert module.mode() == 2


def test_the_report_changes_nothing(module):
    assert module.actuator().plan("7w") == (f"{module.folder / 'nvpmodel'} -m 1",)
    assert module.actuator().plan("") == (f"{module.folder / 'nvpmodel'} -m 2",)
    assert module.mode() == 2


def test_a_board_without_the_table_has_no_points(tmp_path):
    actuator = PowerModeActuator(gpu(), tmp_path, tmp_path / "memo")
    assert actuator.points() == ()
    assert "etc/nvpmodel.conf" in actuator.problem


def test_a_table_of_other_modes_has_no_points(module):
    (module.root / "etc/nvpmodel.conf").write_text("< POWER_MODEL ID=0 NAME=MODE_60W >\n")
    assert "no power mode bears the name" in module.actuator().problem


def test_a_mode_found_that_the_profile_does_not_know_has_no_points(tmp_path):
    actuator = Module(tmp_path, mode=9).actuator()
    assert actuator.problem == ""
    assert actuator.points() == ()


def test_a_program_that_tells_no_mode_is_a_problem(module):
    module.put("mode", "none\n")
    assert module.actuator().problem == "none"
    module.put("nvpmodel", "#!/bin/sh\nexit 0\n")
    assert module.actuator().problem == "it tells no power mode"


def test_a_program_that_hangs_at_the_start_is_a_problem(module, monkeypatch):
    monkeypatch.setattr(power_modes, "LIMIT_S", 0.05)
    module.put("hangs")
    assert "no end after 0.05 s" in module.actuator().problem


@pytest.mark.parametrize("text", ["nonsense", "[1]", '{"mode": "2"}', '{"sys/x": 1}'])
def test_a_broken_memo_sets_nothing(module, text):
    module.memo.parent.mkdir()
    module.memo.write_text(text)
    module.actuator()
    assert module.calls() == ["-q"]


def test_the_table_lies_in_one_place():
    with pytest.raises(ValueError, match=r"path must be etc/nvpmodel\.conf"):
        Actuator(kind="nvpmodel", path="etc/passwd")
