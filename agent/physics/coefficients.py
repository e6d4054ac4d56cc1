"""Generic priors: what a coefficient is before a data sheet, a published measurement or this board says better.

A table, each row with its range and source. Profiles override every one of them; a figure that rests on a row of this
file is an assumption and is labelled so. Published per-bit figures are converted here, once: 1 pJ/bit = 8e-12 J/byte.
"""

from __future__ import annotations

import math
from typing import Literal

from agent.records import record

Provenance = Literal["published", "assumed"]
"""Published by somebody and read there, or a stated assumption (textbook range, interpolation, scaling)."""


@record(frozen=True, slots=True)
class Coefficient:
    """A number with its plausible range, unit, provenance and source."""

    value: float
    low: float
    high: float
    unit: str
    provenance: Provenance
    source: str


@record(frozen=True, slots=True)
class ArithmeticEnergy:
    """Energy of one operation in the datapath alone: (add + multiply)/2, without fetch, control or operand movement."""

    node_nm: float
    precision: str
    j_per_flop: Coefficient


_HOROWITZ = "Horowitz, ISSCC 2014, doi:10.1109/ISSCC.2014.6757323, 45 nm 0.9 V: (add + multiply)/2"
_JOUPPI = "Jouppi et al., Ten Lessons From Three Generations, ISCA 2021, 7 nm: (add + multiply)/2"


def _arithmetic(node_nm: float, precision: str, add_pj: float, multiply_pj: float, source: str) -> ArithmeticEnergy:
    value = (add_pj + multiply_pj) / 2 * 1e-12
    row = Coefficient(value, value, value, "J/flop", "published", source)
    return ArithmeticEnergy(node_nm, precision, row)


ARITHMETIC = (
    _arithmetic(45, "int8", 0.03, 0.2, _HOROWITZ),
    _arithmetic(45, "int32", 0.1, 3.1, _HOROWITZ),
    _arithmetic(45, "fp16", 0.4, 1.1, _HOROWITZ),
    _arithmetic(45, "fp32", 0.9, 3.7, _HOROWITZ),
    _arithmetic(7, "int8", 0.007, 0.07, _JOUPPI),
    _arithmetic(7, "bf16", 0.11, 0.21, _JOUPPI),
    _arithmetic(7, "fp16", 0.16, 0.34, _JOUPPI),
    _arithmetic(7, "fp32", 0.38, 1.31, _JOUPPI),
)

SYSTEM_FP16 = {
    7.0: Coefficient(
        1.175e-12, 1.1e-12, 1.25e-12, "J/flop", "published", "accelerator survey, system level at 7 nm, read as fp16"
    ),
    4.0: Coefficient(
        0.8e-12, 0.7e-12, 0.9e-12, "J/flop", "published", "accelerator survey, system level at 4 nm, read as fp16"
    ),
}
"""Energy of one fp16 operation with on-chip memory, control and clock tree, DRAM excluded; by node in nm."""

OPERAND_BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 8}
"""Width that operands travel in: 4-bit weights are widened before they are multiplied."""


def _per_bit(low_pj: float, high_pj: float, provenance: Provenance, source: str) -> Coefficient:
    low, high = low_pj * 8e-12, high_pj * 8e-12
    return Coefficient((low + high) / 2, low, high, "J/byte", provenance, source)


MEMORY = {
    "sram": _per_bit(14 / 64, 14 / 64, "published", "Jouppi et al., ISCA 2021: 1 MB SRAM at 7 nm, 14 pJ per 64 bit"),
    "lpddr4": _per_bit(4, 8, "assumed", "textbook range, device only; 13–14 pJ/bit in one design study"),
    "lpddr5": _per_bit(3.5, 6, "assumed", "textbook range; fit per board"),
    "lpddr5x": _per_bit(3, 5, "assumed", "textbook range; fit per board"),
    "ddr3": _per_bit(20, 40, "published", "Horowitz, ISSCC 2014: 1.3–2.6 nJ per 64-bit DRAM access"),
    "ddr4": _per_bit(1300 / 64, 1300 / 64, "published", "Jouppi et al., ISCA 2021: DDR4 1300 pJ per 64 bit"),
    "gddr5": _per_bit(14, 14, "published", "O'Connor et al., MICRO-50 2017, doi:10.1145/3123939.3124545"),
    "gddr6": _per_bit(350 / 64, 480 / 64, "published", "Jouppi et al., ISCA 2021: GDDR6 350–480 pJ per 64 bit"),
    "gddr7": _per_bit(5, 6, "assumed", "textbook range; fit per board"),
    "hbm2": _per_bit(3.97, 3.97, "published", "O'Connor et al., MICRO-50 2017; 7 pJ/bit with PHY (HyGCN)"),
    "hbm3": _per_bit(3.5, 4, "assumed", "textbook range; fit per board"),
}
"""Energy of moving one byte to or from memory, by memory type."""

BACKING_STORE = {
    "sd_card": Coefficient(0.06e9, 0.02e9, 0.1e9, "byte/s", "assumed", "swap range of SD cards"),
    "nvme": Coefficient(1.5e9, 0.5e9, 3e9, "byte/s", "assumed", "swap range of NVMe drives"),
}
"""Bandwidth behind a swap cliff."""

