"""A supervisor that is held by the kernel: its lanes stop by themselves once the permit has run out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.backends.conftest import Models

PERMIT_S = 0.6
CALL_S = 0.02
CALLS = 2000
HELD_S = 3.0


def program(model: str) -> str:
    return f"""
import time
from pathlib import Path
import numpy as np
from agent.backends.lane import ProcessLane
from agent.errors import PermitExpired
from agent.ports import LaneSpec, LoadSpec, Simulation
from agent.schema.device import Runtime
from agent.service.clock import SystemClock
clock = SystemClock()
lane = ProcessLane(LaneSpec("npu", 1, simulated=True, max_queue={CALLS}), clock)
lane.start(print)
runtime = Runtime(backend="onnx", provider="CPUExecutionProvider")
simulation = Simulation({CALL_S}, 0.1, 1.0, 4.0, 30.0, 25.0)
lane.load(LoadSpec("m", Path({model!r}), "onnx", runtime, 1, simulation), 60).result()
lane.renew_permit(clock.monotonic_s() + {PERMIT_S})
x = np.zeros((1, 2048), np.float32)
began = clock.monotonic_s()
calls = [lane.submit("m", {{"x": x}}, None, began + 60) for _ in range({CALLS})]
before = clock.monotonic_s()
print("busy", flush=True)
while (now := clock.monotonic_s()) - before <= 1.0 and now < began + 60:
    lane.renew_permit(now + {PERMIT_S})
    before = now
    time.sleep(0.1)
errors = [call.exception(30) for call in calls]
print(sum(e is None for e in errors), sum(isinstance(e, PermitExpired) for e in errors), before - began, flush=True)
lane.stop(5)
"""


def test_a_supervisor_that_is_stopped_by_a_signal_stops_its_lanes_within_the_permit(models: Models) -> None:
    command = [sys.executable, "-c", program(str(models.add_one))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "busy\n"
        os.kill(supervisor.pid, signal.SIGSTOP)
        time.sleep(HELD_S)
        os.kill(supervisor.pid, signal.SIGCONT)
        done, expired, renewing_s = supervisor.stdout.readline().split()
        supervisor.wait(30)

    # A call takes at least CALL_S, so this many fit before the last permit ran out, and not one more.
    assert int(done) <= (float(renewing_s) + PERMIT_S) / CALL_S + 1
    assert int(expired) > 0
    assert int(done) + int(expired) == CALLS
