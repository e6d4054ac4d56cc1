"""Bundle probes: requests with known answers that a bundle brings along, asked of the models once they are in force."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from agent.errors import QeilError
from agent.ports import InferenceRequest, Tensor
from agent.schema.base import FileModel, Name
from agent.schema.bfloat16 import is_bf16, to_floats
from agent.service.remote.commands import Run
from agent.service.serving.dispatcher import Dispatcher
from agent.storage.bundle_archive import Unpacked

MAX_PROBE_BYTES = 4 * 1024 * 1024
WARM_S, ANSWER_S = 120.0, 30.0
_TYPES = {
    "FP32": np.float32, "FP16": np.float16, "FP64": np.float64, "INT8": np.int8, "INT16": np.int16,
    "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


class ProbeTensor(FileModel):
    """A tensor as the Open Inference Protocol writes it, data flattened."""

    datatype: Literal["FP32", "FP16", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "BOOL"]
    shape: tuple[int, ...]
    data: tuple[float, ...]

    def array(self) -> Tensor:
        """As numpy has it. ValueError where shape and data differ."""
        return np.asarray(self.data).astype(_TYPES[self.datatype]).reshape(self.shape)


class Probe(FileModel):
    """One request and what must come of it."""

    model: Name
    inputs: dict[str, ProbeTensor]
    outputs: dict[str, ProbeTensor]
    tolerance: float = Field(default=1e-3, ge=0, description="largest absolute difference of any element")


def failed(unpacked: Unpacked, dispatcher: Dispatcher, ready: Callable[[str], bool], run: Run) -> str | None:
    """The first probe that does not answer as it must, in one line; None where all do.

    `ready(model)`: whether it is served; it may take a while to load.
    """
    for name, path in unpacked.files("probes").items():
        try:
            probe = _read(path)
            _warm(probe.model, ready, run)
            problem = _asked(probe, dispatcher)
        except (QeilError, ValueError, FutureTimeout) as error:
            problem = str(error) or type(error).__name__
        if problem is not None:
            return f"probe {name}: {problem}"
    return None


def _warm(model: str, ready: Callable[[str], bool], run: Run) -> None:
    end_s = run.clock.monotonic_s() + WARM_S
    run.wait(lambda: ready(model) or run.clock.monotonic_s() > end_s, "loading models")


def _read(path: Path) -> Probe:
    """ValueError says what is wrong with it."""
    if path.stat().st_size > MAX_PROBE_BYTES:
        raise ValueError(f"larger than {MAX_PROBE_BYTES} bytes")
    try:
        return Probe.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        raise ValueError(f"no probe: {error.errors()[0]['msg']}") from error


def _asked(probe: Probe, dispatcher: Dispatcher) -> str | None:
    inputs = {name: tensor.array() for name, tensor in probe.inputs.items()}
    request = InferenceRequest(probe.model, inputs, tuple(probe.outputs), "probe", ANSWER_S)
    answer = dispatcher.infer(request).result(ANSWER_S)
    for name, tensor in probe.outputs.items():
        wanted, got = tensor.array(), answer.outputs.get(name)
        if got is None or got.shape != wanted.shape:
            return f"{probe.model}: output {name} has another shape"
        got = to_floats(got) if is_bf16(got) else got
        off = float(np.max(np.abs(got.astype(np.float64) - wanted.astype(np.float64)), initial=0.0))
        if not off <= probe.tolerance:
            return f"{probe.model}: output {name} is off by {off:.3g}; {probe.tolerance:g} is accepted"
    return None
