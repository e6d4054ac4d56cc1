"""Doctor's canaries for the shipped backends: tiny models that came with the agent, put where they are wanted."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def onnx(folder: Path) -> Path:
    """The canary as an ONNX file in the folder."""
    return _put("canary.onnx", folder)


def litert(folder: Path) -> Path:
    """The canary as a TFLite file in the folder."""
    return _put("canary.tflite", folder)


def _put(name: str, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(resources.files("agent.service").joinpath(f"canary/{name}").read_bytes())
    return path