LEAKAGE_DOUBLING_C = {
    "finfet": Coefficient(30, 20, 75, "°C", "assumed", "20–40 °C per doubling for 16–3 nm FinFET, fitted within 20–75"),
    "planar_65nm": Coefficient(73, 60, 75, "°C", "published", "PAPT fit of Liao et al. 2005, 60→100 °C: 16.0→23.4 µA"),
}
"""Temperature rise that doubles leakage."""

LEAKAGE_SHARE_85C = {
    "finfet": Coefficient(0.17, 0.10, 0.25, "1", "assumed", "textbook range of leakage in total power at 85 °C"),
    "planar": Coefficient(0.30, 0.20, 0.40, "1", "assumed", "textbook range for 65–28 nm planar at 85 °C"),
}
"""Share of leakage in total power at 85 °C; at 25 °C a half to a quarter of it."""

POWER_EXPONENT = {
    "below_floor": Coefficient(0.86, 0.78, 0.93, "1", "published", "Orin Nano rail, decode, 612→918 MHz (smolhub.com)"),
    "above_floor": Coefficient(1.8, 1.4, 2.15, "1", "published", "Orin Nano rail, decode, 918→1020 MHz (smolhub.com)"),
}
"""Exponent of rail power in clock on both sides of the voltage floor; the rail includes static power."""

DECODE_BANDWIDTH_SHARE = {
    "mlc_orin": Coefficient(0.88, 0.84, 0.93, "1", "published", "MLC: Orin Nano 8B INT4 0.93/0.84, AGX Orin 7B 0.87"),
    "tensorrt_edge_llm": Coefficient(0.73, 0.64, 0.79, "1", "published", "AGX Orin W16/W8/W4 0.79/0.76/0.64"),
    "rknn_llm": Coefficient(0.76, 0.61, 0.87, "1", "published", "RK3588 NPU w8a8, 0.5B 0.61, 1.1B 0.79, 6B 0.87"),
    "llama_cpp_arm_cpu": Coefficient(0.60, 0.57, 0.62, "1", "published", "Raspberry Pi 5 CPU, Q4_K_M"),
    "llama_cpp_small_gpu": Coefficient(0.37, 0.14, 0.39, "1", "published", "Orin Nano Super 1B 0.35–0.39, 0.14 at 7 W"),
    "openvino_igpu": Coefficient(0.59, 0.5, 0.68, "1", "published", "Lunar Lake integrated GPU INT4 0.59"),
    "qnn_npu": Coefficient(0.31, 0.25, 0.37, "1", "published", "X Elite NPU w4a16 8B 0.31"),
    "eager_fp16": Coefficient(0.29, 0.25, 0.33, "1", "published", "RTX PRO 6000, eager fp16"),
}
"""Share of the data-sheet bandwidth that decode reaches, by software path: it varies sixfold on similar silicon."""


def arithmetic_energy(node_nm: float, precision: str) -> Coefficient:
    """Return J/flop of the datapath alone, interpolated between the nodes of the table as a power of the node.

    node_nm: > 0 and between the table's nodes, else ValueError; so does a precision that has no two rows.
    """
    rows = sorted((r.node_nm, r.j_per_flop) for r in ARITHMETIC if r.precision == precision and r.node_nm > 0)
    if len(rows) < 2:
        both = sorted({r.precision for r in ARITHMETIC if sum(s.precision == r.precision for s in ARITHMETIC) > 1})
        raise ValueError(f"precision {precision!r} is not known at two nodes; known are {', '.join(both)}")
    (small, near), (large, far) = rows
    if not small <= node_nm <= large:
        raise ValueError(f"node_nm must be in {small:g}…{large:g}; got {node_nm:g}")
    weight = math.log(node_nm / small) / math.log(large / small)
    value = near.value * (far.value / near.value) ** weight
    source = f"between {near.source} and {far.source}, as a power of the node"
    return Coefficient(value, near.value, far.value, "J/flop", "assumed", source)


def system_energy(node_nm: float, precision: str) -> Coefficient:
    """Return J/flop with on-chip memory and control, DRAM excluded: the prior for ε_c.

    The fp16 rows as a power of the node, times operand bits/16, because moving operands dominates. Check: at 8 nm int8
    gives 0.64 pJ; ResNet-50 on AGX Orin (8 nm, INT8, Offline, 8.2 Gop) draws 0.82 pJ/op at the wall, idle and DRAM
    included. The range is a factor 2 each way. node_nm in 3…28, else ValueError; so does an unknown precision.
    """
    if precision not in OPERAND_BITS:
        raise ValueError(f"precision {precision!r} is not known; known are {', '.join(OPERAND_BITS)}")
    if not 3 <= node_nm <= 28:
        raise ValueError(f"node_nm must be in 3…28; got {node_nm:g}")
    near, far = SYSTEM_FP16[4.0].value, SYSTEM_FP16[7.0].value
    exponent = math.log(far / near) / math.log(7.0 / 4.0)
    value = far * (node_nm / 7.0) ** exponent * OPERAND_BITS[precision] / 16
    source = f"system-level fp16 at 7 and 4 nm, (node/7)^{exponent:.2f}, times operand bits/16"
    return Coefficient(value, value / 2, value * 2, "J/flop", "assumed", source)
