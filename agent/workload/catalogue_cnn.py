"""Convolutional networks: ResNet, MobileNet, EfficientNet, SSD, RetinaNet, 3D-UNet, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from agent.workload.catalogue_net import Net, Options, Wire
from agent.workload.graph import Graph

Row = tuple[int, int, int, int, int]


def build_resnet50(name: str, options: Options) -> tuple[Graph, float]:
    """ResNet-50 v1.5 (stride in the 3x3 convolution), He et al. 2016; torchvision resnet50."""
    net = Net(name, options)
    levels = _resnet50(net, net.input(options.batch, 3, options.size or 224, options.size or 224), 1, 64)
    return net.graph(net.dense(net.global_pool(levels[-1]), 1000, "head")), net.parameters


def _resnet50(net: Net, image: Wire, groups: int, width: int) -> list[Wire]:
    """Outputs of the four levels. groups, width: 32 and 4 per group for ResNeXt-50."""
    x = net.pool(net.conv(image, 64, 7, 2, name="stem"), 3, 2)
    levels = []
    for level, blocks in enumerate((3, 4, 6, 3)):
        inner, outer = width * 2**level, 256 * 2**level
        for block in range(blocks):
            stride = 2 if block == 0 and level > 0 else 1
            where = f"level{level}.block{block}"
            y = net.conv(x, inner, 1, name=where)
            y = net.conv(y, inner, 3, stride, groups, name=f"{where}.middle")
            y = net.conv(y, outer, 1, name=f"{where}.last")
            skip = net.conv(x, outer, 1, stride, name=f"{where}.skip") if block == 0 else x
            x = net.add(skip, y)
        levels.append(x)
    return levels


def build_mobilenet_v1(name: str, options: Options) -> tuple[Graph, float]:
    """MobileNet v1 1.0, Howard et al. 2017."""
    net = Net(name, options)
    x = _mobilenet_v1(net, net.input(options.batch, 3, options.size or 224, options.size or 224))[-1]
    return net.graph(net.dense(net.global_pool(x), 1001, "head")), net.parameters


def _mobilenet_v1(net: Net, image: Wire) -> list[Wire]:
    """Features of strides 16 and 32."""
    x = net.conv(image, 32, 3, 2, name="stem")
    channels = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    kept = []
    for index, (width, stride) in enumerate(zip(channels, strides, strict=True)):
        if stride == 2:
            kept.append(x)
        x = net.conv(net.depthwise(x, 3, stride, f"block{index}"), width, 1, name=f"block{index}.out")
    return [kept[-1], x]


def build_mobilenet_v2(name: str, options: Options) -> tuple[Graph, float]:
    """MobileNet v2 1.0, Sandler et al. 2018."""
    net = Net(name, options)
    x = _mobilenet_v2(net, net.input(options.batch, 3, options.size or 224, options.size or 224))[-1]
    return net.graph(net.dense(net.global_pool(x), 1000, "head")), net.parameters


# expansion, channels, repeats, stride, kernel
_V2: tuple[Row, ...] = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3), (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)  # fmt: skip
_B0: tuple[Row, ...] = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip


def _mobilenet_v2(net: Net, image: Wire) -> list[Wire]:
    """Features of strides 16 (expanded) and 32."""
    x = net.conv(image, 32, 3, 2, name="stem")
    middle = x
    for row, (expansion, channels, repeats, stride, kernel) in enumerate(_V2):
        for block in range(repeats):
            if row == 5 and block == 0:
                middle = net.conv(x, x.channels * expansion, 1, name="middle")
                x = net.conv(net.depthwise(middle, kernel, stride, "middle.depthwise"), channels, 1, name="middle.out")
                continue
            x = _inverted(net, x, x.channels * expansion, channels, kernel, stride if block == 0 else 1, 0,
                          f"block{row}.{block}")  # fmt: skip
    return [middle, net.conv(x, 1280, 1, name="last")]


def _inverted(net: Net, x: Wire, inner: int, channels: int, kernel: int, stride: int, squeeze: int, name: str) -> Wire:
    """Expand, depthwise, optional squeeze and excitation of `squeeze` channels, project, add."""
    y = net.conv(x, inner, 1, name=name) if inner != x.channels else x
    y = net.depthwise(y, kernel, stride, f"{name}.depthwise")
    if squeeze:
        gate = net.dense(net.dense(net.global_pool(y), squeeze, f"{name}.squeeze"), inner, f"{name}.excite")
        y = net.scale(y, gate)
    y = net.conv(y, channels, 1, name=f"{name}.project")
    return net.add(x, y) if stride == 1 and channels == x.channels else y


# kernel, expanded channels, channels, squeeze and excitation, stride
_V3: Mapping[str, tuple[Row, ...]] = {
    "large": (
        (3, 16, 16, 0, 1), (3, 64, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1),
        (5, 120, 40, 1, 1), (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1),
        (3, 480, 112, 1, 1), (3, 672, 112, 1, 1), (5, 672, 160, 1, 2), (5, 960, 160, 1, 1), (5, 960, 160, 1, 1),
    ),
    "small": (
        (3, 16, 16, 1, 2), (3, 72, 24, 0, 2), (3, 88, 24, 0, 1), (5, 96, 40, 1, 2), (5, 240, 40, 1, 1),
        (5, 240, 40, 1, 1), (5, 120, 48, 1, 1), (5, 144, 48, 1, 1), (5, 288, 96, 1, 2), (5, 576, 96, 1, 1),
        (5, 576, 96, 1, 1),
    ),
}  # fmt: skip


def build_mobilenet_v3(name: str, options: Options) -> tuple[Graph, float]:
    """MobileNet v3 1.0, Howard et al. 2019; large or small by name."""
    net = Net(name, options)
    size = "small" if "small" in name else "large"
    x = net.conv(net.input(options.batch, 3, options.size or 224, options.size or 224), 16, 3, 2, name="stem")
    for index, (kernel, inner, channels, squeezed, stride) in enumerate(_V3[size]):
        squeeze = (inner // 4 + 4) // 8 * 8 if squeezed else 0
        x = _inverted(net, x, inner, channels, kernel, stride, squeeze, f"block{index}")
    last, wide = (576, 1024) if size == "small" else (960, 1280)
    x = net.dense(net.global_pool(net.conv(x, last, 1, name="last")), wide, "wide")
    return net.graph(net.dense(x, 1000, "head")), net.parameters


# width factor, depth factor, image size
EFFICIENTNETS: Mapping[str, tuple[float, float, int]] = {
    "efficientnet-b0": (1.0, 1.0, 224), "efficientnet-lite0": (1.0, 1.0, 224), "efficientnet-lite1": (1.0, 1.1, 240),
    "efficientnet-lite2": (1.1, 1.2, 260), "efficientnet-lite3": (1.2, 1.4, 280), "efficientnet-lite4": (1.4, 1.8, 300),
}  # fmt: skip


def build_efficientnet(name: str, options: Options) -> tuple[Graph, float]:
    """EfficientNet B0 (Tan and Le 2019) and lite 0–4 (no squeeze and excitation, stem and head not scaled)."""
    width, depth, size = EFFICIENTNETS[name]
    lite = "lite" in name
    net = Net(name, options)
    x = net.conv(net.input(options.batch, 3, options.size or size, options.size or size), 32, 3, 2, name="stem")
    for row, (expansion, channels, repeats, stride, kernel) in enumerate(_B0):
        count = repeats if row in (0, len(_B0) - 1) else ceil(repeats * depth)
        for block in range(count):
            squeeze = 0 if lite else max(1, x.channels // 4)
            x = _inverted(net, x, x.channels * expansion, _rounded(channels * width), kernel,
                          stride if block == 0 else 1, squeeze, f"block{row}.{block}")  # fmt: skip
    x = net.global_pool(net.conv(x, 1280, 1, name="last"))
    return net.graph(net.dense(x, 1000, "head")), net.parameters


def _rounded(channels: float) -> int:
    """To a multiple of 8, never more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def build_ssd(name: str, options: Options) -> tuple[Graph, float]:
    """SSD on MobileNet v1 or v2 at 300x300 with 1x1 predictors (TensorFlow object detection zoo, 91 classes)."""
    net = Net(name, options)
    image = net.input(options.batch, 3, options.size or 300, options.size or 300)
    first = "v1" in name
    classes = 2 if "face" in name else 91
    levels = _mobilenet_v1(net, image) if first else _mobilenet_v2(net, image)
    x = levels[-1]
    for index, channels in enumerate((512, 256, 256, 128)):
        x = net.conv(net.conv(x, channels // 2, 1, name=f"extra{index}"), channels, 3, 2, name=f"extra{index}.out")
        levels.append(x)
    heads = []
    for index, level in enumerate(levels):
        anchors = 3 if index == 0 else 6
        boxes = net.conv(level, anchors * 4, 1, name=f"boxes{index}")
        scores = net.conv(level, anchors * classes, 1, name=f"scores{index}")
        heads += [boxes, scores]
    flat = [net.reshape(h, options.batch, h.shape[1] * h.shape[2] * h.shape[3]) for h in heads]
    return net.graph(net.concat(flat, name="detections")), net.parameters


def build_retinanet(name: str, options: Options) -> tuple[Graph, float]:
    """MLPerf's RetinaNet: ResNeXt-50 32x4d, feature pyramid, 264 classes, 800x800."""
    net = Net(name, options)
    image = net.input(options.batch, 3, options.size or 800, options.size or 800)
    levels = _resnet50(net, image, 32, 128)[1:]
    laterals = [net.conv(level, 256, 1, name=f"lateral{i}") for i, level in enumerate(levels)]
    for index in (1, 0):
        up = net.light([laterals[index + 1]], laterals[index].shape, "Resize", 0.0, f"top_down{index}")
        laterals[index] = net.add(laterals[index], up)
    pyramid = [net.conv(lateral, 256, 3, name=f"pyramid{i}") for i, lateral in enumerate(laterals)]
    pyramid.append(net.conv(pyramid[-1], 256, 3, 2, name="pyramid3"))
    pyramid.append(net.conv(pyramid[-1], 256, 3, 2, name="pyramid4"))
    heads = []
    for index, level in enumerate(pyramid):
        for branch, outputs in (("scores", 9 * 264), ("boxes", 9 * 4)):
            x = level
            for depth in range(4):
                x = net.conv(x, 256, 3, name=f"{branch}{depth}.level{index}", shared=f"{branch}{depth}")
            heads.append(net.conv(x, outputs, 3, name=f"{branch}.level{index}", shared=branch))
    flat = [net.reshape(h, options.batch, h.shape[1] * h.shape[2] * h.shape[3]) for h in heads]
    return net.graph(net.concat(flat, name="detections")), net.parameters


def build_unet3d(name: str, options: Options) -> tuple[Graph, float]:
    """MLPerf's 3D-UNet (KiTS19): one window of 128x128x128 voxels, 5 poolings, 3 classes."""
    net = Net(name, options)
    size = options.size or 128
    x = net.input(options.batch, 1, size, size, size)
    skips = []
    widths = (32, 64, 128, 256, 320)
    for index, channels in enumerate(widths):
        x = net.conv(x, channels, 3, 1 if index == 0 else 2, name=f"down{index}")
        x = net.conv(x, channels, 3, name=f"down{index}.second")
        skips.append(x)
    x = net.conv(net.conv(x, 320, 3, 2, name="bottom"), 320, 3, name="bottom.second")
    for index, channels in reversed(list(enumerate(widths))):
        x = net.concat([net.upconv(x, channels, 2, 2, f"up{index}"), skips[index]])
        x = net.conv(net.conv(x, channels, 3, name=f"up{index}.first"), channels, 3, name=f"up{index}.second")
    return net.graph(net.conv(x, 3, 1, name="head")), net.parameters
