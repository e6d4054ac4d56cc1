"""Writing the stage models of one ONNX file, and comparing them with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx.shape_inference
from onnx import NodeProto, TensorProto, helper

from agent.errors import ModelLoadFailed
from agent.workload import onnx_graph, onnx_weights
from agent.workload.graph import Graph
from agent.workload.onnx_cut import Slice
from agent.workload.onnx_shapes import element_type
from agent.workload.onnx_split import VARIANTS, Order, StageFile
from agent.workload.onnx_verify import Signature, Trial, Whole

_IMAGE_RANK = 4


class StageWriter:
    """Stage models of one parsed model. Raises ModelLoadFailed, OSError where the folder cannot be written."""

    def __init__(self, order: Order, model: Any, graph: Graph, told: Callable[[str], None]) -> None:
        """Changes the model: its large weights move to the folder of the stages."""
        self._order = order
        self._told = told
        self._model = model
        self._whole: Whole | None = None
        self._weights = {t.name: _nbytes(t) for t in model.graph.initializer}
        self._feeds = self._variants() if order.check else []
        told("writing the weights")
        order.folder.mkdir(parents=True, exist_ok=True)
        onnx_weights.share(model, order.path, order.folder)
        self._types = _Types(model, {n: (t.dtype, len(t.shape)) for n, t in graph.tensors.items()})

    def write(
        self, slices: Sequence[Slice], names: Sequence[str], timed: bool = True
    ) -> tuple[tuple[StageFile, ...], Trial | None]:
        """Stage models and what their check saw, None where the order asks for none.

        Where bits differ, images that cross get an entry of their own: a pooling of one pixel, which changes no number
        but lets the runtime choose its blocked layout for all readers, so that residuals fuse as in the whole model.
        """
        files = self._written(slices, names, entries=False)
        if not self._order.check:
            return files, None
        trial = self._trial(files, timed)
        if trial.differs is not None and any(self._is_image(name) for cut in slices for name in cut.receives):
            pooled = self._written(slices, names, entries=True)
            again = self._trial(pooled, timed)
            if again.differs is None:
                return pooled, again
        return files, trial

    def _trial(self, files: Sequence[StageFile], timed: bool) -> Trial:
        self._told(f"comparing {len(files)} stages with the whole model")
        if self._whole is None:
            self._whole = Whole(self._order.path, self._feeds, self._order.threads)
        return self._whole.trial([(f.path, f.sends) for f in files], timed)

    def _variants(self) -> list[list[Signature]]:
        variants = []
        for dims in VARIANTS:
            try:
                graph = onnx_graph.read(self._model, {"past": 0, **dims})
            except ModelLoadFailed:
                continue  # its shapes do not allow these sizes
            tensors = [graph.tensors[name] for name in graph.inputs]
            variants.append([(t.name, t.dtype, t.shape) for t in tensors])
        return variants

    def _written(self, slices: Sequence[Slice], names: Sequence[str], entries: bool) -> tuple[StageFile, ...]:
        self._told(f"writing {len(slices)} stages")
        written = []
        for cut, name in zip(slices, names, strict=True):
            target = self._order.folder / f"{name}.onnx"
            _replace(target, self._stage_model(cut, name, entries).SerializeToString(deterministic=True))
            written.append(
                StageFile(
                    target, cut.given, cut.receives, cut.sends, cut.answers, len(cut.nodes), cut.copies,
                    sum(self._weights.get(w, 0) for w in cut.weights),
                )
            )  # fmt: skip
        return tuple(written)

    def _stage_model(self, cut: Slice, name: str, entries: bool) -> Any:
        """The stage as a model of its own, with the versions of the whole one."""
        graph = self._model.graph
        images = [n for n in cut.receives if self._is_image(n)] if entries else []
        nodes = _with_entries(cut.nodes, images)
        made = {output for node in cut.nodes for output in node.output}
        ends = {*cut.inputs, *cut.outputs}
        replaceable = [v for v in graph.input if v.name in cut.weights and v.name not in ends]
        stage = helper.make_graph(
            nodes, name.lstrip("."), [self._types.of(n) for n in cut.inputs] + replaceable,
            [self._types.of(n) for n in cut.outputs], [t for t in graph.initializer if t.name in cut.weights],
            value_info=[v for v in graph.value_info if v.name in made and v.name not in ends],
            sparse_initializer=[t for t in graph.sparse_initializer if t.values.name in cut.weights],
        )  # fmt: skip
        written = helper.make_model(stage, opset_imports=list(self._model.opset_import), producer_name="qeil-agent")
        written.ir_version = self._model.ir_version
        return written

    def _is_image(self, name: str) -> bool:
        kind = self._types.of(name).type.tensor_type
        return kind.elem_type == TensorProto.FLOAT and len(kind.shape.dim) == _IMAGE_RANK


def _with_entries(nodes: Sequence[Any], images: Sequence[str]) -> list[Any]:
    """The nodes with a pooling of one pixel before those that read the images."""
    renamed = {name: f"{name}/entry" for name in images}
    made = [
        helper.make_node("AveragePool", [name], [entry], name=entry, kernel_shape=[1, 1])
        for name, entry in renamed.items()
    ]
    for node in nodes:
        own = NodeProto()
        own.CopyFrom(node)
        own.input[:] = [renamed.get(name, name) for name in node.input]
        made.append(own)
    return made


class _Types:
    """Types of the tensors that cross: declared, inferred, or as the cost model knows them."""

    def __init__(self, model: Any, known: dict[str, tuple[str, int]]) -> None:
        try:
            inferred = onnx.shape_inference.infer_shapes(model).graph
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            inferred = model.graph
        # What the model declares of its ends wins over what was inferred.
        self._found = {v.name: v for v in (*inferred.value_info, *model.graph.output, *model.graph.input)}
        self._inferred = {v.name: v for v in inferred.output}
        self._known = known

    def of(self, name: str) -> Any:
        """ValueInfoProto of a tensor. Raises ModelLoadFailed where nothing tells its type."""
        for found in (self._found.get(name), self._inferred.get(name)):
            if found is not None and found.type.tensor_type.elem_type:
                return found
            if found is not None and found.type.WhichOneof("value") not in (None, "tensor_type"):
                raise ModelLoadFailed(f"cannot be cut at {name!r}: it is no tensor but a sequence, map or optional")
        if name not in self._known:
            raise ModelLoadFailed(f"cannot be cut at {name!r}: its type is not known")
        dtype, rank = self._known[name]
        return helper.make_tensor_value_info(name, element_type(dtype), [None] * rank)


def _nbytes(tensor: Any) -> int:
    """Bytes of a weight as stored."""
    elements = 1
    for size in tensor.dims:
        elements *= size
    try:
        return int(elements * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, TypeError):
        return 0


def _replace(target: Path, data: bytes) -> None:
    """Replace the file whole: a lane may be opening it."""
    partial = onnx_weights.partial_of(target)
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(target)
