"""Micro models: small graphs of known work, run on every accelerator to calibrate it.

Each isolates one coefficient: an operator family at one precision, memory bandwidth, the cost of a dispatch, the cost
of a node. `python -m agent.workload.micro OUT_DIR` writes them and their work as JSON, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from agent.errors import ModelLoadFailed
from agent.schema.workload import Family, Precision

Kind = Literal["compute", "bandwidth", "cache", "dispatch", "node"]
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class MicroModel:
    """One micro model. `flops` and `bytes_moved` are per inference at the written shapes."""

    name: str
    file: str
    format: Literal["onnx", "tflite"]
    kind: Kind
    family: Family
    precision: Precision
    flops: float
    bytes_moved: float
    nodes: int
    input_name: str
    input_shape: tuple[int, ...]
    input_datatype: str


def write_in_child(folder: Path, formats: tuple[str, ...]) -> tuple[tuple[MicroModel, ...], tuple[str, ...]]:
    """Write the models of those formats and return them with notes on what could not be made."""
    command = [sys.executable, "-m", "agent.workload.micro", str(folder), *formats]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ModelLoadFailed(f"the calibration models could not be written: {lines[-1]}")
    data = json.loads(done.stdout)
    models = tuple(MicroModel(**{**m, "input_shape": tuple(m["input_shape"])}) for m in data["models"])
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
    json.dump({"models": [asdict(m) for m in models], "notes": notes}, sys.stdout)
    return 0


def _write(folder: Path, format_: str) -> tuple[list[MicroModel], str | None]:
    try:
        if format_ == "onnx":
            from agent.workload import micro_onnx  # noqa: PLC0415  (optional runtime)

            return micro_onnx.write(folder), None
        from agent.workload import micro_tflite  # noqa: PLC0415  (optional runtime)

        return micro_tflite.write(folder), None
    except ImportError as error:
        return [], f"{format_}: {error.name} is not installed, its accelerators are not calibrated"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
