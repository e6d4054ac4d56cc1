"""Precision of a measurement: bytes per stored weight and the arithmetic it was computed in, from what people write."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.evaluation.table import Measurement


@dataclass(frozen=True, slots=True)
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
    (r"q2_k", Format("q2k", 0.36, "int8", 2)),
    (r"q3_k", Format("q3k", 0.46, "int8", 2)),
    (r"q8_0", Format("q8", 1.0625, "int8", 2)),
    (r"q5_", Format("q5", 0.70, "int8", 2)),
    (r"q4f16", Format("w4", 0.5625, "fp16", 2)),
    (r"q4_|gguf|4-bit", Format("q4", 0.61, "int8", 2)),
    (r"w4a16_g", Format("w4g", 0.60, "int8", 2)),
    (r"fp4|mxfp4|nvfp4", Format("fp4", 0.5625, "int8", 2)),
    (r"w4|int4", Format("w4", 0.5625, "fp16", 2)),
    (r"w8a16", Format("w8a16", 1.0, "int8", 2)),
    (r"w8a8|int8|uint8|fp8", Format("int8", 1.0, "int8", 1)),
    (r"fp16|float16|w16|bf16|^float$", Format("fp16", 2.0, "fp16", 2)),
    (r"fp32|float32", Format("fp32", 4.0, "fp32", 4)),
)

INT8, FP16, FP32, W4 = _RULES[12][1], _RULES[13][1], _RULES[14][1], _RULES[10][1]
_INTEGER_PATHS = {"edgetpu", "qaic", "rknn", "hailo", "rkllm", "tflite"}


def storage_format(row: Measurement, path: str, *, language: bool) -> Format:
    """Format of a row; where it states none, what the path and model usually use."""
    text = row.precision.lower()
    size = re.search(r"(\d+(?:\.\d+)?) ?(mb|gb)\b", text)
    file_bytes = float(size.group(1)) * (1e6 if size.group(2) == "mb" else 1e9) if size else None
    if "~" in text:
        file_bytes = None
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
