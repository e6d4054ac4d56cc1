"""Architectures by name: operations, weights, activations and kernels of models that a table only names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from agent.errors import ConfigError
from agent.evaluation.spelling import model_name, model_pattern
from agent.records import record
from agent.storage import yaml_files


@record(frozen=True, slots=True)
class Vision:
    """A network run once per sample; multiply–accumulates and elements of one sample."""

    name: str
    task: str
    conv_macs: float
    depthwise_macs: float
    gemm_macs: float
    attention_macs: float
    params: float
    activations: float
    kernels: float
    passes: float


@record(frozen=True, slots=True)
class Language:
    """A decoder-only language model; parameters in elements."""

    name: str
    params: float
    active_params: float
    """Read for one token; below `params` for a mixture of experts."""
    body_params: float
    """Without the vocabulary: what each prompt token costs."""
    layers: float
    attention_layers: float
    hidden: float
    kv_elements: float
    """K plus V of one token in one layer."""
    hybrid: bool

    @property
    def active_body_params(self) -> float:
        """Body parameters that one token uses."""
        return self.body_params * self.active_params / self.params


Architecture = Vision | Language


class Architectures:
    """The catalogue; the first entry whose pattern is found in a name counts."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._entries: list[tuple[re.Pattern[str], Architecture]] = []
        self._entries += [(model_pattern(e["match"]), _language(e)) for e in document["llm"]]
        self._entries += [(model_pattern(e["match"]), _vision(e)) for e in document["vision"]]

    def find(self, model: str) -> Architecture | None:
        """Architecture of a model's name as people write it, or None."""
        text = model_name(model)
        for pattern, architecture in self._entries:
            if pattern.search(text):
                return architecture
        return None


def _language(entry: dict[str, Any]) -> Language:
    params = 1e9 * entry["params"]
    return Language(
        name=entry["match"],
        params=params,
        active_params=1e9 * entry.get("active", entry["params"]),
        body_params=1e9 * entry["body"],
        layers=float(entry["layers"]),
        attention_layers=float(entry.get("attention_layers", entry["layers"])),
        hidden=float(entry["hidden"]),
        kv_elements=float(entry["kv"]),
        hybrid=bool(entry.get("hybrid", False)),
    )


def _vision(entry: dict[str, Any]) -> Vision:
    return Vision(
        name=entry["match"],
        task=entry["task"],
        conv_macs=1e9 * entry.get("conv", 0.0),
        depthwise_macs=1e9 * entry.get("depthwise", 0.0),
        gemm_macs=1e9 * entry.get("gemm", 0.0),
        attention_macs=1e9 * entry.get("attention", 0.0),
        params=1e6 * entry["params"],
        activations=1e6 * entry["activations"],
        kernels=float(entry["kernels"]),
        passes=float(entry.get("passes", 1)),
    )


def load_architectures(path: Path) -> Architectures:
    """The catalogue from its YAML file. Raises ConfigError."""
    document = yaml_files.read_document(path).data
    if not isinstance(document, dict) or not {"vision", "llm"} <= set(document):
        raise ConfigError(f"{path}: is not a catalogue of architectures")
    return Architectures(document)
