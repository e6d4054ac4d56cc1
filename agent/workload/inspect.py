"""Inspection in a process of its own: the agent never loads protobuf, and a hostile file ends only its reader.

`python -m agent.workload.inspect PATH [--format onnx|tflite] [--dims batch=1,sequence=128]` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from agent.errors import ModelLoadFailed
from agent.schema.workload import Phase, Stage, Workload
from agent.workload.graph import Graph
from agent.workload.reading_child import MEMORY_LIMIT_BYTES, ask, fail, limit_memory
from agent.workload.sizes import DEFAULTS
from agent.workload.stages import MAX_STAGES, split

DECODE_CONTEXT = 1024
"""Tokens in the cache of a decoder's decode workload where nobody says."""
NICENESS = 10
"""Of the child: requests that are served meanwhile go first."""
MAX_NOTES = 20
Format = Literal["onnx", "tflite"]
_PAST = ("past_key", "past.", "past_", "cache")


def inspect_in_child(
    path: Path,
    format_: Format,
    dims: Mapping[str, int],
    timeout_s: float,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> tuple[Workload, ...]:
    """Read the graph in a child process: one workload, or prefill and decode of a decoder with a cache.

    dims: sizes of free dimensions by name or kind (batch, sequence, past, height, width); prefill starts from an empty
    cache, decode adds one position to `past` of them. Whatever goes wrong there is a ModelLoadFailed with the path and
    one line.
    """
    arguments = [
        str(path), "--format", format_, "--dims", ",".join(f"{k}={v}" for k, v in dims.items()),
        "--memory-limit-bytes", str(memory_limit_bytes),
    ]  # fmt: skip
    printed = ask("agent.workload.inspect", arguments, path, timeout_s)
    return tuple(Workload.model_validate(document) for document in json.loads(printed))


def read(path: Path, format_: Format, dims: Mapping[str, int], max_stages: int = MAX_STAGES) -> tuple[Workload, ...]:
    """Read the graph in this process (which then holds protobuf for ONNX)."""
    if format_ == "tflite":
        from agent.workload import tflite_graph  # noqa: PLC0415  (only the format that is asked for)

        batch = dims.get("batch", DEFAULTS["batch"])
        return (_workload(path, "tflite", tflite_graph.read(tflite_graph.load(path), batch), "forward", batch, 1),)
    try:
        from agent.workload import onnx_graph, onnx_outside  # noqa: PLC0415  (optional package)
    except ImportError as error:
        raise ModelLoadFailed(f"{error.name} is not installed: pip install 'qeil-agent[onnx]'") from error

    model = onnx_graph.outline(path)
    beside = onnx_outside.check_outside(model, path)
    batch = dims.get("batch", DEFAULTS["batch"])
    graph = _with_notes(onnx_graph.read(model, {**dims, "past": 0}), beside)
    if not _has_cache(graph):
        return (_workload(path, "onnx", graph, "forward", batch, max_stages),)
    prefill = _workload(path, "onnx", graph, "prefill", batch, max_stages)
    step = onnx_graph.read(model, {"past": DECODE_CONTEXT, **dims, "sequence": 1, "sequence_length": 1})
    return prefill, _workload(path, "onnx", _with_notes(step, beside), "decode", batch, max_stages)


def _with_notes(graph: Graph, notes: tuple[str, ...]) -> Graph:
    return replace(graph, notes=(*notes, *graph.notes))


def _has_cache(graph: Graph) -> bool:
    """Whether the graph takes a key–value cache of free length, as exported decoders do."""
    return any(spec.name.lower().startswith(_PAST) and -1 in spec.shape[1:] for spec in graph.input_specs)


def _workload(path: Path, format_: Format, graph: Graph, phase: Phase, batch: int, max_stages: int) -> Workload:
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


def parse_dims(text: str) -> dict[str, int]:
    """`batch=1,sequence=64` as a mapping. Raises ModelLoadFailed for anything else."""
    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.rpartition("=")
        if not name or not value.isdecimal():
            raise ModelLoadFailed(f"--dims {part!r}: write NAME=SIZE, for example batch=1,sequence=64")
        found[name] = int(value)
    return found


def _arguments(arguments: list[str]) -> Any:
    parser = argparse.ArgumentParser(prog="python -m agent.workload.inspect", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--format", choices=("onnx", "tflite"))
    parser.add_argument("--dims", default="")
    parser.add_argument("--max-stages", type=int, default=MAX_STAGES)
    parser.add_argument("--memory-limit-bytes", type=int, default=MEMORY_LIMIT_BYTES)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Entry of the child process: JSON on success, else one line on standard error and code 1."""
    given = _arguments(arguments)
    format_: Format = given.format or ("tflite" if given.path.suffix.lower() == ".tflite" else "onnx")
    limit = limit_memory(given.memory_limit_bytes)
    try:
        workloads = read(given.path, format_, parse_dims(given.dims), max(1, given.max_stages))
    except ModelLoadFailed as error:
        return fail(error.message)
    except MemoryError:
        return fail(f"reading the graph needs more than {limit >> 20} MiB")
    except RecursionError:
        return fail("its subgraphs are nested too deeply")
    json.dump([w.model_dump(mode="json") for w in workloads], sys.stdout)
    return 0


if __name__ == "__main__":
    os.nice(NICENESS)
    sys.exit(main(sys.argv[1:]))
