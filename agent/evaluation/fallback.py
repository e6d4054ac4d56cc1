"""Fallback: architectures that the table of architectures lacks, counted from the catalogue of workloads."""

from __future__ import annotations

import re

from agent.evaluation.architectures import Architecture, Language, Vision
from agent.storage.schema_problems import closest
from agent.workload.catalogue import CATALOGUE, CatalogueEntry, resolve_name
from agent.workload.catalogue_llm import DECODERS

_TASKS: tuple[tuple[str, str], ...] = (
    ("yolo", r"yolo"), ("ssd", r"ssd"), ("vit", r"vit|clip|dino|swin"), ("bert", r"bert|minilm"),
    ("speech", r"rnn-t"), ("unet3d", r"3d-unet"), ("seg", r"deeplab"), ("mobile", r"mobilenet|efficientnet"),
)  # fmt: skip
"""Kind of network in the fit → pattern on the catalogue's name."""

FP32_BYTES = 4.0
FP16_BYTES = 2.0


def architecture_of(model: str) -> Architecture | None:
    """The catalogue's count of a model that it knows, or None.

    Speech models as a whole are none: the length of the transcript decides their work, and tables do not state it.
    """
    entry = resolve_name(model)
    if entry is None or entry.kind == "speech":
        return None
    return _language(entry) if entry.kind == "decoder" else _vision(entry)


def suggestion(model: str) -> str:
    """` – did you mean …?` for a name that is nearly one of the catalogue, else nothing."""
    near = closest(model.lower().strip(), tuple(CATALOGUE))
    return f" – did you mean {near}?" if near else ""


def _language(entry: CatalogueEntry) -> Language:
    arch = DECODERS[entry.name]
    table = float(arch.vocab * arch.hidden)
    total = entry.parameters()
    stages = entry.workload("decode", precision="fp16", weight_bits=16.0).stages
    params = total - (0.0 if arch.tied else table)
    return Language(
        name=entry.name,
        params=params,
        active_params=min(params, sum(stage.weight_bytes for stage in stages) / FP16_BYTES),
        body_params=total - table * (1.0 if arch.tied else 2.0),
        layers=float(arch.layers),
        attention_layers=float(sum(arch.attends(layer) for layer in range(arch.layers))),
        hidden=float(arch.hidden),
        kv_elements=2.0 * arch.kv_heads * arch.head_dim,
        hybrid=arch.mixers > 0,
    )


def _vision(entry: CatalogueEntry) -> Vision:
    stages = entry.workload(precision="fp32").stages
    macs: dict[str, float] = {}
    for work in (work for stage in stages for work in stage.work):
        macs[work.family] = macs.get(work.family, 0.0) + work.flops / 2.0
    nodes = sum(stage.nodes for stage in stages)
    params = entry.parameters()
    return Vision(
        name=entry.name,
        task=next((task for task, pattern in _TASKS if re.search(pattern, entry.name)), "cnn"),
        conv_macs=macs.get("conv", 0.0),
        depthwise_macs=macs.get("depthwise", 0.0),
        gemm_macs=macs.get("gemm", 0.0),
        attention_macs=macs.get("attention", 0.0),
        params=params,
        activations=sum(stage.activation_bytes for stage in stages) / (2.0 * FP32_BYTES),
        # The catalogue lumps some networks into two nodes; a launch for every 0.3 million weights is their order.
        kernels=float(max(nodes, 40.0 if nodes < 10 else 0.0, params / 3e5 if nodes < 10 else 0.0)),
        passes=1.0,
    )
