"""Kernel amounts: how much of what a stage's kernels do, in the terms that measured kernel times are kept in.

A kernel costs a launch, its operations, the weights it reads, the activations it moves, and what is fused into it.
Weights and key–value caches that the cache does not hold from one inference to the next come from memory. They are
gone through in the same order every time, which a cache that drops the oldest serves worst: of W bytes behind a cache
of C none is taken to be cold up to C, all from 2 C, in proportion between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from math import ceil

from agent.records import record
from agent.schema.device import Amount, KernelTimes
from agent.schema.workload import Kernels, Precision, Routine

Key = tuple[Amount, Routine | None, Precision | None]

HEAVY = frozenset({"conv", "conv_1d", "pointwise", "depthwise", "gemm", "attention", "fused_attention"})
_BY_OPERATION = frozenset({"function", "normalisation", "root_normalisation", "softmax"})
"""Light routines whose operations take longer than their bytes."""
_CONVOLUTIONS = frozenset({"conv", "conv_1d", "pointwise", "depthwise"})
"""They take a residual into their registers where products of matrices leave it to a kernel of its own."""
_ALIKE: dict[Routine | None, Routine] = {
    "attention": "gemm", "pointwise": "conv", "conv": "pointwise", "conv_1d": "conv",
}  # fmt: skip
_LAID_OUT = frozenset({"conv", "conv_1d", "pointwise"})
IMAGE_CHANNELS = 4
"""Runtimes read so few channels, those of an image, as they lie; more in groups of a vector's width."""
FEW_ROWS = 8.0
"""Products that use a weight less often wait for it; others compute meanwhile."""
_BITS: dict[Precision, int] = {"int4": 4, "int8": 8, "fp16": 16, "bf16": 16}
_NEGLIGIBLE = frozenset(
    {
        "far_byte",
        "shared_byte",
        "shared_weight_byte",
        "io_byte",
        "io_tensor",
        "fused_arithmetic",
        "fused_scaling",
        "far_scaling",
        "shared_scaling",
        "fused_function",
        "fused_error_function",
        "fused_node",
        "open_byte",
        "open_kernel",
    }
)
"""Kinds that take a few per cent of a model: where no micro model could tell them apart, they are left out."""


@record(frozen=True)
class Caches:
    """What is not linear in a time. cache_bytes, near_bytes, tile_*: as in KernelTimes."""

    cache_bytes: float
    near_bytes: float = 0.0
    core_bytes: float = 0.0
    tile_columns: int = 1
    tile_channels: int = 1
    tile_inner: int = 1


def caches_of(times: KernelTimes) -> Caches:
    """Those that the times were fitted with."""
    return Caches(**{field.name: getattr(times, field.name) for field in fields(Caches)})


def amounts(
    kernels: Iterable[Kernels], footprint_bytes: float, caches: Caches, io: tuple[float, int]
) -> dict[Key, float]:
    """Amounts by kind, without the one launch of the whole inference.

    footprint_bytes: all weights of the model and what it takes in and gives out; io: bytes and number of the tensors
    that enter and leave the runtime with it.
    """
    cache_bytes = caches.cache_bytes
    cold = _beyond(footprint_bytes, cache_bytes) if cache_bytes > 0 else 1.0
    shared = _beyond(footprint_bytes, caches.core_bytes) * (1.0 - cold)
    found: dict[Key, float] = {}

    def add(amount: Amount, value: float, routine: Routine | None = None, precision: Precision | None = None) -> None:
        if value > 0:
            key = (amount, routine, precision)
            found[key] = found.get(key, 0.0) + value

    add("io_byte", io[0])
    add("io_tensor", io[1])
    for kernel in kernels:
        count, routine = kernel.count, kernel.routine
        if routine == "view":
            add("view", count)
            continue
        if routine in HEAVY:
            # Runtimes without fused attention hand it to another one and back, so its launches are their own.
            add("heavy_kernel", count, routine if routine == "fused_attention" else None)
            add("operation", count * kernel.flops * _filled(kernel, caches), routine, kernel.precision)
            waits: Routine | None = None if _rows(kernel) < FEW_ROWS else "gemm"
            add("weight_byte", count * kernel.weight_bytes * (1.0 - cold), waits, kernel.precision)
            add("shared_weight_byte", count * kernel.weight_bytes * shared, None, kernel.precision)
            add("cold_weight_byte", count * kernel.weight_bytes * cold, waits, kernel.precision)
            if routine == "fused_attention":
                add("moved_byte", count * kernel.moved_bytes * (1.0 - cold), routine)
                add("cold_moved_byte", count * kernel.moved_bytes * cold, routine)
            else:
                # Kernels of 4-bit weights quantise what they read before they multiply it.
                add("moved_byte", count * kernel.moved_bytes, None, "int4" if kernel.precision == "int4" else None)
        elif routine in _BY_OPERATION:
            add("kernel", count)
            add("operation", count * kernel.flops, routine)
        else:
            add("kernel", count)
            add("moved_byte", count * (kernel.moved_bytes + kernel.weight_bytes), routine)
        touched = kernel.moved_bytes + kernel.weight_bytes
        by_itself: Routine | None = None if routine in HEAVY else "arithmetic"
        add("far_byte", count * kernel.moved_bytes * _beyond(touched, caches.near_bytes), by_itself)
        add("shared_byte", count * kernel.moved_bytes * _beyond(touched, caches.core_bytes), by_itself)
        add("fused_arithmetic", count * kernel.fused_arithmetic, "conv" if routine in _CONVOLUTIONS else None)
        passed = _passed(kernel)
        add("fused_scaling", count * kernel.fused_scaling)
        add("far_scaling", count * kernel.fused_scaling * _beyond(passed, caches.near_bytes))
        add("shared_scaling", count * kernel.fused_scaling * _beyond(passed, caches.core_bytes))
        add("fused_function", count * kernel.fused_functions)
        add("fused_error_function", count * kernel.fused_error_functions)
        add("fused_node", count * kernel.fused_nodes)
        if kernel.open_sizes:
            add("open_byte", count * (kernel.moved_bytes + passed * kernel.fused_nodes))
            add("open_kernel", count * (1.0 + kernel.fused_nodes))
    return found


