"""The catalogue: workloads by name, for boards and models that one does not have.

`resolve_name` understands the spellings of published measurements (llama3.2:3b, resnet_v1_50, bert-99 …).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from agent.errors import BadInput
from agent.records import record
from agent.schema.workload import Phase, Precision, Workload
from agent.workload import catalogue_cnn, catalogue_totals
from agent.workload.catalogue_encoder import ENCODERS, SPEECH, build_encoder, build_rnnt, build_speech
from agent.workload.catalogue_llm import DECODERS, build
from agent.workload.catalogue_names import ALIASES
from agent.workload.catalogue_net import Options
from agent.workload.catalogue_totals import TOTALS, build_totals
from agent.workload.catalogue_yolo import SCALES, build_yolo
from agent.workload.graph import Graph
from agent.workload.stages import MAX_STAGES, split

Kind = Literal["vision", "encoder", "speech", "decoder"]
Builder = Callable[[Options], tuple[Graph, float]]
DEFAULT_TOKENS = 128
DEFAULT_CONTEXT = 1024


@record(frozen=True)
class CatalogueEntry:
    """An architecture by name. `source`: where its numbers are published."""

    name: str
    kind: Kind
    source: str
    build: Builder
    default_precision: Precision = "fp32"
    default_tokens: int = DEFAULT_TOKENS
    weight_bits: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Phases that the architecture has."""
        return ("prefill", "decode") if self.kind == "decoder" else (
            ("forward", "prefill", "decode") if self.kind == "speech" else ("forward",)
        )  # fmt: skip

    def parameters(self) -> float:
        """Number of weights, tied ones once."""
        phase: Phase = "decode" if self.kind == "decoder" else "forward"
        return self.build(Options(phase=phase, tokens=self.default_tokens))[1]

    def workload(
        self,
        phase: Phase = "forward",
        precision: Precision | None = None,
        batch: int = 1,
        tokens: int | None = None,
        context: int | None = None,
        weight_bits: float | None = None,
        image_size: int | None = None,
        max_stages: int = MAX_STAGES,
    ) -> Workload:
        """The workload of one pass.

        phase: `forward` of a decoder is its prefill. tokens: new positions (prefill, encoders; frames of RNN-T), >= 1.
        context: positions already in the cache (default 1024 for decode, 0 for prefill). weight_bits: storage of one
        weight including scales, where it is not that of the precision (4.5 for int4, 8 for int8). image_size: pixels
        of a side. Raises BadInput for a phase that the architecture does not have and for sizes below 1.
        """
        asked: Phase = "prefill" if phase == "forward" and self.kind == "decoder" else phase
        if asked not in self.phases:
            raise BadInput(f"{self.name} has no phase {phase}, only {', '.join(self.phases)}")
        count = self.default_tokens if tokens is None else tokens
        if min(batch, count, 1 if image_size is None else image_size) < 1 or (context or 0) < 0:
            raise BadInput(f"{self.name}: batch, tokens and image size must be at least 1, the context at least 0")
        cached = context if context is not None else DEFAULT_CONTEXT if asked == "decode" else 0
        chosen = precision or self.default_precision
        options = Options(
            phase=asked, precision=chosen, batch=batch, tokens=count, context=cached, size=image_size or 0,
            weight_bits=weight_bits or self.weight_bits,
        )  # fmt: skip
        graph, _ = self.build(options)
        return Workload(
            model=self.name, phase=asked, format="catalogue", batch=batch, stages=split(graph, max_stages),
            inputs=graph.input_specs, outputs=graph.output_specs, notes=(f"architecture: {self.source}", *self.notes),
        )  # fmt: skip


def _vision(name: str, function: Callable[[str, Options], tuple[Graph, float]], source: str) -> CatalogueEntry:
    return CatalogueEntry(name, "vision", source, lambda options: function(name, options))


