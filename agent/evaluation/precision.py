"""Precision of a measurement: bytes per stored weight and the arithmetic it was computed in, from what people write."""

from __future__ import annotations

import re

from agent.evaluation.table import Measurement
from agent.records import record


@record(frozen=True, slots=True)
class Format:
    """How weights are stored and multiplied."""

    name: str
    weight_bytes: float
    arithmetic: str
    activation_bytes: float
    file_bytes: float | None = None
    """Size of the weights where the table states it."""


_RULES: tuple[tuple[str, Format], ...] = (
    (r"q1_0", Format("q1", 0.16, "int8", 2)),
    (r"q2_0", Format("q2", 0.28, "int8", 2)),
    (r"iq1", Format("q1", 0.22, "int8", 2)),
    (r"iq2", Format("q2k", 0.31, "int8", 2)),
    (r"iq3", Format("q3k", 0.44, "int8", 2)),
    (r"iq4", Format("q4", 0.56, "int8", 2)),
    (r"q6_k", Format("q6", 0.82, "int8", 2)),
    (r"q2_k", Format("q2k", 0.36, "int8", 2)),
    (r"q3_k", Format("q3k", 0.46, "int8", 2)),
    (r"q8_0|\bq8\b", Format("q8", 1.0625, "int8", 2)),
    (r"q5_|\bq5\b", Format("q5", 0.70, "int8", 2)),
    (r"q4f16", Format("w4", 0.5625, "fp16", 2)),
    (r"q4_|\bq4\b|gguf|4-bit|4bit", Format("q4", 0.61, "int8", 2)),
    (r"w4a16_g", Format("w4g", 0.60, "int8", 2)),
    (r"fp4|mxfp4|nvfp4", Format("fp4", 0.5625, "int8", 2)),
    (r"w4|int4|awq|gptq|i4\b|nf4", Format("w4", 0.5625, "fp16", 2)),
    (r"w8a16", Format("w8a16", 1.0, "int8", 2)),
    (r"w8a8|w8|int-?8|uint-?8|\bi8|\bu8|fp8|8-?bit|quantized", Format("int8", 1.0, "int8", 1)),
    (r"fp-?16|float-?16|w16|bf-?16|^float$|\bf16|half|tf32", Format("fp16", 2.0, "fp16", 2)),
    (r"fp-?32|float-?32|\bf32|single|full", Format("fp32", 4.0, "fp32", 4)),
)

INT8, FP16, FP32, W4 = _RULES[-3][1], _RULES[-2][1], _RULES[-1][1], _RULES[-5][1]
_INTEGER_PATHS = {"edgetpu", "qaic", "rknn", "hailo", "rkllm", "tflite"}


def storage_format(row: Measurement, path: str, *, language: bool) -> Format:
    """Format of a row; where it states none, what the path and model usually use."""
    text = row.precision.lower()
    size = re.search(r"(\d+(?:\.\d+)?) ?(mb|gb)\b", text)
    file_bytes = float(size.group(1)) * (1e6 if size.group(2) == "mb" else 1e9) if size else None
    if "~" in text:
        file_bytes = None
    if path == "tensorrt" and re.search(r"gpt-?j", row.model.lower()):
        # Published as fp16, which names its activations: 16-bit weights could not be read in the time it takes.
        return W4
    for pattern, found in _RULES:
        if re.search(pattern, text):
            return Format(found.name, found.weight_bytes, found.arithmetic, found.activation_bytes, file_bytes)
    return _usual(row, path, language=language)


def _usual(row: Measurement, path: str, *, language: bool) -> Format:
    model = row.model.lower()
    if language:
        return FP16 if path == "tensorrt" else W4
    if path == "tensorrt":
        return FP16 if re.search(r"rnn|diffusion|gpt", model) else INT8
    if path in _INTEGER_PATHS or "quantized" in model:
        return INT8
    return FP16 if path == "jetson-archive" else FP32
