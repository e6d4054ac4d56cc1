"""The demo says when its figures were measured beside other work, and its own work is none."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from agent.cli import demo_bystanders
from agent.cli.demo_bystanders import Bystanders, sentence

SPIN = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


class Machine:
    """A machine whose processors did `all_s` of work, of which `own_s` is ours, at `now_s`."""

    def __init__(self, monkeypatch):
        self.now_s = self.all_s = self.own_s = 100.0
        monkeypatch.setattr(demo_bystanders.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(demo_bystanders, "_all_s", lambda: self.all_s)
        monkeypatch.setattr(demo_bystanders, "_own_s", lambda: self.own_s)

    def passes(self, seconds, all_s, own_s):
        self.now_s, self.all_s, self.own_s = self.now_s + seconds, self.all_s + all_s, self.own_s + own_s


@pytest.mark.parametrize(("all_s", "own_s", "cores"), [(12.0, 12.0, 0.0), (17.0, 2.0, 1.5), (2.0, 2.1, 0.0)])
def test_what_others_took_is_all_work_without_ones_own(monkeypatch, all_s, own_s, cores):
    machine = Machine(monkeypatch)
    bystanders = Bystanders()
    machine.passes(10.0, all_s, own_s)
    assert bystanders.cores() == pytest.approx(cores)


def test_work_of_children_is_ones_own_also_after_they_ended():
    before_s = demo_bystanders._own_s()
    subprocess.run([sys.executable, "-c", SPIN], check=True)
    assert demo_bystanders._own_s() - before_s >= 0.5


def test_work_of_all_cores_is_read_and_grows():
    before_s = demo_bystanders._all_s()
    subprocess.run([sys.executable, "-c", SPIN], check=True)
    assert demo_bystanders._all_s() - before_s >= 0.4


def test_a_process_that_ends_while_it_is_looked_at_is_left_out(monkeypatch):
    def gone(_):
        raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(psutil.Process, "cpu_times", gone)
    assert demo_bystanders._own_s() == 0.0


def test_a_busy_machine_is_named_with_what_to_do_and_a_quiet_one_is_said_to_be_quiet():
    assert sentence(1.46, 4).startswith("‼ other programs kept 1.5 of 4 cores busy meanwhile: these times and joules")
    assert "run the demo again" in sentence(0.25, 4)
    assert sentence(0.2, 4) == "nothing else of weight ran meanwhile (other programs: 0.20 of 4 cores)"
