"""Extras: the optional packages of qeil, and the command that brings them beside this copy of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

PACKAGED = Path("/usr/lib/qeil")
"""Where the Debian package keeps the program; what it runs beside itself lies in RUNTIMES."""
RUNTIMES = "/opt/qeil/runtimes"

WHEELS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("ai-edge-litert",),
    "llm": ("llguidance", "jinja2", "onnx", "onnxruntime", "tokenizers"),
    "openvino": ("onnxruntime-ep-openvino",),
    "plots": ("matplotlib",),
    "fleet": ("sqlalchemy", "psycopg[binary]"),
    "otlp": ("opentelemetry-exporter-otlp-proto-http",),
}
"""Packages of each extra, as pyproject has them: a Debian package cannot be asked for an extra."""


def command(extra: str, program: Path | None = None) -> str:
    """What a shell takes to install `extra`, or several joined by commas.

    `program`: a file of the copy that needs it, this one's where None.
    """
    if PACKAGED not in (program or Path(__file__)).parents:
        return f"{sys.executable} -m pip install 'qeil-agent[{extra}]'"
    wheels = dict.fromkeys(wheel for name in extra.split(",") for wheel in WHEELS.get(name, ()))
    quoted = " ".join(f"'{wheel}'" if "[" in wheel else wheel for wheel in wheels)
    return f"sudo python3 -m pip install --target {RUNTIMES} {quoted}"
