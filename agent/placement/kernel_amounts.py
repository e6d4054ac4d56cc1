"""Kernel amounts: how much of what a stage's kernels do, in the terms that measured kernel times are kept in.

A kernel costs a launch, its operations, the weights it reads, the activations it moves, and what is fused into it.
Weights and key–value caches that the cache does not hold from one inference to the next come from memory. They are
gone through in the same order every time, which a cache that drops the oldest serves worst: of W bytes behind a cache
of C none is taken to be cold up to C, all from 2 C, in proportion between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from agent.schema.device import Amount, KernelTimes
from agent.schema.workload import Kernels, Precision, Routine

Key = tuple[Amount, Routine | None, Precision | None]

HEAVY = frozenset({"conv", "pointwise", "depthwise", "gemm", "attention", "fused_attention"})
_BY_OPERATION = frozenset({"function", "normalisation", "root_normalisation", "softmax"})
"""Light routines whose operations take longer than their bytes."""
_CONVOLUTIONS = frozenset({"conv", "pointwise", "depthwise"})
"""They take a residual into their registers where products of matrices leave it to a kernel of its own."""
_ALIKE: dict[Routine | None, Routine] = {"attention": "gemm", "pointwise": "conv", "conv": "pointwise"}
_NEGLIGIBLE = frozenset(
    {"far_byte", "io_byte", "io_tensor", "fused_arithmetic", "fused_scaling", "fused_function", "fused_node"}
)
"""Kinds that take a few per cent of a model: where no micro model could tell them apart, they are left out."""


def amounts(
    kernels: Iterable[Kernels],
    footprint_bytes: float,
    cache_bytes: float,
    io: tuple[float, int],
    tile_columns: int = 1,
    near_bytes: float = 0.0,
) -> dict[Key, float]:
    """Amounts by kind, without the one launch of the whole inference.

    footprint_bytes: all weights of the model and what it takes in and gives out; io: bytes and number of the tensors
    that enter and leave the runtime with it. tile_columns: a product computes so many columns at a time, so one of 24
    takes as long as one of 32 where they are 32. near_bytes: the part of a cache that is near to a core; kernels that
    go through more find their activations farther off (0: never).
    """
    cold = min(1.0, max(0.0, footprint_bytes / cache_bytes - 1.0)) if cache_bytes > 0 else 1.0
    found: dict[Key, float] = {}

    def add(amount: Amount, value: float, routine: Routine | None = None, precision: Precision | None = None) -> None:
        if value > 0:
            key = (amount, routine, precision)
            found[key] = found.get(key, 0.0) + value

    add("io_byte", io[0])
    add("io_tensor", io[1])
    for kernel in kernels:
        count = kernel.count
        if kernel.routine == "view":
            add("view", count)
        elif kernel.routine in HEAVY:
            # Runtimes without fused attention hand it to another one and back, so its launches are their own.
            add("heavy_kernel", count, "fused_attention" if kernel.routine == "fused_attention" else None)
            tiles = ceil(kernel.columns / tile_columns) * tile_columns
            filled = tiles / kernel.columns if kernel.columns else 1.0
            add("operation", count * kernel.flops * filled, kernel.routine, kernel.precision)
            add("weight_byte", count * kernel.weight_bytes * (1.0 - cold), None, kernel.precision)
            add("cold_weight_byte", count * kernel.weight_bytes * cold, None, kernel.precision)
            if kernel.routine == "fused_attention":
                add("moved_byte", count * kernel.moved_bytes * (1.0 - cold), kernel.routine)
                add("cold_moved_byte", count * kernel.moved_bytes * cold, kernel.routine)
            else:
                add("moved_byte", count * kernel.moved_bytes)
        elif kernel.routine in _BY_OPERATION:
            add("kernel", count)
            add("operation", count * kernel.flops, kernel.routine)
        else:
            add("kernel", count)
            add("moved_byte", count * (kernel.moved_bytes + kernel.weight_bytes), kernel.routine)
        touched = kernel.moved_bytes + kernel.weight_bytes
        far = min(1.0, max(0.0, touched / near_bytes - 1.0)) if near_bytes > 0 else 0.0
        add("far_byte", count * kernel.moved_bytes * far if kernel.routine != "view" else 0.0)
        along: Routine | None = "conv" if kernel.routine in _CONVOLUTIONS else None
        add("fused_arithmetic", count * kernel.fused_arithmetic, along)
        add("fused_scaling", count * kernel.fused_scaling)
        add("fused_function", count * kernel.fused_functions)
        add("fused_node", count * kernel.fused_nodes)
    return found


@dataclass(frozen=True)
class KernelSeconds:
    """What the kernels of a stage take, by what they wait for; `substitutes` says what stood in for unmeasured work."""

    arithmetic_s: float
    memory_s: float
    launches_s: float
    substitutes: tuple[str, ...] = ()

    @property
    def binding(self) -> str:
        """The largest part, in the words of the roofline."""
        parts = (("compute", self.arithmetic_s), ("memory", self.memory_s), ("overhead", self.launches_s))
        return max(parts, key=lambda part: part[1])[0]


def seconds(times: KernelTimes, found: dict[Key, float]) -> KernelSeconds | str:
    """The time of those amounts, or which kind of work was never measured on the runtime nor a relative of it."""
    known = {(term.amount, term.routine, term.precision): term.seconds for term in times.terms}
    parts = dict.fromkeys(("arithmetic", "memory", "launches"), 0.0)
    substitutes: list[str] = []
    for key, value in found.items():
        each_s = known.get(key)
        if each_s is None:
            relative = next((k for k in _relatives(key) if k in known), None)
            if relative is None and key[0] not in _NEGLIGIBLE:
                return _spelled(key)
            each_s = known[relative] if relative else 0.0
            substitutes.append(f"{_spelled(key)} as {_spelled(relative) if relative else 'nothing'}")
        parts[_part(key[0])] += each_s * value
    return KernelSeconds(parts["arithmetic"], parts["memory"], parts["launches"], tuple(substitutes))


def _relatives(key: Key) -> tuple[Key, ...]:
    """Measured work that comes nearest, best first."""
    amount, routine, precision = key
    if amount == "operation" and routine in HEAVY:
        relative: Routine | None = _ALIKE.get(routine)
        return ((amount, relative, precision),) if relative else ()
    if amount == "operation":
        return tuple((amount, other, None) for other in ("normalisation", "softmax", "root_normalisation", "function"))
    if amount == "moved_byte":
        return (amount, "arithmetic", None), (amount, None, None)
    if amount == "weight_byte":
        return (amount, None, "fp32"), ("cold_weight_byte", None, precision), ("cold_weight_byte", None, "fp32")
    if amount == "cold_weight_byte":
        return (amount, None, "fp32"), ("weight_byte", None, precision), ("weight_byte", None, "fp32")
    if amount == "cold_moved_byte":
        return ("moved_byte", routine, None), ("moved_byte", None, None)
    return {
        "heavy_kernel": ((amount, None, None), ("kernel", None, None)),
        "view": (("kernel", None, None),),
        "fused_arithmetic": (("fused_arithmetic", None, None),),
        "fused_scaling": (("fused_arithmetic", None, None),),
    }.get(amount, ())


def _spelled(key: Key) -> str:
    return " ".join(str(part) for part in (*key[1:], key[0].replace("_", " ")) if part)


def _part(amount: Amount) -> str:
    if amount in {"heavy_kernel", "kernel", "view", "io_tensor", "fused_node"}:
        return "launches"
    return "arithmetic" if amount in {"operation", "fused_arithmetic", "fused_scaling", "fused_function"} else "memory"
