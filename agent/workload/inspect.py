"""Inspection in a process of its own: the agent never loads protobuf, and a hostile file ends only its reader.

`python -m agent.workload.inspect PATH [--format FORMAT] [--dims batch=1,sequence=128]` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import ModelLoadFailed
from agent.runtimes import registry
from agent.runtimes.entry import resolve
from agent.runtimes.shipped import SHIPPED
from agent.schema.workload import Workload
from agent.workload.reading_child import MEMORY_LIMIT_BYTES, ask, fail, limit_memory
from agent.workload.stages import MAX_STAGES

NICENESS = 10
"""Of the child: requests that are served meanwhile go first."""


def inspect_in_child(
    path: Path,
    format_: str,
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


def read(path: Path, format_: str, dims: Mapping[str, int], max_stages: int = MAX_STAGES) -> tuple[Workload, ...]:
    """Read the graph in this process (which then holds protobuf for ONNX)."""
    backend = registry.of_format(format_)
    if backend is None:
        raise ModelLoadFailed(f"nothing here reads {format_} files: expected {registry.endings()}")
    workloads: tuple[Workload, ...] = resolve(backend.graph)(path, dims, max_stages)
    return workloads


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
    parser.add_argument("--format", help="default: by the suffix")
    parser.add_argument("--dims", default="")
    parser.add_argument("--max-stages", type=int, default=MAX_STAGES)
    parser.add_argument("--memory-limit-bytes", type=int, default=MEMORY_LIMIT_BYTES)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Entry of the child process: JSON on success, else one line on standard error and code 1."""
    given = _arguments(arguments)
    backend = registry.of_file(given.path) or SHIPPED[0]
    format_ = given.format or backend.format
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
