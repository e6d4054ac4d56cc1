"""Workloads of an ONNX file: one, or prefill and decode of a decoder with a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from agent import extras
from agent.errors import ModelLoadFailed
from agent.schema.workload import Workload
from agent.workload.assembled import assembled
from agent.workload.graph import Graph
from agent.workload.sizes import DEFAULTS

DECODE_CONTEXT = 1024
"""Tokens in the cache of a decoder's decode workload where nobody says."""
_PAST = ("past_key", "past.", "past_", "cache")


def read(path: Path, dims: Mapping[str, int], max_stages: int) -> tuple[Workload, ...]:
    """Read in this process, which then holds protobuf. Raises ModelLoadFailed."""
    try:
        from agent.workload import onnx_graph, onnx_outside  # noqa: PLC0415  (optional package)
    except ImportError as error:
        raise ModelLoadFailed(f"{error.name} is not installed: {extras.command('onnx')}") from error

    model = onnx_graph.outline(path)
    beside = onnx_outside.check_outside(model, path)
    batch = dims.get("batch", DEFAULTS["batch"])
    graph = _with_notes(onnx_graph.read(model, {**dims, "past": 0}), beside)
    if not _has_cache(graph):
        return (assembled(path, "onnx", graph, "forward", batch, max_stages),)
    prefill = assembled(path, "onnx", graph, "prefill", batch, max_stages)
    step = onnx_graph.read(model, {"past": DECODE_CONTEXT, **dims, "sequence": 1, "sequence_length": 1})
    return prefill, assembled(path, "onnx", _with_notes(step, beside), "decode", batch, max_stages)


def _with_notes(graph: Graph, notes: tuple[str, ...]) -> Graph:
    return replace(graph, notes=(*notes, *graph.notes))


def _has_cache(graph: Graph) -> bool:
    """Whether the graph takes a key–value cache of free length, as exported decoders do."""
    return any(spec.name.lower().startswith(_PAST) and -1 in spec.shape[1:] for spec in graph.input_specs)
