"""The kernel says of a lane's process whether it is held and how long it waited for a core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from agent.backends.process import Child


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
