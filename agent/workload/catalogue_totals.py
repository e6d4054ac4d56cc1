"""Networks of which only published totals are used: one stage with the operations and weights that were printed.

Activation traffic is not published; it is taken as ACTIVATIONS_PER_ROOT · √(multiply–accumulates · 10⁹). The constant
is an assumption, not a fit: the image networks that are built layer by layer here lie between 0.0136 and 0.044, the
detectors among them near 0.03. The workload's notes say that it is estimated.
"""

from __future__ import annotations

from math import sqrt

from agent.records import record
from agent.schema.workload import Family
from agent.workload.catalogue_net import Net, Options
from agent.workload.graph import Graph

ACTIVATIONS_PER_ROOT = 0.025
"""Elements read and written per √(MAC · 10⁹)."""
NOTE = "activation traffic estimated from the operations: only totals are published"


@record(frozen=True)
class Totals:
    """Published totals of one forward pass at `size`."""

    gmac: float
    mparams: float
    size: int
    source: str
    family: Family = "conv"
    depthwise_share: float = 0.0


TOTALS: dict[str, Totals] = {
    "ssd-resnet34": Totals(216.5, 36.3, 1200, "MLPerf Inference (Reddi et al. 2020), table 1: 433 GOP, 36.3 M"),
    "inception-v1": Totals(1.43, 6.62, 224, "Szegedy et al. 2015; TensorFlow-Slim inception_v1"),
    "inception-v3": Totals(5.71, 23.8, 299, "Szegedy et al. 2016; torchvision inception_v3"),
    "inception-v4": Totals(12.27, 42.7, 299, "Szegedy et al. 2017; timm inception_v4"),
    "efficientnet-m": Totals(3.66, 6.87, 240, "EfficientNet-EdgeTPU-M, Hailo model zoo: 7.32 GOP, 6.87 M"),
    "deeplab-v3-mobilenet-v2": Totals(2.75, 2.14, 513, "TensorFlow DeepLab zoo, MobileNet v2", depthwise_share=0.07),
    "yolov6n": Totals(5.7, 4.7, 640, "meituan/YOLOv6 3.0: 11.4 GFLOP"),
    "yolov6s": Totals(22.65, 18.5, 640, "meituan/YOLOv6 3.0: 45.3 GFLOP"),
    "yolov6m": Totals(42.9, 34.9, 640, "meituan/YOLOv6 3.0: 85.8 GFLOP"),
    "yolov7-tiny": Totals(6.85, 6.2, 640, "WongKinYiu/yolov7: 13.7 GFLOP"),
    "yolox-s": Totals(13.4, 9.0, 640, "Megvii YOLOX: 26.8 GFLOP"),
    "yolo11n": Totals(3.25, 2.6, 640, "Ultralytics YOLO11: 6.5 GFLOP", depthwise_share=0.02),
    "yolo11s": Totals(10.75, 9.4, 640, "Ultralytics YOLO11: 21.5 GFLOP", depthwise_share=0.02),
    "yolo11m": Totals(34.0, 20.1, 640, "Ultralytics YOLO11: 68.0 GFLOP", depthwise_share=0.02),
    "yolo11l": Totals(43.45, 25.3, 640, "Ultralytics YOLO11: 86.9 GFLOP", depthwise_share=0.02),
    "yolov8n-pose": Totals(4.6, 3.3, 640, "Ultralytics YOLOv8: 9.2 GFLOP"),
    "yolov8n-obb": Totals(4.55, 3.1, 640, "Ultralytics YOLOv8: 23.3 GFLOP at 1024, scaled to 640"),
    "yolov8s-seg": Totals(21.3, 11.8, 640, "Ultralytics YOLOv8: 42.6 GFLOP"),
    "yolov8m-seg": Totals(55.1, 27.3, 640, "Ultralytics YOLOv8: 110.2 GFLOP"),
    "yolov5n-seg": Totals(3.55, 2.0, 640, "Ultralytics YOLOv5 v7.0: 7.1 GFLOP"),
    "yolov5s-seg": Totals(13.2, 7.6, 640, "Ultralytics YOLOv5 v7.0: 26.4 GFLOP"),
}


def build_totals(name: str, row: Totals, options: Options) -> tuple[Graph, float]:
    """One stage. Operations and activations grow with the area of the image."""
    area = ((options.size or row.size) / row.size) ** 2
    net = Net(name, options)
    image = net.input(options.batch, 3, options.size or row.size, options.size or row.size)
    macs = row.gmac * 1e9 * area * options.batch
    moved = int(ACTIVATIONS_PER_ROOT * sqrt(row.gmac * 1e18) * area) // 2
    flops = {row.family: 2 * macs * (1 - row.depthwise_share), "depthwise": 2 * macs * row.depthwise_share}
    features = net.product([image], (options.batch, moved), flops, row.mparams * 1e6, "network")
    result = net.light([features], (options.batch, 1000), "Output", 0.0, "output")
    return net.graph(result), net.parameters
