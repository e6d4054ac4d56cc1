"""The kernel says of a lane's process whether it is held and how long it waited for a core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from agent.backends.process import Child, scheduling


def child_of(process: subprocess.Popen) -> Child:
    child = Child.__new__(Child)
    child._popen = process
    return child


def test_a_stopped_process_is_told_from_a_running_one():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        child = child_of(process)
        assert child.scheduling()[1] is False
        assert child.scheduling()[0] >= 0.0
        os.kill(process.pid, signal.SIGSTOP)
        end_s = time.monotonic() + 10.0
        while not child.scheduling()[1]:
            assert time.monotonic() < end_s
    finally:
        process.kill()
        process.wait()
    assert child.scheduling() == (None, False)


def test_a_kernel_without_scheduler_statistics_still_tells_who_is_held(tmp_path: Path):
    (tmp_path / "stat").write_text("7 (a (lane) T) T 1 7 7")
    assert scheduling(tmp_path) == (None, True)
    (tmp_path / "stat").write_text("7 (a (lane) T) S 1 7 7")
    assert scheduling(tmp_path) == (None, False)
    (tmp_path / "schedstat").write_text("5 1500000000 9")
    assert scheduling(tmp_path) == (1.5, False)
