"""Graph part: a decoder's graph, or its first or last layers, as a session of the runtime that writes into the cache.

Cut by dependency: the first part is whatever the caches of its layers need, the last one the rest. Both read the same
file of weights, each only what it needs, so that together they hold no more than the whole.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from agent.errors import BadInput, ModelLoadFailed
from agent.llm.folder import DecoderFolder
from agent.llm.kv_pool import KvRows
from agent.records import record

Tensors = Mapping[str, npt.NDArray[Any]]
SIDES = ("key", "value")


@record(frozen=True)
class Cut:
    """One side of a graph that was cut after `layers` layers; `crossing` are the tensors that the first part sends."""

    model: bytes
    layers: range
    outputs: tuple[str, ...]
    crossing: tuple[str, ...]


def cut(folder: DecoderFolder, mode: str | None, layers: int, side: Literal["first", "last"]) -> Cut:
    """One side of the graph of a mode. Raises BadInput for a number of layers that leaves a side empty."""
    import onnx  # noqa: PLC0415 - the package must import without it

    if not 1 <= layers < folder.layers:
        raise BadInput(f"{folder.name} has {folder.layers} layers; 1 to {folder.layers - 1} of them can run elsewhere")
    if not folder.shared_cache:
        raise BadInput(f"{folder.name} gives its cache back instead of writing into it; its layers cannot be divided")
    model = onnx.load(str(folder.graph(mode)), load_external_data=False)
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output if name}
    needed: set[int] = set()
    stack = [made[f"present.{i}.{s}"] for i in range(layers) for s in SIDES]
    while stack:
        node = stack.pop()
        if id(node) not in needed:
            needed.add(id(node))
            stack += [made[name] for name in node.input if name in made]
    ours = {name for node in graph.node if id(node) in needed for name in node.output if name}
    theirs = [node for node in graph.node if id(node) not in needed]
    crossing = tuple(dict.fromkeys(name for node in theirs for name in node.input if name in ours))
    first = side == "first"
    kept = range(layers) if first else range(layers, folder.layers)
    nodes = [node for node in graph.node if (id(node) in needed) == first]
    used = {name for node in nodes for name in node.input}
    outputs = crossing if first else ("logits",)
    received = [] if first else [_typed(graph, made, name) for name in crossing]
    part = onnx.helper.make_graph(
        nodes, f"{graph.name}-{side}", [given for given in graph.input if given.name in used] + received,
        [_loose(name) for name in outputs] + [o for o in graph.output if _layer(o.name) in kept],
        [tensor for tensor in graph.initializer if tensor.name in used],
    )  # fmt: skip
    whole = onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    return Cut(whole.SerializeToString(), kept, outputs, crossing)


def _layer(name: str) -> int:
    """Number of the layer whose cache an output is; -1 for others."""
    words = name.split(".")
    return int(words[1]) if words[0] == "present" and len(words) == 3 else -1


def _loose(name: str) -> Any:
    """A tensor whose type the runtime infers."""
    import onnx  # noqa: PLC0415 - as above

    return onnx.helper.make_empty_tensor_value_info(name)


def _typed(graph: Any, made: Mapping[str, Any], name: str) -> Any:
    """A tensor of any shape with the type that the operators before it give."""
    import onnx  # noqa: PLC0415 - as above

    known = {tensor.name: tensor.data_type for tensor in graph.initializer}
    known |= {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    at = name
    while at not in known:
        node = made[at]
        if node.op_type in _GIVES:
            known[at] = _GIVES[node.op_type]
        elif node.op_type == "Cast":
            known[at] = next(a.i for a in node.attribute if a.name == "to")
        elif node.op_type == "Constant":
            known[at] = next(a.t.data_type for a in node.attribute if a.name == "value")
        else:
            at = node.input[_TYPED_BY.get(node.op_type, 0)]
    return onnx.helper.make_tensor_value_info(name, known[at], None)


_GIVES: Final = {"Shape": 7, "Size": 7, "Equal": 9, "Greater": 9, "Less": 9}
"""Operators with a type of their own, as ONNX numbers types."""
_TYPED_BY: Final = {"GatherBlockQuantized": 2, "Where": 1}
"""Input whose type the output has, where it is not the first."""


class GraphPart:
    """A loaded graph or side of one. Not thread-safe."""

    def __init__(self, source: Path | Cut, folder: DecoderFolder, threads: int, errors: tuple[type[Exception], ...]):
        import onnxruntime as ort  # noqa: PLC0415 - as above

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # The runtime would keep a plan of its memory for every length of text there ever was.
        options.enable_mem_pattern = False
        graph: str | bytes = str(source) if isinstance(source, Path) else source.model
        if isinstance(source, Cut):
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.path))
        try:
            self.session: Any = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except errors as error:
            where = source if isinstance(source, Path) else f"{folder.path}, layers {source.layers}"
            raise ModelLoadFailed(f"{where}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
        self.layers = range(folder.layers) if isinstance(source, Path) else source.layers
        self.outputs = ("logits",) if isinstance(source, Path) else source.outputs
        self.types = {given.name: given.type for given in self.session.get_inputs()}
        self.names = [f"{i}.{side}" for i in self.layers for side in SIDES]
        self._binding: Any = None
        self._held: weakref.ref[KvRows] | None = None
        self._given: dict[str, npt.NDArray[Any]] = {}
        """What is bound: small arrays, kept because the runtime reads them in place."""
        self._logits: dict[tuple[int, ...], tuple[tuple[int, ...], np.dtype[Any]]] = {}
        """What the logits are by the shape of the ids, once it is known."""

    def run(self, given: Tensors, buffers: KvRows) -> list[npt.NDArray[Any]]:
        """The outputs; keys and values go into `buffers`, those of all layers of the model.

        After a step nothing is warm, as it went through all weights; so what is bound already is left as it is.
        """
        binding, held = self._bound_to(buffers), self._given
        for name, value in given.items():
            if name in self.types and held.get(name) is not value:
                binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
                held[name] = value
        known = self._logits.get(given["input_ids"].shape) if "input_ids" in given else None
        made = None if known is None else np.empty(*known)
        if made is None:
            for name in self.outputs:
                binding.bind_output(name)
        else:
            binding.bind_output("logits", "cpu", 0, made.dtype.type, made.shape, made.ctypes.data)
        self.session.run_with_iobinding(binding)
        if made is not None:
            return [made]
        outputs = [np.asarray(value.numpy()) for value in binding.get_outputs()[: len(self.outputs)]]
        self._learn(given, outputs)
        return outputs

    def _bound_to(self, buffers: KvRows) -> Any:
        """These buffers bound; as before where they are the same ones, since a hundred bindings take 0.5 ms."""
        if self._held is None or self._held() is not buffers:
            binding = self.session.io_binding()
            for name in self.outputs:
                binding.bind_output(name)  # bound first, so they are the first of get_outputs
            for name, buffer in zip(self.names, buffers[2 * self.layers.start : 2 * self.layers.stop], strict=True):
                where = ("cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)
                binding.bind_input(f"past_key_values.{name}", *where)
                binding.bind_output(f"present.{name}", *where)
            self._binding, self._held = binding, weakref.ref(buffers)
            self._given = {}
        return self._binding

    def _learn(self, given: Tensors, outputs: Sequence[npt.NDArray[Any]]) -> None:
        """Only the logits follow from the shape of the ids; what crosses a cut may follow the mask."""
        if self.outputs == ("logits",) and "input_ids" in given and given["input_ids"].shape[1] == 1:
            self._logits[given["input_ids"].shape] = (outputs[0].shape, outputs[0].dtype)
