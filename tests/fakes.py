"""Fakes that behave: a clock that tests own and a lane that computes, dies, hangs and refuses on command."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from agent.errors import BackendError, LaneDied, ModelLoadFailed, PermitExpired
from agent.ports import LaneReply, LaneSpec, LaneVitals, LoadReport, LoadSpec, Tensors
from agent.schema.device import Runtime
from agent.schema.workload import TensorSpec


class FakeClock:
    """Time that moves only when told to."""

    def __init__(self, now_s: float = 1000.0, wall_s: float = 1_790_000_000.0) -> None:
        self.now_s = now_s
        self.offset_s = wall_s - now_s

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s + self.offset_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class FakeLane:
    """Computes y = x + 1. Calls wait in `held` while `hold` is set; loads complete at once unless told to wait."""

    def __init__(self, spec: LaneSpec, clock: FakeClock) -> None:
        self.spec = spec
        self.clock = clock
        self.hold = False
        self.held: list[tuple[str, Tensors, Future[LaneReply]]] = []
        self.loaded: dict[str, LoadSpec] = {}
        self.unloaded: list[str] = []
        self.refuse: dict[str, str] = {}
        self.actual: dict[str, tuple[str, ...]] = {}
        self.hold_loads = False
        self.pending_loads: list[tuple[LoadSpec, Future[LoadReport]]] = []
        self.permit_until_s = 0.0
        self.busy_since_s: float | None = None
        self.busy_until_s: float | None = None
        self.busy_s = 0.0
        self.pace = 1.0
        self.silent = False
        self.temperature_c: float | None = None
        self.fail_with: BackendError | None = None
        self.runs = 0
        self._dead = True
        self._on_death: Callable[[str], None] = lambda cause: None

    def start(self, on_death: Callable[[str], None]) -> None:
        self._dead = False
        self._on_death = on_death
        self._started_s = self.clock.now_s

    def load(self, spec: LoadSpec, timeout_s: float) -> Future[LoadReport]:
        future: Future[LoadReport] = Future()
        if self.hold_loads:
            self.pending_loads.append((spec, future))
        else:
            self._finish_load(spec, future)
        return future

    def _finish_load(self, spec: LoadSpec, future: Future[LoadReport]) -> None:
        if spec.model in self.refuse:
            future.set_exception(ModelLoadFailed(self.refuse[spec.model]))
            return
        self.loaded[spec.model] = spec
        actual = self.actual.get(spec.model, (spec.runtime.provider,))
        on_requested = 10 if spec.runtime.provider in actual else 0
        tensor = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
        future.set_result(
            LoadReport(spec.model, spec.runtime.provider, actual, 10, on_requested, (tensor,),
                       (TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),), 0.1, 0.01, 1000)
        )  # fmt: skip

    def release_loads(self) -> None:
        self.hold_loads = False
        pending, self.pending_loads = self.pending_loads, []
        for spec, future in pending:
            self._finish_load(spec, future)

    def unload(self, model: str) -> Future[None]:
        self.unloaded.append(model)
        self.loaded.pop(model, None)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def submit(
        self, model: str, inputs: Tensors, outputs: tuple[str, ...] | None, deadline_s: float
    ) -> Future[LaneReply]:
        if self._dead:
            raise LaneDied(f"{self.spec.accelerator} is down")
        future: Future[LaneReply] = Future()
        if self.hold:
            self.held.append((model, inputs, future))
        else:
            self._run(inputs, future)
        return future

    def _run(self, inputs: Tensors, future: Future[LaneReply]) -> None:
        self.runs += 1
        if self.clock.now_s > self.permit_until_s:
            future.set_exception(PermitExpired(f"{self.spec.accelerator} holds no permit"))
        elif self.fail_with is not None:
            future.set_exception(self.fail_with)
        else:
            future.set_result(LaneReply({"y": np.asarray(inputs["x"]) + 1}, 0.01))

    def release(self) -> None:
        self.hold = False
        held, self.held = self.held, []
        for _, inputs, future in held:
            if not future.cancelled():
                self._run(inputs, future)

    def die(self, cause: str = "SIGKILL") -> None:
        self._dead = True
        pending, self.pending_loads = self.pending_loads, []
        for _, load in pending:
            load.set_exception(LaneDied(cause))
        held, self.held = self.held, []
        self._on_death(cause)
        for _, _, future in held:
            if not future.cancelled():
                future.set_exception(LaneDied(cause))

    def kill(self, cause: str) -> None:
        self.die(cause)

    def set_pace(self, share: float) -> None:
        self.pace = share

    def renew_permit(self, valid_until_s: float) -> None:
        self.permit_until_s = valid_until_s

    def vitals(self) -> LaneVitals | None:
        if self.silent:
            return LaneVitals(self._started_s, 1000, self.busy_since_s, self.temperature_c)
        return LaneVitals(
            self.clock.now_s, 1000, self.busy_since_s, self.temperature_c, None, self.busy_until_s, busy_s=self.busy_s
        )

    def queue_length(self) -> int:
        return len(self.held)

    def alive(self) -> bool:
        return not self._dead

    def pid(self) -> int | None:
        return None if self._dead else 4242

    def stop(self, timeout_s: float) -> None:
        self._dead = True


class RecordingTelemetry:
    """Keeps what the supervisor says."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict]] = []
        self.ticks = 0

    def tick(self, snapshot, readings, now_s) -> None:
        self.ticks += 1

    def event(self, kind, fields) -> None:
        self.events.append((kind, dict(fields)))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


def load_spec(model: str = "m", provider: str = "CPUExecutionProvider") -> LoadSpec:
    return LoadSpec(model, Path(f"/models/{model}.onnx"), "onnx", Runtime(backend="onnx", provider=provider), 1)
