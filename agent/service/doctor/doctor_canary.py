"""Doctor's canary: a tiny model through every runtime that the profile names, to see who really runs it.

A runtime that cannot use its accelerator computes on the CPU without a word; only running something shows that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

import numpy as np

from agent.control.fallback import Assignment, judge
from agent.errors import QeilError
from agent.ports import Clock, Lane, LaneSpec, LoadReport, LoadSpec
from agent.runtimes import registry
from agent.runtimes.entry import Backend, resolve
from agent.schema.device import Accelerator, DeviceProfile, Runtime
from agent.schema.policy import Fallback
from agent.service.check_result import CheckResult, fail, ok

LOAD_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 10.0
_RULE = Fallback(on_fallback="warn", min_accelerated_fraction=0.5)
_DRIVER = "install the driver and the runtime build that go together; the agent would compute on the CPU meanwhile"

MakeLane = Callable[[LaneSpec], Lane]


def canaries(profile: DeviceProfile, make_lane: MakeLane, clock: Clock) -> list[CheckResult]:
    """One result per accelerator and runtime that serves models."""
    return [
        _sing(accelerator, runtime, backend, make_lane, clock)
        for accelerator in profile.accelerators
        for runtime in accelerator.runtimes
        if (backend := registry.find(runtime.backend)) is not None
    ]


def _sing(
    accelerator: Accelerator, runtime: Runtime, backend: Backend, make_lane: MakeLane, clock: Clock
) -> CheckResult:
    check = f"canary {accelerator.name}"
    lane = make_lane(LaneSpec(accelerator.name, threads=1))
    try:
        lane.start(lambda _cause: None)
        with tempfile.TemporaryDirectory(prefix="qeil-canary-") as folder:
            path = resolve(backend.canary)(Path(folder))
            spec = LoadSpec("canary", path, backend.format, runtime, threads=1)
            report = lane.load(spec, LOAD_TIMEOUT_S).result(LOAD_TIMEOUT_S)
        now_s = clock.monotonic_s()
        lane.renew_permit(now_s + CALL_TIMEOUT_S)
        inputs = {tensor.name: np.ones([max(1, n) for n in tensor.shape], np.float32) for tensor in report.inputs}
        lane.submit("canary", inputs, None, now_s + CALL_TIMEOUT_S).result(CALL_TIMEOUT_S)
        return _verdict(check, runtime, report)
    except QeilError as error:
        return fail(check, f"{runtime.provider} cannot run a model: {error.message}", _DRIVER)
    except (FutureTimeout, TimeoutError):
        return fail(check, f"{runtime.provider} did not answer within {LOAD_TIMEOUT_S:.0f} s", _DRIVER)
    finally:
        lane.stop(2.0)


def _verdict(check: str, runtime: Runtime, report: LoadReport) -> CheckResult:
    verdict = judge(Assignment(report.requested, report.actual, report.accelerated_fraction), _RULE)
    if verdict.outcome != "serve":
        return fail(check, f"silent fallback: {verdict.sentence}", _DRIVER)
    share = report.accelerated_fraction
    return ok(check, f"{runtime.provider} runs what it is asked to{'' if share is None else f', {share:.0%} of it'}")
