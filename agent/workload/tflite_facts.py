"""What a guard and the planner must know of a TFLite file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.control.model_guard import ModelFacts
from agent.schema.workload import Workload
from agent.workload import tflite_graph
from agent.workload.assembled import assembled
from agent.workload.sizes import DEFAULTS

CUSTOM = "custom"
"""Domain of operators that a runtime does not have itself."""
_DELEGATED = frozenset({"TFLite_Detection_PostProcess", "edgetpu-custom-op"})
"""Custom operators that the runtime or the profile's own delegate brings."""


def read(path: Path) -> ModelFacts:
    """What a guard judges. Raises ModelLoadFailed."""
    operators = tflite_graph.operator_names(tflite_graph.load(path))
    named = frozenset((CUSTOM if own and name not in _DELEGATED else "", name) for name, own in operators)
    return ModelFacts("", path.stat().st_size, None, named)


def workloads(path: Path, dims: Mapping[str, int], _: int) -> tuple[Workload, ...]:
    """The one workload of the file, a single stage: it cannot be cut. Raises ModelLoadFailed."""
    batch = dims.get("batch", DEFAULTS["batch"])
    return (assembled(path, "tflite", tflite_graph.read(tflite_graph.load(path), batch), "forward", batch, 1),)
