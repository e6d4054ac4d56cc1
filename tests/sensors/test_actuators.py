"""Operating points on a fake /sys: set, read back, put back at the end and after a crash, refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.schema.device import Accelerator, Actuator
from agent.sensors.actuators import SysfsActuator

CPUFREQ = {"kind": "cpufreq", "path": "sys/devices/system/cpu/cpufreq/policy*"}
CAP = {"kind": "power_cap", "path": "sys/class/hwmon/hwmon*/power1_cap"}


def quantity(value: float) -> dict[str, object]:
    return {"value": value, "provenance": "measured", "source": "test"}


def accelerator(actuator=None, points=None) -> Accelerator:
    return Accelerator.model_validate({
        "name": "cpu", "kind": "cpu", "memory_domain": "ram",
        "runtimes": [{"backend": "onnx", "provider": "CPUExecutionProvider"}],
        "peak_flops_per_s": {"fp32": quantity(1e10)}, "energy_j_per_flop": {"fp32": quantity(1e-11)},
        "base_power_w": quantity(2.0), "actuator": actuator or CPUFREQ,
        "operating_points": points or [{"name": "half", "clock_share": 0.5}, {"name": "most", "clock_share": 0.8},
                                       {"name": "all"}],
    })  # fmt: skip


class Board:
    """A fake /sys with two frequency domains."""

    def __init__(self, folder: Path) -> None:
        self.root, self.memo = folder, folder / "state/operating-point.json"
        self.files = []
        for number in (0, 4):
            domain = folder / f"sys/devices/system/cpu/cpufreq/policy{number}"
            domain.mkdir(parents=True)
            (domain / "cpuinfo_max_freq").write_text("2000000\n")
            (domain / "scaling_max_freq").write_text("1900000\n")
            self.files.append(domain / "scaling_max_freq")

    def actuator(self, **options) -> SysfsActuator:
        return SysfsActuator(accelerator(**options), self.root, self.memo)

    def values(self) -> list[int]:
        return [int(file.read_text()) for file in self.files]


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_points_below_the_fastest_are_offered_the_fastest_first(board):
    assert [(p.name, p.clock_share) for p in board.actuator().points()] == [("most", 0.8), ("half", 0.5)]


def test_a_point_is_set_on_every_domain_and_put_back(board):
    actuator = board.actuator()
    assert actuator.set("half") == ""
    assert board.values() == [1_000_000, 1_000_000]
    assert actuator.set("most") == ""
    assert board.values() == [1_600_000, 1_600_000]
    assert actuator.set("") == ""
    assert board.values() == [1_900_000, 1_900_000]
    assert not board.memo.exists()


def test_the_end_puts_back_what_was_found(board):
    actuator = board.actuator()
    assert actuator.restore() == ""
    actuator.set("half")
    assert actuator.restore() == ""
    assert board.values() == [1_900_000, 1_900_000]
    assert not board.memo.exists()


def test_the_next_start_puts_back_what_a_crash_left(board):
    board.actuator().set("half")
    again = board.actuator()
    assert board.values() == [1_900_000, 1_900_000]
    assert again.plan("half")[0].endswith("1900000 → 1000000")


def test_the_report_changes_nothing(board):
    lines = board.actuator().plan("half")
    assert lines == tuple(f"{file}: 1900000 → 1000000" for file in board.files)
    assert board.values() == [1_900_000, 1_900_000]
    assert not board.memo.exists()


def test_a_value_that_does_not_stay_is_told_and_the_others_are_put_back(board, monkeypatch):
    actuator = board.actuator()
    read = actuator._reader.read_int
    stubborn = str(board.files[1].relative_to(board.root))
    monkeypatch.setattr(actuator._reader, "read_int", lambda path: 1_900_000 if path == stubborn else read(path))
    assert "was set to 1000000 and reads 1900000" in actuator.set("half")
    assert board.values()[0] == 1_900_000
    assert actuator.points() == ()
    assert "was set to" in actuator.set("most")


def test_without_permission_it_says_so_in_one_line_and_offers_nothing(board, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    actuator = board.actuator()
    assert actuator.points() == ()
    assert actuator.set("half") == (
        f"{board.files[0]}: not allowed; let the agent's user write it (a udev rule), "
        "or operating_points: false in the policy"
    )


def test_permission_that_is_lost_later_is_told_too(board, monkeypatch):
    actuator = board.actuator()
    opened = os.open

    def refused(path, flags, *rest):
        if flags & os.O_WRONLY:
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", refused)
    assert "not allowed" in actuator.set("half")


def test_a_write_that_the_kernel_refuses_is_told(board, monkeypatch):
    actuator = board.actuator()

    def refused(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "write", refused)
    assert "could not be set to 1000000: invalid argument" in actuator.set("half")


def test_a_board_without_the_files_has_no_points(tmp_path):
    actuator = SysfsActuator(accelerator(), tmp_path, tmp_path / "memo")
    assert actuator.points() == ()
    assert "there is no such file" in actuator.problem


def test_a_file_that_holds_no_number_is_a_problem(board):
    board.files[0].write_text("auto\n")
    assert "expected a whole number" in board.actuator().problem


def test_a_power_cap_is_set_in_microwatts(tmp_path):
    file = tmp_path / "sys/class/hwmon/hwmon3/power1_cap"
    file.parent.mkdir(parents=True)
    file.write_text("25000000")
    points = [{"name": "10w", "clock_share": 0.5, "power_cap_w": quantity(10.0)}, {"name": "full"}]
    actuator = SysfsActuator(accelerator(CAP, points), tmp_path, tmp_path / "memo")
    assert [p.name for p in actuator.points()] == ["10w"]
    assert actuator.set("10w") == ""
    assert int(file.read_text()) == 10_000_000


def test_what_cannot_be_remembered_is_not_set_and_nothing_raises(board):
    actuator = board.actuator()
    board.memo.parent.write_text("a file where the folder should be")
    why = actuator.set("half")
    assert "a crash would leave it changed" in why
    assert "\n" not in why
    assert board.values() == [1900000, 1900000]
    board.memo.parent.unlink()
    assert actuator.set("half") == ""
    assert board.values() == [1000000, 1000000]


@pytest.mark.parametrize("text", ["nonsense", "[1]", '{"etc/passwd": 1, "sys/../etc/x": 2, "sys/x": "y"}'])
def test_a_broken_memo_puts_nothing_anywhere(board, text):
    board.memo.parent.mkdir()
    board.memo.write_text(text)
    board.actuator()
    assert board.values() == [1_900_000, 1_900_000]
    assert not (board.root / "etc").exists()


@pytest.mark.parametrize("path", ["/sys/x", "proc/x", "sys/../etc/passwd"])
def test_an_actuator_outside_sys_is_refused(path):
    with pytest.raises(ValidationError, match="must lie below sys/"):
        Actuator(kind="cpufreq", path=path)
