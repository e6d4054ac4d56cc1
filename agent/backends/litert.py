"""LiteRT (TensorFlow Lite): built-in kernels, XNNPACK and external delegates, with the operators each one took.

`provider` is `none` (built-in kernels), `XNNPACK`, `external` with the delegate's library in `plugin`, or one of a
compiled model (`litert_compiled`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.backends import litert_compiled
from agent.backends.artifact import Assignment, LoadOrder, Session
from agent.backends.formats import Array, Signature, datatype_of, distinct
from agent.backends.messages import one_line
from agent.errors import InferenceFailed, InputRefused, ModelLoadFailed

BUILT_IN: Final = "none"
XNNPACK: Final = "XNNPACK"
EXTERNAL: Final = "external"
MODULES: Final = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
MAX_SAID_CHARACTERS: Final = 1024 * 1024
"""Of an interpreter's complaints, all of which it repeats at each one, before another takes its place."""
_ON_CPU: Final = frozenset({BUILT_IN, XNNPACK})
_DELEGATE: Final = "DELEGATE"
_ERRORS: Final = (RuntimeError, ValueError, TypeError, OSError, SystemError)


class LitertSession:
    """`artifact.Session` over an interpreter."""

    def __init__(
        self, model: str, interpreter: Any, assignment: Assignment, remake: Callable[[], Any] | None = None
    ) -> None:
        """`remake` makes another such interpreter, for when this one carries too much of what it said."""
        self._model = model
        self._remake = remake
        self._interpreter = interpreter
        self._inputs, self._outputs = _ports(interpreter.get_input_details()), _ports(interpreter.get_output_details())
        self._shapes = self._begun = {name: tuple(detail["shape"].tolist()) for name, detail in self._inputs.items()}
        self.inputs = tuple(_signature(model, name, detail) for name, detail in self._inputs.items())
        self.outputs = tuple(_signature(model, name, detail) for name, detail in self._outputs.items())
        self.assignment = assignment
        self._said = ""
        # Kernels on the CPU fail at what they are given; a delegate's device may fail at anything.
        self._refusal = InputRefused if _ON_CPU.issuperset(assignment.actual) else InferenceFailed

    def run(self, feeds: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        """Run once, from the state that the model begins in: what one call leaves in its variables no other one sees.

        Raises InferenceFailed with the runtime's own reason, InputRefused where that is about the input alone.
        """
        self._fit(feeds)
        try:
            for name, array in feeds.items():
                self._interpreter.set_tensor(self._inputs[name]["index"], array)
            self._interpreter.reset_all_variables()
            self._interpreter.invoke()
            return [np.ascontiguousarray(self._interpreter.get_tensor(self._outputs[n]["index"])) for n in outputs]
        except _ERRORS as error:
            raise self._refusal(f"{self._model}: {self._news(error)}") from error

    def _fit(self, feeds: Mapping[str, Array]) -> None:
        """Resize to the shapes given; where the model cannot run with them, back to those that it ran with before."""
        changed = {name: array.shape for name, array in feeds.items() if array.shape != self._shapes[name]}
        if not changed:
            return
        try:
            self._resize(changed)
        except _ERRORS as error:
            spelt = ", ".join(f"{name!r} {list(shape)}" for name, shape in changed.items())
            sentence = f"{self._model}: it cannot run with {spelt}: {self._news(error)}"
            try:
                self._resize({name: self._shapes[name] for name in changed})
            except _ERRORS as second:
                raise InferenceFailed(f"{sentence}; nor again as before: {self._news(second)}") from second
            raise self._refusal(sentence) from error
        self._shapes = {**self._shapes, **changed}

    def _resize(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._inputs[name]["index"], shape, strict=True)
        self._interpreter.allocate_tensors()

    def _news(self, error: Exception) -> str:
        """What the runtime says now: its interpreter repeats before it all that it said since it was made."""
        before, self._said = self._said, str(error)
        fresh = self._said.removeprefix(before) if isinstance(error, RuntimeError) else ""
        if len(self._said) > MAX_SAID_CHARACTERS and self._remake is not None:
            with suppress(*_ERRORS):
                made = self._remake()
                made.allocate_tensors()
                self._interpreter, self._shapes, self._said = made, self._begun, ""
        return " ".join(fresh.split()) or _reason(error)

    def bind(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None] | None:  # noqa: ARG002
        """The interpreter reads and writes memory of its own."""
        return None


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
        indices = [int(detail["index"]) for detail in interpreter.get_input_details()]
        if len(set(indices)) < len(indices):
            raise ModelLoadFailed(f"{order.model}: one tensor of the file is two of its inputs")
        remake = None if order.provider == EXTERNAL else partial(_interpreter, runtime, order)
        return LitertSession(order.model, interpreter, _assignment(interpreter, order.provider), remake)
    except _ERRORS as error:
        raise ModelLoadFailed(f"{order.model}: {_reason(error)}") from error
    except MemoryError as error:
        raise ModelLoadFailed(f"{order.model}: out of memory while loading") from error


def _compiled(interpreter: Any, order: LoadOrder) -> Session:
    """With the names and the operators that this interpreter, which never runs, has read."""
    inputs, outputs = (
        {int(detail["index"]): _signature(order.model, name, detail) for name, detail in _ports(details).items()}
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
    return one_line(str(error)) or type(error).__name__


def _ports(details: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """By name; the file may call several of them alike."""
    return dict(zip(distinct([str(detail["name"]) for detail in details]), details, strict=True))


def _signature(model: str, name: str, detail: Mapping[str, Any]) -> Signature:
    declared = detail.get("shape_signature", detail["shape"])
    try:
        datatype = datatype_of(name, np.empty(0, detail["dtype"]))
    except InferenceFailed as error:
        raise ModelLoadFailed(f"{model}: {error.message}") from error
    if datatype == "BYTES":
        raise ModelLoadFailed(f"{model}: {name!r} holds strings, which this backend does not carry")
    return Signature(name, datatype, tuple(int(size) for size in declared))
