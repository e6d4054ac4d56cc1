"""A service that really computes y = x + 1 and can be slow, refuse, fail or have a bug on command."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future, InvalidStateError
from difflib import get_close_matches

import numpy as np

from agent.control import input_guard
from agent.errors import BadInput, DeadlineExceeded, NotFound, QeilError
from agent.ports import InferenceAnswer, InferenceRequest, ModelMetadata, RequestLimits, Tensor
from agent.schema.bfloat16 import from_floats, is_bf16, to_floats
from agent.schema.metric import Metric
from agent.schema.snapshot import AcceleratorStatus, AgentInfo, AgentSnapshot, ModelStatus
from agent.schema.workload import TensorSpec


def _model(name: str, datatype: str, *shape: int) -> ModelMetadata:
    return ModelMetadata(
        name, ("1",), "onnx", (TensorSpec(name="x", datatype=datatype, shape=shape),),
        (TensorSpec(name="y", datatype=datatype, shape=shape),), True,
    )  # fmt: skip


SNAPSHOT = AgentSnapshot(
    AgentInfo("1.2.3", "ready", "2026-01-01T00:00:00Z", "balanced", "d1", 7, "edge-01", "generic-x86"),
    (AcceleratorStatus("cpu", "onnx", "CPUExecutionProvider", "ready", True, None, 12.5, 0, None),),
    (ModelStatus("add1", "ready", "cpu", "cpu", 1.0, "cpu", 0.1, 0.2, 0.003, "modelled"),),
)


class FakeService:
    """`hold` keeps requests waiting in `held`; `error` fails the next ones; `bug` raises in the caller's thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As new."""
        self.metadata = {
            m.name: m
            for m in (
                _model("add1", "FP32", -1, 4),
                _model("wide", "FP32", 1, -1),
                _model("ints", "INT64", -1),
                _model("half", "FP16", -1),
                _model("brain", "BF16", -1),
                _model("flags", "BOOL", -1),
                _model("text", "BYTES", -1),
            )
        }
        self.bounds = RequestLimits(max_body_bytes=4_000_000, max_json_body_bytes=1_000_000)
        self.status = SNAPSHOT
        self.is_live = True
        self.hold = False
        self.held: list[tuple[InferenceRequest, Future[InferenceAnswer]]] = []
        self.arrived = threading.Event()
        self.error: QeilError | None = None
        self.bug: Exception | None = None
        self.answer_with: dict[str, Tensor] | None = None
        self.requests: list[InferenceRequest] = []

    def infer(self, request: InferenceRequest) -> Future[InferenceAnswer]:
        self.requests.append(request)
        if self.bug is not None:
            raise self.bug
        future: Future[InferenceAnswer] = Future()
        if self.hold:
            self.held.append((request, future))
            self.arrived.set()
            if request.deadline_s is not None:
                threading.Timer(request.deadline_s, lambda: self._expire(request, future)).start()
        elif request.deadline_s == 0.001:  # a lane's reader thread answers, not the caller's
            threading.Timer(0.0, lambda: self._complete(request, future)).start()
        else:
            self._complete(request, future)
        return future

    def _complete(self, request: InferenceRequest, future: Future[InferenceAnswer]) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled or expired meanwhile
            try:
                future.set_result(self._run(request))
            except QeilError as error:
                future.set_exception(error)

    @staticmethod
    def _expire(request: InferenceRequest, future: Future[InferenceAnswer]) -> None:
        with contextlib.suppress(InvalidStateError):
            future.set_exception(DeadlineExceeded(f"no answer within {request.deadline_s:g} s"))

    def release(self) -> None:
        """Answer what is held."""
        self.hold = False
        for request, future in self.held:
            if not future.done():
                self._complete(request, future)
        self.held.clear()

    def _run(self, request: InferenceRequest) -> InferenceAnswer:
        if self.error is not None:
            raise self.error
        model = self.model(request.model)
        verdict = input_guard.check(request.inputs, model.inputs, reject_non_finite=True)
        if not verdict.allow:
            raise BadInput(verdict.sentence)
        for name in request.outputs or ():
            if name != "y":
                raise BadInput(f"no output {name!r}")
        outputs = self.answer_with if self.answer_with is not None else {"y": _plus_one(request.inputs["x"])}
        return InferenceAnswer(
            outputs, model.name, "1", request.placement or "cpu", "CPUExecutionProvider", 1.0, 0.00025, None, "unknown",
            "d1", 2,
        )  # fmt: skip

    def models(self) -> tuple[ModelMetadata, ...]:
        return tuple(self.metadata.values())

    def newer(self, model: str) -> str:
        return "; the settings name it" if model == "added" else ""

    def model(self, name: str) -> ModelMetadata:
        if name not in self.metadata:
            near = get_close_matches(name, self.metadata, 1)
            raise NotFound(f"there is no model {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
        return self.metadata[name]

    def load_model(self, name: str) -> Future[None]:
        return self._switch(name, ready=True)

    def unload_model(self, name: str) -> Future[None]:
        return self._switch(name, ready=False)

    def _switch(self, name: str, ready: bool) -> Future[None]:
        future: Future[None] = Future()
        try:
            old = self.model(name)
        except QeilError as error:
            future.set_exception(error)
            return future
        self.metadata[name] = ModelMetadata(
            old.name, old.versions, old.platform, old.inputs, old.outputs, ready, None if ready else "unloaded"
        )
        future.set_result(None)
        return future

    def snapshot(self) -> AgentSnapshot:
        return self.status

    def limits(self) -> RequestLimits:
        return self.bounds

    def live(self) -> bool:
        return self.is_live

    def ready(self) -> bool:
        return self.is_live and all(m.ready for m in self.metadata.values())

    def metrics(self) -> tuple[Metric, ...]:
        odd = {"model": 'a"b\\c\nd'}
        return (
            Metric("qeil_requests_total", "counter", "Requests", ((odd, float(len(self.requests))),)),
            Metric("qeil_mode", "gauge", "Mode", (({"mode": "ready"}, 1.0),)),
            Metric("qeil_mode", "gauge", "Mode", (({"mode": "fault"}, 0.0),)),
        )


def _plus_one(x: Tensor) -> Tensor:
    if x.dtype.kind == "O":
        return np.array([element + b"1" for element in x.flat], object).reshape(x.shape)
    if x.dtype.kind == "b":
        return ~x
    if is_bf16(x):
        return from_floats(to_floats(x) + 1)
    return x + x.dtype.type(1)
