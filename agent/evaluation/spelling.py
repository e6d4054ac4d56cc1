"""Spelling: the many ways in which tables write one board, device, power mode or model."""

from __future__ import annotations

import re
from collections.abc import Collection

_GAP = r"[\\s_-]*"

_DEVICES: tuple[tuple[str, str], ...] = (
    ("gpu+dla", r"gpu.*dla|dla.*gpu"),
    ("tpu", r"tpu|coral"),
    ("npu", r"npu|hailo|hexagon|htp|dsp|neural|xdna|vpu|rknn|qaic|ai 100|apu"),
    ("dla", r"dla"),
    ("gpu", r"gpu|cuda|adreno|mali|radeon|ampere|blackwell|opencl|vulkan|metal|780m|890m|\barc\b"),
    ("cpu", r"cpu|cortex|\barm\b|neon|x86|cores?\b"),
)
"""Kind of accelerator → pattern on what a `device` cell says; the first match counts."""

_YOLO = re.compile(r"\byolo[\s_-]*v?[\s_-]*(\d{1,2})[\s_-]*([ntsmlxbce])(?=u?\b|[\s_.-]|$)")


def board_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of the table of boards in which blanks and hyphens stand for any separator, or none."""
    return re.compile(re.sub(r"[ -](?![^\[]*\])", _GAP, pattern), re.IGNORECASE)


def mode_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of a power mode; one that begins with watts does not match within a larger number."""
    edge = r"(?<![\d.])" if pattern[:1].isdigit() else ""
    return re.compile(f"{edge}(?:{pattern})", re.IGNORECASE)


def model_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of the table of architectures in which optional separators stand for any of them."""
    return re.compile(re.sub(r"(?:[ _-]\?)+", _GAP, pattern))


def model_name(text: str) -> str:
    """A model as the patterns want it: lower case, without a file's ending, YOLO's version and size together."""
    plain = re.sub(r"\.(onnx|tflite|pt|pth|engine|plan|gguf|bin|xml|hef|rknn)$", "", text.lower().strip())
    return _YOLO.sub(lambda found: f"yolov{found.group(1)}{found.group(2)}", plain)


def device_kind(text: str, kinds: Collection[str]) -> str | None:
    """Kind of accelerator that a `device` cell means, or None; an empty cell means a board's only accelerator.

    kinds: those of the board.
    """
    plain = text.lower().strip()
    if plain in kinds or plain == "gpu+dla":
        return plain
    if not plain:
        return next(iter(kinds)) if len(kinds) == 1 else None
    return next((kind for kind, pattern in _DEVICES if re.search(pattern, plain)), None)