def _filled(kernel: Kernels, caches: Caches) -> float:
    """Operations computed over those needed: whole tiles of columns, and of what 4-bit products sum over."""
    if kernel.precision == "int4":
        inner = _whole(kernel.inner, caches.tile_inner)
    elif kernel.routine in _LAID_OUT and kernel.inner > IMAGE_CHANNELS:
        inner = _whole(kernel.inner, caches.tile_channels)
    else:
        inner = 1.0
    return inner * _whole(kernel.columns, caches.tile_columns)


def _whole(length: int, tile: int) -> float:
    return ceil(length / tile) * tile / length if length else 1.0


def _rows(kernel: Kernels) -> float:
    """How often a product uses a weight."""
    elements = kernel.weight_bytes * 8.0 / _BITS.get(kernel.precision, 32)
    return kernel.flops / (2.0 * elements) if elements > 0 else 0.0


def _passed(kernel: Kernels) -> float:
    """Bytes that one of the operators behind a product reads and writes where it runs by itself."""
    return 8.0 * kernel.fused_scaling / kernel.fused_nodes if kernel.fused_nodes else 0.0


def _beyond(touched: float, held: float) -> float:
    """Share of what is gone through that a cache of so many bytes has dropped again; 0 for one that holds all."""
    return min(1.0, max(0.0, touched / held - 1.0)) if held > 0 else 0.0


@record(frozen=True)
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
        return ((amount, "arithmetic", None), (amount, None, None)) if routine else ((amount, None, None),)
    if amount in {"weight_byte", "cold_weight_byte"}:
        other: Amount = "cold_weight_byte" if amount == "weight_byte" else "weight_byte"
        kinds = ((a, r, p) for r in (routine, None) for a in (amount, other) for p in (precision, "fp32"))
        return tuple(kind for kind in kinds if kind != key)
    if amount == "cold_moved_byte":
        return ("moved_byte", routine, None), ("moved_byte", None, None)
    others: dict[Amount, tuple[Key, ...]] = {
        "heavy_kernel": ((amount, None, None), ("kernel", None, None)),
        "view": (("kernel", None, None),),
        "fused_arithmetic": (("fused_arithmetic", None, None),),
        "fused_scaling": (("fused_arithmetic", None, None),),
        "fused_error_function": (("fused_function", None, None),),
        "shared_weight_byte": (("shared_weight_byte", None, "fp32"),),
    }
    return others.get(amount, ())


def _spelled(key: Key) -> str:
    return " ".join(str(part) for part in (*key[1:], key[0].replace("_", " ")) if part)


def _part(amount: Amount) -> str:
    if amount in {"heavy_kernel", "kernel", "view", "io_tensor", "fused_node", "open_kernel"}:
        return "launches"
    return "arithmetic" if amount == "operation" or amount.startswith("fused") else "memory"
