"""Micro models: small graphs of known work, run on every accelerator to calibrate it.

Each isolates one coefficient: an operator family at one precision, memory bandwidth, the cost of a dispatch, the cost
of a node. `python -m agent.workload.micro OUT_DIR` writes them and their work as JSON, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from agent.child import child_command
from agent.errors import ModelLoadFailed
from agent.records import record
from agent.runtimes import registry
from agent.runtimes.entry import resolve
from agent.schema.workload import Family, Kernels, Precision, Work
from agent.workload.inspect import read

Kind = Literal["compute", "bandwidth", "cache", "dispatch", "node"]
TIMEOUT_S = 120.0


@record(frozen=True)
class MicroModel:
    """One micro model. `flops` and `bytes_moved` are per inference; `inputs` are float tensors by name and shape.

    `kernels` and `footprint_bytes` (all weights, inputs and outputs) come from the reader that served
    models are read with, so that both count the same work for the same graph.
    """

    name: str
    file: str
    format: str
    kind: Kind
    family: Family
    precision: Precision
    flops: float
    bytes_moved: float
    nodes: int
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    kernels: tuple[Kernels, ...] = ()
    footprint_bytes: float = 0.0
    io_bytes: float = 0.0
    io_tensors: int = 2


def described(path: Path, format_: str, kind: Kind, inputs: tuple[tuple[str, tuple[int, ...]], ...]) -> MicroModel:
    """What the reader finds in the file; family and precision are those of most of its operations."""
    workload = read(path, format_, {}, 1)[0]
    stages = workload.stages
    nothing = Work(family="elementwise", precision="fp32", flops=0.0)
    work = max((w for s in stages for w in s.work), key=lambda w: w.flops, default=nothing)
    weights = sum(s.weight_bytes for s in stages)
    io_bytes = stages[0].input_bytes + stages[-1].output_bytes
    return MicroModel(
        path.stem, path.name, format_, kind, work.family, work.precision, sum(s.flops for s in stages),
        weights + sum(s.activation_bytes + s.kv_bytes for s in stages), sum(s.nodes for s in stages), inputs,
        tuple(k for s in stages for k in s.kernels), weights + io_bytes, io_bytes,
        len(workload.inputs) + len(workload.outputs),
    )  # fmt: skip


def write_in_child(folder: Path, formats: tuple[str, ...]) -> tuple[tuple[MicroModel, ...], tuple[str, ...]]:
    """Write the models of those formats and return them with notes on what could not be made."""
    command = child_command("agent.workload.micro", str(folder), *formats)
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ModelLoadFailed(f"the calibration models could not be written: {lines[-1]}")
    data = json.loads(done.stdout)
    models = tuple(_loaded(m) for m in data["models"])
    return models, tuple(data["notes"])


def main(arguments: list[str]) -> int:
    """Entry of the child process."""
    folder = Path(arguments[0])
    models: list[MicroModel] = []
    notes: list[str] = []
    for format_ in arguments[1:]:
        made, note = _write(folder, format_)
        models += made
        notes += [note] if note else []
    documents = [{**asdict(m), "kernels": [k.model_dump(mode="json") for k in m.kernels]} for m in models]
    json.dump({"models": documents, "notes": notes}, sys.stdout)
    return 0


def _loaded(document: dict[str, Any]) -> MicroModel:
    inputs = tuple((name, tuple(shape)) for name, shape in document["inputs"])
    kernels = tuple(Kernels.model_validate(k) for k in document["kernels"])
    return MicroModel(**{**document, "inputs": inputs, "kernels": kernels})


def _write(folder: Path, format_: str) -> tuple[list[MicroModel], str | None]:
    try:
        backend = registry.of_format(format_)
        return ([] if backend is None else resolve(backend.micros)(folder)), None
    except ImportError as error:
        return [], f"{format_}: {error.name} is not installed, its accelerators are not calibrated"
    except Exception as error:  # noqa: BLE001 - an added backend's code: the others are calibrated
        return [], f"{format_}: its calibration models could not be written ({error})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
