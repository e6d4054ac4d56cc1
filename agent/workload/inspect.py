"""Inspection in a process of its own: the agent never loads protobuf, and a hostile file ends only its reader."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from agent.errors import ModelLoadFailed, QeilError
from agent.schema.workload import Workload

MEMORY_LIMIT_BYTES = 8 * 1024**3
Format = Literal["onnx", "tflite"]


def inspect_in_child(path: Path, format_: Format, dims: Mapping[str, int], timeout_s: float) -> tuple[Workload, ...]:
    """Read the graph in a child; ModelLoadFailed with the path and one line for whatever goes wrong there."""
    command = [sys.executable, "-m", "agent.workload.inspect", str(path), format_, json.dumps(dict(dims))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelLoadFailed(f"{path}: reading the graph took longer than {timeout_s:g} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"its reader ended with code {done.returncode}"]
        raise ModelLoadFailed(f"{path}: {lines[-1]}")
    return tuple(Workload.model_validate(document) for document in json.loads(done.stdout))


def read(path: Path, format_: Format, dims: Mapping[str, int]) -> Workload:
    """Read the graph in this process (which then holds protobuf or flatbuffers)."""
    try:
        if format_ == "onnx":
            from agent.workload import onnx_graph  # noqa: PLC0415  (optional runtime)

            return onnx_graph.read(path, dims)
        from agent.workload import tflite_graph  # noqa: PLC0415  (optional runtime)

        return tflite_graph.read(path)
    except ImportError as error:
        extra = "onnx" if format_ == "onnx" else "litert"
        raise ModelLoadFailed(f"{error.name} is not installed: pip install 'qeil-agent[{extra}]'") from error


def main(arguments: list[str]) -> int:
    """Entry of the child process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    path, format_, dims = Path(arguments[0]), arguments[1], json.loads(arguments[2])
    try:
        workload = read(path, "onnx" if format_ == "onnx" else "tflite", dims)
    except (QeilError, MemoryError, OSError) as error:
        print(getattr(error, "message", None) or f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    json.dump([workload.model_dump(mode="json")], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
