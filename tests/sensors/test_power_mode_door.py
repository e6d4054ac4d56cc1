"""Power modes through the door of a root service: a socket whose connections the shipped program answers."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.sensors import power_mode_door, power_modes
from tests.sensors.test_power_modes import Module, settle

ANSWERER = Path(__file__).parents[2] / "systemd/qeil-power-mode"


class Door:
    """As the socket unit with Accept=yes: each connection is standard input and output of a program of its own."""

    def __init__(self, path: Path, root: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.path, self.root, self.asked = path, root, 0
        self._door = socket.create_server(str(path), family=socket.AF_UNIX)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._door.accept()
            with connection:
                if self.root == Path():
                    return
                self.asked += 1
                subprocess.run(["/bin/sh", ANSWERER, self.root], stdin=connection, stdout=connection, check=False)

    def close(self) -> None:
        self.root = Path()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.path))
        self._thread.join()
        self._door.close()


@pytest.fixture
def module(tmp_path: Path) -> Module:
    return Module(tmp_path)


@pytest.fixture
def door(module: Module) -> Iterator[Door]:
    opened = Door(module.root / power_modes.DOOR, module.root)
    yield opened
    opened.close()


def test_a_mode_is_set_and_put_back_through_the_door(module, door):
    actuator = module.actuator()
    assert settle(actuator, "7w") == ""
    assert module.mode() == 1
    assert actuator.restore() == ""
    assert module.mode() == 2
    assert door.asked == len(module.calls())


def test_what_nvpmodel_says_against_it_comes_back(module, door):
    actuator = module.actuator()
    module.put("denies")
    why = settle(actuator, "7w")
    assert "NVPM ERROR: Permission denied (exit 1)" in why


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("-m 3", "has no power mode 3"),
        ("-m 1; reboot", "no number of a power mode: 1; reboot"),
        ("-m", "only -q and -m NUMBER are taken"),
        ("-m ", "no number of a power mode"),
        ("-m 0001", "no number of a power mode"),
        ("-f /tmp/table", "only -q and -m NUMBER are taken"),
        ("", "only -q and -m NUMBER are taken"),
    ],
)
def test_nothing_but_the_modes_of_the_table_passes_the_door(module, door, words, why):
    text, code = power_mode_door.ask(str(door.path), words)
    assert why in text
    assert code == 64
    assert not (module.folder / "calls").exists()


def test_without_anybody_behind_the_door_it_says_so(tmp_path):
    text, code = power_mode_door.ask(str(tmp_path / "none"), "-q")
    assert "No such file" in text
    assert code == power_mode_door.NO_ANSWER


def test_an_answer_that_breaks_off_is_no_answer(tmp_path):
    with socket.create_server(str(tmp_path / "door"), family=socket.AF_UNIX) as server:
        hasty = threading.Thread(target=lambda: server.accept()[0].close())
        hasty.start()
        _, code = power_mode_door.ask(str(tmp_path / "door"), "-q")
        hasty.join()
    assert code == power_mode_door.NO_ANSWER


def test_it_ends_as_nvpmodel_ended(module, door, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["door", str(door.path), "-q"])
    assert power_mode_door.main() == 0
    assert "NV Power Mode: some" in capsys.readouterr().out
