"""Long work never looks like a hang: a line every few seconds where there is no terminal."""

from __future__ import annotations

import getpass
import warnings

import pytest

from agent.cli.calibrate import summed
from agent.cli.fleet_keys import password
from agent.cli.progress import PERIOD_S, Progress
from agent.errors import BadInput


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def told(capsys, silent=False, steps=10):
    clock = Clock()
    with Progress("working", silent, clock) as report:
        for step in range(10):
            report(f"part {step}", step, steps)
            clock.now_s += 1.0
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_pipe_gets_a_line_every_few_seconds(capsys):
    assert PERIOD_S == 3.0
    assert told(capsys) == ["working: 30 % part 3", "working: 60 % part 6", "working: 90 % part 9"]


def test_work_of_unknown_length_tells_no_share(capsys):
    assert told(capsys, steps=0)[0] == "working: part 3"


def test_silence_is_kept_where_it_was_asked_for(capsys):
    assert told(capsys, silent=True) == []


def test_refused_measurements_are_one_line_per_lane():
    lines = summed(["cpu CPU: a scatters", "cpu CPU: b scatters", "npu0 NPU: no driver", "no colon"])
    assert lines[0].startswith("cpu CPU: 2 remarks on what was measured, first: a scatters")
    assert lines[1] == "npu0 NPU: no driver"
    assert len(lines) == 3


def test_a_password_without_a_terminal_is_one_clear_line(monkeypatch):
    def no_terminal(*_: object, **__: object) -> str:
        warnings.warn("Can not control echo on the terminal.", getpass.GetPassWarning, stacklevel=2)
        return "shown"

    monkeypatch.delenv("QEIL_FLEET_PASSWORD", raising=False)
    monkeypatch.setattr("click.prompt", no_terminal)
    with pytest.raises(BadInput, match="QEIL_FLEET_PASSWORD"):
        password(confirm=False)
