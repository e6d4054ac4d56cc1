"""A workload from a graph that some format's reader made: cut into stages, with what its inputs leave open."""

from __future__ import annotations

from pathlib import Path

from agent.schema.workload import Phase, Stage, Workload
from agent.workload.graph import Graph
from agent.workload.stages import split

MAX_NOTES = 20


def assembled(path: Path, format_: str, graph: Graph, phase: Phase, batch: int, max_stages: int) -> Workload:
    """The work of one pass over the graph of a file."""
    stages = split(graph, max_stages)
    if format_ == "onnx" and any(-1 in spec.shape for spec in graph.input_specs):
        stages = tuple(_with_open_sizes(stage) for stage in stages)
    return Workload(
        model=path.stem, phase=phase, format=format_, batch=max(1, batch), stages=stages,
        inputs=graph.input_specs, outputs=graph.output_specs, open_elements=_open_elements(graph),
        notes=graph.notes[:MAX_NOTES],
    )  # fmt: skip


def _open_elements(graph: Graph) -> int | None:
    names = [spec.name for spec in graph.input_specs if -1 in spec.shape]
    if not names or any(name not in graph.tensors for name in names):
        return None
    return sum(graph.tensors[name].elements for name in names)


def _with_open_sizes(stage: Stage) -> Stage:
    kernels = tuple(kernel.model_copy(update={"open_sizes": True}) for kernel in stage.kernels)
    return stage.model_copy(update={"kernels": kernels})