def _entries() -> dict[str, CatalogueEntry]:
    cnn = catalogue_cnn
    found = [
        _vision("resnet-50", cnn.build_resnet50, "torchvision resnet50 (v1.5), 4.09 GMAC"),
        _vision("mobilenet-v1", cnn.build_mobilenet_v1, "Howard et al. 2017, 0.569 GMAC"),
        _vision("mobilenet-v2", cnn.build_mobilenet_v2, "Sandler et al. 2018, 0.300 GMAC"),
        _vision("mobilenet-v3-large", cnn.build_mobilenet_v3, "Howard et al. 2019, 0.217 GMAC"),
        _vision("mobilenet-v3-small", cnn.build_mobilenet_v3, "Howard et al. 2019, 0.056 GMAC"),
        _vision("ssd-mobilenet-v1", cnn.build_ssd, "TensorFlow detection zoo, 91 classes, 300x300"),
        _vision("ssd-mobilenet-v2", cnn.build_ssd, "TensorFlow detection zoo, 91 classes, 300x300"),
        _vision("ssd-mobilenet-v2-face", cnn.build_ssd, "Coral model zoo, one class, 300x300"),
        _vision("retinanet", cnn.build_retinanet, "MLPerf Inference, ResNeXt-50 32x4d, 800x800"),
        _vision("3d-unet", cnn.build_unet3d, "MLPerf Inference, KiTS19, one 128x128x128 window"),
    ]
    lite = "Tan and Le 2019; TensorFlow TPU repository (lite)"
    found += [_vision(name, cnn.build_efficientnet, lite) for name in cnn.EFFICIENTNETS]
    found += [_vision(name, build_yolo, "Ultralytics model YAML, 80 classes, 640x640") for name in SCALES]
    found += [_totals(name) for name in TOTALS]
    found += [_encoder(name) for name in ENCODERS]
    found += [_speech(name) for name in SPEECH]
    found.append(CatalogueEntry("rnn-t", "encoder", "MLPerf Inference RNN-T, Librispeech",
                                lambda options: build_rnnt("rnn-t", options), default_tokens=250))  # fmt: skip
    found += [_decoder(name) for name in DECODERS]
    return {entry.name: entry for entry in found}


def _totals(name: str) -> CatalogueEntry:
    row = TOTALS[name]
    return CatalogueEntry(
        name, "vision", row.source, lambda options: build_totals(name, row, options), notes=(catalogue_totals.NOTE,)
    )


def _encoder(name: str) -> CatalogueEntry:
    arch = ENCODERS[name]
    kind: Kind = "vision" if arch.patch else "encoder"
    tokens = {"clip-text": 77, "bert-large": 384}.get(name, DEFAULT_TOKENS)
    return CatalogueEntry(
        name, kind, arch.source, lambda options: build_encoder(name, arch, options), default_tokens=tokens
    )


def _speech(name: str) -> CatalogueEntry:
    arch = SPEECH[name]
    return CatalogueEntry(name, "speech", arch.source, lambda options: build_speech(name, arch, options), "fp16")


def _decoder(name: str) -> CatalogueEntry:
    arch = DECODERS[name]
    narrow = arch.weight_bits is not None
    return CatalogueEntry(
        name, "decoder", arch.source, lambda options: build(name, arch, options), "int4" if narrow else "fp16",
        weight_bits=arch.weight_bits,
    )  # fmt: skip


CATALOGUE: Mapping[str, CatalogueEntry] = MappingProxyType(_entries())

_NOISE = re.compile(
    r"(instruct|chat|base|hf|it|latest|float32|float|fp32|fp16|uint8|int8|non|quantized|precision|"
    r"tflite|onnx|coco|vision|detection|v1\.0|1\.0|99\.9|99|224|299|300|640|relu)"
)


def _squeezed(text: str) -> str:
    """Lower case, letters, digits and dots only."""
    return re.sub(r"[^a-z0-9.]+", "", text.lower())


def _tokens(text: str) -> str:
    """The name without words that say nothing about the architecture (precision, size of the image, tuning)."""
    words = re.split(r"[\s_:/\-]+", text.lower())
    kept = [w for w in words if w and not _NOISE.fullmatch(w)]
    return _squeezed("".join(kept))


def resolve_name(text: str) -> CatalogueEntry | None:
    """The entry that a published name means, or None. Case, separators and words such as `instruct` do not matter."""
    known = {_squeezed(name): name for name in CATALOGUE}
    known.update({_squeezed(alias): name for alias, name in ALIASES.items()})
    for spelling in (_squeezed(text), _tokens(text)):
        if spelling in known:
            return CATALOGUE[known[spelling]]
    return None
