"""ONNX Runtime: built-in and plugin execution providers, and where the graph's nodes really went.

Works with onnxruntime ≥ 1.18; what an older version cannot tell is said in the notes of the load report.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.backends import engine_cache, narrow
from agent.backends.artifact import Assignment, LoadOrder
from agent.backends.formats import Array, Signature
from agent.backends.messages import one_line
from agent.control.memory_words import says_no_memory
from agent.errors import InferenceFailed, InputRefused, LaneOutOfMemory, ModelLoadFailed
from agent.schema.bfloat16 import BF16

CPU: Final = "CPUExecutionProvider"
_ONNX_BFLOAT16: Final = 16
_RECORD_ASSIGNMENT: Final = "session.record_ep_graph_assignment_info"
_SESSION_OPTION_PREFIX: Final = "session."
CUSTOM_OPERATORS: Final = "custom_operators"
"""Key of a runtime's options: library of operators that the file needs, registered before it is opened."""
_SPINNING: Final = "session.intra_op.allow_spinning"
_DATATYPES: Final[Mapping[str, str]] = {
    "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64", "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32",
    "tensor(int64)": "INT64", "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16", "tensor(string)": "BYTES",
}  # fmt: skip

_IN_HOST_MEMORY: Final = frozenset({CPU, "XNNPACKExecutionProvider"})
"""Providers that read a bound input where it lies. For others the runtime copies it once, when it is bound."""
_ABOUT_THE_INPUT: Final = "InvalidArgument"
"""The runtime's class for what a kernel says of its operands, on whichever provider."""
_OF_A_KERNEL: Final = frozenset({_ABOUT_THE_INPUT, "Fail", "RuntimeException", "NotImplemented"})
"""What kernels raise. On the processor itself no device can be to blame for it."""


