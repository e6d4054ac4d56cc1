"""LiteRT (TensorFlow Lite): built-in kernels, XNNPACK and external delegates, with the operators each one took.

`provider` is `none` (built-in kernels), `XNNPACK`, `external` with the delegate's library in `plugin`, or one of a
compiled model (`litert_compiled`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.backends import litert_compiled
from agent.backends.artifact import Assignment, LoadOrder, Session
from agent.backends.formats import Array, Signature, datatype_of
from agent.errors import InferenceFailed, ModelLoadFailed

BUILT_IN: Final = "none"
XNNPACK: Final = "XNNPACK"
EXTERNAL: Final = "external"
MODULES: Final = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
_DELEGATE: Final = "DELEGATE"
_ERRORS: Final = (RuntimeError, ValueError, TypeError, OSError, SystemError)


class LitertSession:
    """`artifact.Session` over an interpreter."""

    def __init__(self, model: str, interpreter: Any, assignment: Assignment) -> None:
        self._model = model
        self._interpreter = interpreter
        self._inputs = {detail["name"]: detail for detail in interpreter.get_input_details()}
        self._outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
        self._shapes = {name: tuple(detail["shape"].tolist()) for name, detail in self._inputs.items()}
        self.inputs = tuple(_signature(model, detail) for detail in self._inputs.values())
        self.outputs = tuple(_signature(model, detail) for detail in self._outputs.values())
        self.assignment = assignment

    def run(self, feeds: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        """Run once. Raises InferenceFailed with the runtime's own reason."""
        try:
            self._resize(feeds)
            for name, array in feeds.items():
                self._interpreter.set_tensor(self._inputs[name]["index"], array)
            self._interpreter.invoke()
            return [np.ascontiguousarray(self._interpreter.get_tensor(self._outputs[n]["index"])) for n in outputs]
        except _ERRORS as error:
            raise InferenceFailed(f"{self._model}: {_reason(error)}") from error

    def _resize(self, feeds: Mapping[str, Array]) -> None:
        changed = {name: array.shape for name, array in feeds.items() if array.shape != self._shapes[name]}
        for name, shape in changed.items():
            self._interpreter.resize_tensor_input(self._inputs[name]["index"], shape, strict=True)
        if changed:
            self._interpreter.allocate_tensors()
            self._shapes.update(changed)


def open_session(order: LoadOrder) -> Session:
    """Load a .tflite file. Raises ModelLoadFailed."""
    runtime = _runtime(order)
    if not Path(order.path).is_file():
        raise ModelLoadFailed(f"{order.model}: there is no model file {order.path}")
    known = (BUILT_IN, XNNPACK, EXTERNAL, *litert_compiled.PROVIDERS)
    if order.provider not in known:
        raise ModelLoadFailed(f"{order.model}: LiteRT has no {order.provider!r} (known: {', '.join(known)})")
    try:
        interpreter = _interpreter(runtime, order)
        if order.provider in litert_compiled.PROVIDERS:
            return _compiled(interpreter, order)
        interpreter.allocate_tensors()
        return LitertSession(order.model, interpreter, _assignment(interpreter, order.provider))
    except _ERRORS as error:
        raise ModelLoadFailed(f"{order.model}: {_reason(error)}") from error
    except MemoryError as error:
        raise ModelLoadFailed(f"{order.model}: out of memory while loading") from error


def _compiled(interpreter: Any, order: LoadOrder) -> Session:
    """With the names and the operators that this interpreter, which never runs, has read."""
    inputs, outputs = (
        {int(detail["index"]): _signature(order.model, detail) for detail in details}
        for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    return litert_compiled.open_session(order, inputs, outputs, _assignment(interpreter, BUILT_IN).nodes)


def _runtime(order: LoadOrder) -> Any:
    name = next((name for name in MODULES if _installed(name)), MODULES[0])
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelLoadFailed(
            f"{order.model}: LiteRT cannot be imported ({error}); install qeil-agent[litert]"
        ) from error


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def _interpreter(runtime: Any, order: LoadOrder) -> Any:
    resolvers = runtime.OpResolverType
    # XNNPACK would take what an external delegate leaves, and the two could not be told apart in the report.
    resolver = resolvers.AUTO if order.provider == XNNPACK else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    delegates = [_delegate(runtime, order)] if order.provider == EXTERNAL else None
    return runtime.Interpreter(
        model_path=order.path, num_threads=order.threads, experimental_delegates=delegates,
        experimental_op_resolver_type=resolver,
    )  # fmt: skip


def _delegate(runtime: Any, order: LoadOrder) -> Any:
    if order.plugin is None:
        raise ModelLoadFailed(f"{order.model}: an external delegate needs its library in `plugin`")
    if "/" in order.plugin and not Path(order.plugin).is_file():
        raise ModelLoadFailed(f"{order.model}: there is no delegate library {order.plugin}")
    return runtime.load_delegate(order.plugin, dict(order.options))


def _assignment(interpreter: Any, requested: str) -> Assignment:
    """Operators by who runs them: a delegate runs what lies between its inputs and its outputs."""
    details = getattr(interpreter, "_get_ops_details", None)
    if details is None:
        return Assignment((requested,), None, None, ("this LiteRT does not list its operators",))
    operators = details()
    own = [op for op in operators if op["op_name"] != _DELEGATE]
    makers = {int(tensor): index for index, op in enumerate(own) for tensor in op["outputs"]}
    delegated: set[int] = set()
    for delegate in (op for op in operators if op["op_name"] == _DELEGATE):
        delegated |= _between(own, makers, delegate)
    on_requested = len(own) - len(delegated) if requested == BUILT_IN else len(delegated)
    shares = {BUILT_IN: len(own) - len(delegated)}
    if requested != BUILT_IN:
        shares[requested] = len(delegated)
    actual = tuple(sorted((n for n, count in shares.items() if count), key=lambda name: name != requested))
    return Assignment(actual or (BUILT_IN,), len(own), on_requested)


def _between(operators: list[Any], makers: Mapping[int, int], delegate: Any) -> set[int]:
    """Operators whose results reach the delegate's outputs without crossing its inputs."""
    borders = {int(tensor) for tensor in delegate["inputs"]}
    pending = [int(tensor) for tensor in delegate["outputs"]]
    found: set[int] = set()
    while pending:
        tensor = pending.pop()
        maker = makers.get(tensor)
        if tensor in borders or maker is None or maker in found:
            continue
        found.add(maker)
        pending += [int(source) for source in operators[maker]["inputs"]]
    return found


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _signature(model: str, detail: Mapping[str, Any]) -> Signature:
    declared = detail.get("shape_signature", detail["shape"])
    name = str(detail["name"])
    try:
        datatype = datatype_of(name, np.empty(0, detail["dtype"]))
    except InferenceFailed as error:
        raise ModelLoadFailed(f"{model}: {error.message}") from error
    if datatype == "BYTES":
        raise ModelLoadFailed(f"{model}: {name!r} holds strings, which this backend does not carry")
    return Signature(name, datatype, tuple(int(size) for size in declared))
