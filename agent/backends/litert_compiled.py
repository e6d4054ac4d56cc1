"""LiteRT's compiled models: the vendor's CPU, GPU or NPU accelerator takes the whole graph, or the model is refused.

`provider` is `compiled-cpu`, `compiled-gpu` or `compiled-npu`. The runtime could let its CPU compute what another one
leaves; it does not tell then who computes what, so it is not asked to. Needs ai-edge-litert 2.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from agent.backends.artifact import Assignment, LoadOrder
from agent.backends.formats import Array, Signature
from agent.errors import InferenceFailed, ModelLoadFailed
from agent.records import record

PROVIDERS: Final[Mapping[str, str]] = {"compiled-cpu": "CPU", "compiled-gpu": "GPU", "compiled-npu": "NPU"}
"""By the name that the runtime gives the accelerator."""
_ERRORS: Final = (RuntimeError, ValueError, TypeError, OSError, SystemError)
_MARK: Final = "└"
_LEFT_OVER: Final = "not accelerated"
"""Of a model that the accelerator takes in part; the rest of that sentence is advice to programmers."""


@record(frozen=True)
class Port:
    """A tensor at an end of the graph, under the name that every other provider gives it, and its buffer."""

    signature: Signature
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    buffer: Any


class CompiledSession:
    """`artifact.Session` over a compiled model. Its shapes are those that it was compiled for."""

    def __init__(
        self, model: str, compiled: Any, inputs: tuple[Port, ...], outputs: tuple[Port, ...], assignment: Assignment
    ) -> None:
        self._model = model
        self._compiled = compiled
        self._inputs = inputs
        self._outputs = {port.signature.name: port for port in outputs}
        self._buffers = [port.buffer for port in inputs], [port.buffer for port in outputs]
        self.inputs = tuple(port.signature for port in inputs)
        self.outputs = tuple(port.signature for port in outputs)
        self.assignment = assignment

    def run(self, feeds: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        """Run once. Raises InferenceFailed with the runtime's own reason."""
        for port in self._inputs:
            given = feeds[port.signature.name]
            if given.shape != port.shape:
                raise InferenceFailed(
                    f"{self._model}: {port.signature.name!r} is {list(given.shape)}, compiled for {list(port.shape)}"
                )
        try:
            for port in self._inputs:
                port.buffer.write(feeds[port.signature.name])
            self._compiled.run_by_index(0, *self._buffers)
            return [_read(self._outputs[name]) for name in outputs]
        except _ERRORS as error:
            raise InferenceFailed(f"{self._model}: {reason(error)}") from error

    def bind(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None] | None:  # noqa: ARG002
        """The runtime reads and writes memory of its own."""
        return None


def open_session(
    order: LoadOrder, inputs: Mapping[int, Signature], outputs: Mapping[int, Signature], nodes: int | None
) -> CompiledSession:
    """Compile for the accelerator asked for. Raises ModelLoadFailed.

    `inputs` and `outputs` by the tensor's index in the file, and the number of its operators: as the interpreter has
    read them, so that a model's tensors have one name whoever runs it.
    """
    try:
        package = importlib.import_module("ai_edge_litert.compiled_model")
    except ImportError as error:
        raise ModelLoadFailed(
            f"{order.model}: {order.provider} needs ai-edge-litert 2 ({error}); install qeil-agent[litert]"
        ) from error
    wanted = getattr(package.HardwareAccelerator, PROVIDERS[order.provider])
    try:
        options = package.Options(
            hardware_accelerators=wanted, cpu_options=package.CpuOptions(num_threads=order.threads)
        )
        compiled = package.CompiledModel.from_file(order.path, options=options)
        if not compiled.is_fully_accelerated():
            raise RuntimeError(_LEFT_OVER)
        key = compiled.get_signature_by_index(0)["key"]
        ends = (
            _ports(compiled.get_input_tensor_details(key), compiled.create_input_buffers(0), inputs),
            _ports(compiled.get_output_tensor_details(key), compiled.create_output_buffers(0), outputs),
        )
    except _ERRORS as error:
        raise ModelLoadFailed(f"{order.model}: {order.provider}: {reason(error)}") from error
    return CompiledSession(order.model, compiled, *ends, Assignment((order.provider,), nodes, nodes))


def reason(error: Exception) -> str:
    """What the runtime's message says, which is a chain of places in its source and at best a sentence."""
    last = " ".join(str(error).rpartition(_MARK)[2].split())
    if _LEFT_OVER in last:
        return "it does not take all of the operators"
    if last.startswith("ERROR: ["):
        place = last.rpartition("/")[2].rstrip("]")
        return f"the runtime could not set it up and does not say why ({place})"
    return last or type(error).__name__


def _ports(
    details: Mapping[str, Mapping[str, Any]], buffers: list[Any], signatures: Mapping[int, Signature]
) -> tuple[Port, ...]:
    return tuple(
        Port(signatures[int(d["index"])], tuple(int(n) for n in d["shape"]), np.dtype(d["dtype"]), buffer)
        for d, buffer in zip(details.values(), buffers, strict=True)
    )


def _read(port: Port) -> Array:
    array: Array = port.buffer.read(int(np.prod(port.shape, dtype=np.int64)), port.dtype.type)
    return array.reshape(port.shape)