class OnnxSession:
    """`artifact.Session` over an onnxruntime session."""

    def __init__(
        self, order: LoadOrder, session: Any, assignment: Assignment, errors: tuple[type[Exception], ...]
    ) -> None:
        self._model = order.model
        self._session = session
        self._errors = errors
        self.inputs = tuple(_signature(order.model, node) for node in session.get_inputs())
        self.outputs = tuple(_signature(order.model, node) for node in session.get_outputs())
        self.assignment = assignment
        self._by_processor = session.get_providers() == [CPU] and CUSTOM_OPERATORS not in order.options
        self._in_host_memory = _IN_HOST_MEMORY.issuperset(session.get_providers())
        self.narrow = order.provider in narrow.PROVIDERS and session.get_providers() != [CPU]
        self.bits = any(signature.datatype == "BF16" for signature in (*self.inputs, *self.outputs))

    def run(self, feeds: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        """Run once. Raises InferenceFailed with the runtime's reason, InputRefused where that is about the input."""
        if self.narrow and (name := narrow.too_wide(feeds)) is not None:
            raise InferenceFailed(f"{self._model}: input {name!r} holds integers that the provider cuts to 32 bits")
        try:
            arrays = self._run_values(feeds, outputs) if self.bits else self._session.run(outputs, feeds)
        except self._errors as error:
            raise self._failure(error) from error
        return [array if array.flags.c_contiguous else np.ascontiguousarray(array) for array in arrays]

    def bind(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None] | None:
        """A run between memory that stays where it is: nothing is allocated, wrapped or copied for it."""
        arrays = (*feeds.values(), *outputs.values())
        if self.bits or not self._in_host_memory or any(a.dtype.kind == "O" or not a.nbytes for a in arrays):
            return None
        binding = self._session.io_binding()
        try:
            for put, tensors in ((binding.bind_input, feeds), (binding.bind_output, outputs)):
                for name, array in tensors.items():
                    put(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        except self._errors:
            return None
        return partial(self._run_bound, binding, arrays)

    def _run_bound(self, binding: Any, _: tuple[Array, ...]) -> None:
        """The arrays are an argument so that they live as long as what is bound to their memory."""
        try:
            self._session.run_with_iobinding(binding)
        except self._errors as error:
            raise self._failure(error) from error
        except MemoryError as error:
            raise LaneOutOfMemory(f"{self._model}: out of memory while running") from error

    def _failure(self, error: Exception) -> InferenceFailed | LaneOutOfMemory:
        said = reason(error)
        kind: type[InferenceFailed | LaneOutOfMemory] = InferenceFailed
        if says_no_memory(said):
            kind = LaneOutOfMemory
        elif type(error).__name__ in (_OF_A_KERNEL if self._by_processor else {_ABOUT_THE_INPUT}):
            kind = InputRefused
        return kind(f"{self._model}: {said}")

    def _run_values(self, feeds: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        """Run where numpy has no type for a tensor, which therefore crosses as its bits."""
        make = importlib.import_module("onnxruntime").OrtValue
        values = {}
        for signature in self.inputs:
            array = feeds[signature.name]
            if signature.datatype == "BF16":
                values[signature.name] = make.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BFLOAT16)
            else:
                values[signature.name] = make.ortvalue_from_numpy(array)
        return [_bits(value) for value in self._session.run_with_ort_values(list(outputs), values)]


def _bits(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    nbytes = 2 * math.prod(shape)
    # The runtime's own conversion refuses this type; its memory is plain and lives until `value` goes.
    data = ctypes.string_at(value.data_ptr(), nbytes) if nbytes else b""
    return np.frombuffer(data, BF16).reshape(shape)


def open_session(order: LoadOrder) -> OnnxSession:
    """Load an .onnx file on the provider asked for. Raises ModelLoadFailed."""
    ort = _runtime(order)
    errors = runtime_errors(ort)
    if not Path(order.path).is_file():
        raise ModelLoadFailed(f"{order.model}: there is no model file {order.path}")
    options = _session_options(ort, order)
    notes: list[str] = []
    before = engine_cache.engines_in(Path(order.engines)) if order.engines is not None else frozenset()
    try:
        recorded = _record_assignment(options, notes)
        with warnings.catch_warnings():
            # An unavailable provider is only warned about; the report says it, and the policy decides.
            warnings.simplefilter("ignore")
            session = _make_session(ort, order, options, notes)
        session.disable_fallback()
        _say_engines(order, before, notes)
        _say_inputs(session, notes)
        assignment = _assignment(session, order.provider, recorded, notes)
    except errors as error:
        raise ModelLoadFailed(f"{order.model}: {reason(error)}") from error
    except MemoryError as error:
        raise ModelLoadFailed(f"{order.model}: out of memory while loading") from error
    opened = OnnxSession(order, session, assignment, errors)
    refused = narrow.refusal(opened.inputs, opened.outputs) if opened.narrow else None
    if refused is not None:
        raise ModelLoadFailed(f"{order.model}: {order.provider}: {refused}; other accelerators take it")
    if opened.bits and not hasattr(ort.OrtValue, "ortvalue_from_numpy_with_onnx_type"):
        raise ModelLoadFailed(f"{order.model}: onnxruntime {ort.__version__} cannot pass BF16 tensors from Python")
    return opened


def _runtime(order: LoadOrder) -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        sentence = f"{order.model}: onnxruntime cannot be imported ({error}); install qeil-agent[onnx]"
        raise ModelLoadFailed(sentence) from error


def runtime_errors(ort: Any) -> tuple[type[Exception], ...]:
    """Everything that onnxruntime's calls raise; its own classes share no base but Exception."""
    state = ort.capi.onnxruntime_pybind11_state
    own = [c for c in vars(state).values() if isinstance(c, type) and issubclass(c, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, AttributeError)


def reason(error: Exception) -> str:
    """The runtime's message without its decoration."""
    text = str(error)
    if text.startswith("[ONNXRuntimeError] : "):
        text = text.split(" : ", 3)[-1]
    return one_line(text) or type(error).__name__


def _session_options(ort: Any, order: LoadOrder) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = order.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if order.provider != CPU:
        # Its pool computes what the provider hands back; spinning between two such parts takes the provider's cores.
        options.add_session_config_entry(_SPINNING, "0")
    for key, value in order.options.items():
        if key.startswith(_SESSION_OPTION_PREFIX):
            options.add_session_config_entry(key, value)
    library = order.options.get(CUSTOM_OPERATORS)
    if library is not None:
        _register(options, order, library, runtime_errors(ort))
    return options


def _register(options: Any, order: LoadOrder, library: str, errors: tuple[type[Exception], ...]) -> None:
    if not Path(library).is_file():
        raise ModelLoadFailed(f"{order.model}: there is no operator library {library} (options.{CUSTOM_OPERATORS})")
    try:
        options.register_custom_ops_library(library)
    except errors as error:
        raise ModelLoadFailed(f"{order.model}: {library} is no operator library: {reason(error)}") from error


def _record_assignment(options: Any, notes: list[str]) -> bool:
    try:
        options.add_session_config_entry(_RECORD_ASSIGNMENT, "1")
    except RuntimeError as error:
        notes.append(f"this onnxruntime does not record where nodes run ({reason(error)})")
        return False
    return True


def _make_session(ort: Any, order: LoadOrder, options: Any, notes: list[str]) -> Any:
    own = {k: v for k, v in order.options.items() if not k.startswith(_SESSION_OPTION_PREFIX) and k != CUSTOM_OPERATORS}
    if order.plugin is not None:
        devices = _plugin_devices(ort, order)
        device = devices[0].ep_metadata.get("ov_device")
        options.add_provider_for_devices(devices[:1], _with_cache(order, own, device, notes))
        return ort.InferenceSession(order.path, options)
    if order.provider not in ort.get_available_providers():
        notes.append(f"{order.provider} is not in this onnxruntime ({', '.join(ort.get_available_providers())})")
        return ort.InferenceSession(order.path, options, providers=[CPU])
    return ort.InferenceSession(order.path, options, providers=[(order.provider, _with_cache(order, own, None, notes))])


def _say_inputs(session: Any, notes: list[str]) -> None:
    """What of the file's inputs cannot be asked for. The runtime tells an unknown rank as it tells a single value."""
    notes += [
        f"input {node.name!r} is declared without sizes: it takes a single value (shape [])"
        for node in session.get_inputs()
        if not node.shape
    ]
    notes += [
        f"input {node.name!r} has a default in the file, which is used; requests cannot give it"
        for node in session.get_overridable_initializers()
    ]


def _say_engines(order: LoadOrder, before: frozenset[str], notes: list[str]) -> None:
    """What became of the cache: a first load that compiles is long, and the next one is not."""
    if order.engines is None or not engine_cache.caches(order.provider):
        return
    made = engine_cache.engines_in(Path(order.engines)) - before
    if made:
        notes.append(f"compiled; what was compiled is kept for the next start in {order.engines}")
    elif before:
        notes.append(f"compiled engines were there already in {order.engines}")


def _with_cache(order: LoadOrder, options: dict[str, str], device: str | None, notes: list[str]) -> dict[str, str]:
    """The provider's options with its engine cache, where it has one and the folder can be made."""
    if order.engines is None or not engine_cache.caches(order.provider):
        return options
    try:
        Path(order.engines).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        notes.append(f"compiled engines are not kept: {order.engines}: {error.strerror}")
        return options
    return engine_cache.with_cache(order.provider, options, order.engines, device)


def _plugin_devices(ort: Any, order: LoadOrder) -> list[Any]:
    if not hasattr(ort, "register_execution_provider_library"):
        raise ModelLoadFailed(f"{order.model}: onnxruntime {ort.__version__} is too old for plugin providers (1.23)")
    library = plugin_library(order)
    known = [d for d in ort.get_ep_devices() if d.ep_name == order.provider]
    if not known:
        ort.register_execution_provider_library(order.provider, library)
        known = [d for d in ort.get_ep_devices() if d.ep_name == order.provider]
    if not known:
        names = sorted({d.ep_name for d in ort.get_ep_devices()})
        raise ModelLoadFailed(f"{order.model}: {library} offers no {order.provider} device here ({', '.join(names)})")
    return known


def plugin_library(order: LoadOrder) -> str:
    """Path of a plugin provider's library, from a .so path or a package's `get_library_path()`."""
    plugin = order.plugin or ""
    if "/" in plugin or plugin.endswith(".so"):
        if not Path(plugin).is_file():
            raise ModelLoadFailed(f"{order.model}: there is no plugin library {plugin}")
        return plugin
    try:
        package = importlib.import_module(plugin)
        return str(package.get_library_path())
    except (ImportError, AttributeError, OSError) as error:
        raise ModelLoadFailed(f"{order.model}: the package {plugin!r} brings no provider library ({error})") from error


def _assignment(session: Any, requested: str, recorded: bool, notes: list[str]) -> Assignment:
    if not recorded or not hasattr(session, "get_provider_graph_assignment_info"):
        notes.append("this onnxruntime does not tell which provider runs which node")
        return Assignment(tuple(session.get_providers()), None, None, tuple(notes))
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    ranked = sorted(counts, key=lambda name: (name != requested, -counts[name], name))
    actual = tuple(ranked) or tuple(session.get_providers())
    return Assignment(actual, sum(counts.values()), counts.get(requested, 0), tuple(notes))


def _signature(model: str, node: Any) -> Signature:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise ModelLoadFailed(f"{model}: {node.name!r} is a {node.type}, which the protocol cannot carry")
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return Signature(node.name, datatype, shape)
