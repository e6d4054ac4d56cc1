"""Software path of a measurement: which runtime produced it, read from the texts of its row."""

from __future__ import annotations

import re

from agent.evaluation.table import Measurement

_RULES: tuple[tuple[str, str], ...] = (
    ("ollama", r"ollama"),
    ("flm", r"npu-flm"),
    ("ryzenai", r"npu-ryzenai"),
    ("lmstudio", r"fastflowlm.*backend (gpu|cpu)|lm studio"),
    ("mlc", r"\bmlc\b|q4f16"),
    ("vllm", r"\bvllm\b|w4a16, conc"),
    ("trt-edge-llm", r"tensorrt-edge-llm|llama3\.1-8b-edge|thor workshop"),
    ("jetson-archive", r"jetson-ai-lab\.com/archive"),
    ("tensorrt", r"tensor ?rt|trtexec|orin_trt|_trt/|nvidia_original"),
    ("armnn-opencl", r"armnn.*opencl"),
    ("armnn", r"armnn"),
    ("tflite-ruy", r"ruy"),
    ("tflite-ref", r"tflite_cpp"),
    ("rkllm", r"rkllm|rknn-llm"),
    ("rknn", r"rknn"),
    ("hailo", r"hailo"),
    ("edgetpu", r"edgetpu|coral"),
    ("qaic", r"qaic|cloud ai"),
    ("genie", r"runtime genie"),
    ("qnn", r"runtime (qnn|precompiled_qnn)"),
    ("qai-tflite", r"ai-hub-models.*runtime tflite|runtime tflite"),
    ("qai-onnx", r"runtime onnx"),
    ("ort-ref", r"reference-.*onnxruntime"),
    ("ort-cpp", r"cpp-.*onnxruntime|onnx ?runtime"),
    ("tflite", r"(tensorflow|tf)[ -]lite"),
    ("tensorflow", r"reference-.*-tf|tensorflow"),
    ("llama.cpp-openvino", r"llama\.cpp-openvino"),
    ("llama.cpp", r"q[0-9]_k_m vulkan"),
    ("openvino", r"openvino|openarc|raincandy|npu acceleration library"),
    ("transformers", r"transformers|hf[ -]eager|hugging ?face|huggingface"),
    ("llama.cpp", r"llama\.cpp|gguf|q[0-9]_k|q8_0|q4_0|yzma|vulkan"),
    ("tflite", r"tflite|toradex|benchmarking-ml-on-the-edge"),
)
"""Path → pattern on the lower-case text of precision, notes, source, board and power mode; the first match counts."""

RELATIVES = {
    "ollama": "ggml",
    "llama.cpp": "ggml",
    "llama.cpp-openvino": "openvino",
    "lmstudio": "ggml",
    "mlc": "compiled-llm",
    "vllm": "compiled-llm",
    "trt-edge-llm": "compiled-llm",
    "jetson-archive": "tensorrt",
    "armnn-opencl": "arm-opencl",
    "armnn": "arm-cpu",
    "tflite-ruy": "arm-cpu",
    "tflite-ref": "arm-cpu",
    "tflite": "arm-cpu",
    "ort-ref": "ort",
    "ort-cpp": "ort",
    "qai-onnx": "qualcomm",
    "qnn": "qualcomm",
    "genie": "qualcomm",
    "qai-tflite": "qualcomm",
}
"""Path → family of paths whose coefficients it inherits when nothing is known of itself."""


def software_path(row: Measurement) -> str:
    """Name of the path; `unknown` where no text tells, which is then predicted from hardware relatives alone."""
    text = " ".join((row.precision, row.notes, row.source, row.board, row.power_mode)).lower()
    for name, pattern in _RULES:
        if re.search(pattern, text):
            return name
    return "unknown"


def relatives(path: str) -> str:
    """Family of paths that `path` belongs to; itself where it has none."""
    return RELATIVES.get(path, path)
