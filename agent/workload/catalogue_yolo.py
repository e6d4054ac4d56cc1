"""YOLOv5 and YOLOv8 by depth and width factors, as in the models' published YAML files (80 classes, 640x640)."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from agent.workload.catalogue_net import Net, Options, Wire
from agent.workload.graph import Graph

CLASSES = 80

# depth factor, width factor, most channels
SCALES: Mapping[str, tuple[float, float, int]] = {
    "yolov5n": (0.33, 0.25, 1024), "yolov5s": (0.33, 0.50, 1024), "yolov5m": (0.67, 0.75, 1024),
    "yolov5l": (1.0, 1.0, 1024), "yolov8n": (0.33, 0.25, 1024), "yolov8s": (0.33, 0.50, 1024),
    "yolov8m": (0.67, 0.75, 768), "yolov8l": (1.0, 1.0, 512),
}  # fmt: skip


class _Yolo:
    """The parts that both versions have, scaled."""

    def __init__(self, name: str, options: Options) -> None:
        self.net = Net(name, options)
        self.depth, self.width, self.most = SCALES[name]
        self.split = "v8" in name
        self.backbone = (3, 6, 6, 3) if self.split else (3, 6, 9, 3)

    def channels(self, count: int) -> int:
        """Scaled channels, a multiple of 8."""
        return ceil(min(count, self.most) * self.width / 8) * 8

    def repeats(self, count: int) -> int:
        """Scaled repeats."""
        return max(1, round(count * self.depth))

    def block(self, x: Wire, count: int, channels: int, residual: bool, name: str) -> Wire:
        """C2f (v8) or C3 (v5): cross-stage partial block of bottlenecks."""
        build = self._c2f if self.split else self._c3
        return build(x, count, channels, residual, name)

    def _c3(self, x: Wire, count: int, channels: int, residual: bool, name: str) -> Wire:
        net, inner = self.net, channels // 2
        y = net.conv(x, inner, 1, name=name)
        for index in range(self.repeats(count)):
            z = net.conv(net.conv(y, inner, 1, name=f"{name}.{index}"), inner, 3, name=f"{name}.{index}.out")
            y = net.add(y, z) if residual else z
        other = net.conv(x, inner, 1, name=f"{name}.other")
        return net.conv(net.concat([y, other]), channels, 1, name=f"{name}.join")

    def _c2f(self, x: Wire, count: int, channels: int, residual: bool, name: str) -> Wire:
        net, inner = self.net, channels // 2
        both = net.conv(x, channels, 1, name=name)
        half = net.light([both], (both.shape[0], inner, *both.shape[2:]), "Slice", 0.0, f"{name}.half")
        kept, y = [both], half
        for index in range(self.repeats(count)):
            z = net.conv(net.conv(y, inner, 3, name=f"{name}.{index}"), inner, 3, name=f"{name}.{index}.out")
            y = net.add(y, z) if residual else z
            kept.append(y)
        return net.conv(net.concat(kept), channels, 1, name=f"{name}.join")

    def pyramid_pool(self, x: Wire) -> Wire:
        """SPPF: three poolings in a row, concatenated."""
        net = self.net
        first = net.conv(x, x.channels // 2, 1, name="pyramid")
        pools = [first]
        for _ in range(3):
            pools.append(net.pool(pools[-1], 5, 1))
        return net.conv(net.concat(pools), x.channels, 1, name="pyramid.join")

    def detect(self, levels: list[Wire]) -> Wire:
        """Heads on three levels, flattened and joined."""
        net = self.net
        flat = []
        for index, level in enumerate(levels):
            if self.split:
                box_width = max(16, levels[0].channels // 4, 64)
                class_width = max(levels[0].channels, min(CLASSES, 100))
                boxes = self._tower(level, box_width, 64, f"boxes{index}")
                heads = [boxes, self._tower(level, class_width, CLASSES, f"classes{index}")]
            else:
                heads = [net.conv(level, 3 * (CLASSES + 5), 1, name=f"detect{index}")]
            flat += [net.reshape(h, h.shape[0], h.shape[1] * h.shape[2] * h.shape[3]) for h in heads]
        return net.concat(flat, name="detections")

    def _tower(self, x: Wire, width: int, outputs: int, name: str) -> Wire:
        net = self.net
        y = net.conv(net.conv(x, width, 3, name=name), width, 3, name=f"{name}.second")
        return net.conv(y, outputs, 1, name=f"{name}.out")


def build_yolo(name: str, options: Options) -> tuple[Graph, float]:
    """Backbone, top-down and bottom-up paths, three heads."""
    yolo = _Yolo(name, options)
    net, ch = yolo.net, yolo.channels
    size = options.size or 640
    x = net.conv(net.input(options.batch, 3, size, size), ch(64), 3 if yolo.split else 6, 2, name="stem")
    levels = []
    for index, width in enumerate((128, 256, 512, 1024)):
        x = net.conv(x, ch(width), 3, 2, name=f"down{index}")
        x = yolo.block(x, yolo.backbone[index], ch(width), True, f"backbone{index}")
        levels.append(x)
    p3, p4, p5 = levels[1], levels[2], yolo.pyramid_pool(levels[3])
    if yolo.split:
        n4 = yolo.block(net.concat([net.resize(p5, 2), p4]), 3, ch(512), False, "top4")
        n3 = yolo.block(net.concat([net.resize(n4, 2), p3]), 3, ch(256), False, "top3")
        side4, side5 = n4, p5
    else:
        side5 = net.conv(p5, ch(512), 1, name="lateral5")
        n4 = yolo.block(net.concat([net.resize(side5, 2), p4]), 3, ch(512), False, "top4")
        side4 = net.conv(n4, ch(256), 1, name="lateral4")
        n3 = yolo.block(net.concat([net.resize(side4, 2), p3]), 3, ch(256), False, "top3")
    n4 = yolo.block(net.concat([net.conv(n3, ch(256), 3, 2, name="bottom4.down"), side4]), 3, ch(512), False, "bottom4")
    joined = net.concat([net.conv(n4, ch(512), 3, 2, name="bottom5.down"), side5])
    n5 = yolo.block(joined, 3, ch(1024), False, "bottom5")
    return net.graph(yolo.detect([n3, n4, n5])), net.parameters
