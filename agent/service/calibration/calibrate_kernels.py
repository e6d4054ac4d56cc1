"""Kernel times of one runtime from its micro models: what a launch, an operation and a byte take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from agent.physics.kernel_fit import KernelFit, fit_kernels
from agent.placement.kernel_amounts import Caches, Key, amounts
from agent.records import record
from agent.schema.device import KernelTerm, KernelTimes, Runtime
from agent.service.calibration.calibration import MAX_SCATTER, MeasuredKernels, Timing

MAX_RESIDUAL = 0.25
"""Error of the fit on its own measurements above which it is refused."""
MIN_MODELS = 12
"""Fewer micro models than this do not tell the kinds of work apart."""
MIN_FREEDOM = 8
"""Steady micro models beyond the kinds of work; with fewer the fit repeats its input and its error says nothing."""
CACHES_BYTES = tuple(1e6 * 2.0**i for i in range(9))
"""Sizes of cache tried, 1 MB to 256 MB; the one that the times agree with best is kept."""

TILES_COLUMNS = (8, 16, 32, 64)
"""Widths of a product's tile tried beside none."""
NEAR_BYTES = (32e3, 64e3, 128e3, 256e3, 512e3)
"""Sizes of a core's nearest cache tried beside none."""
CORE_BYTES = (0.5e6, 1e6, 2e6, 4e6, 8e6)
"""Sizes of all that a core has to itself tried beside none."""
TILES_CHANNELS = (8, 16)
"""Widths of groups of input channels tried beside none."""
TILES_INNER = (64, 128, 256)
"""Lengths of a 4-bit product's tile along its sums tried beside none."""
_TRIED: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("cache_bytes", CACHES_BYTES), ("tile_columns", TILES_COLUMNS), ("core_bytes", CORE_BYTES),
    ("near_bytes", NEAR_BYTES), ("tile_channels", TILES_CHANNELS), ("tile_inner", TILES_INNER),
    ("cache_bytes", CACHES_BYTES), ("core_bytes", CORE_BYTES), ("near_bytes", NEAR_BYTES),
)  # fmt: skip


def fit_kernel_times(
    accelerator: str, runtime: Runtime, threads: int, timings: Sequence[Timing], source: str
) -> tuple[MeasuredKernels | None, str | None]:
    """Kernel times, or why there are none. What a call costs (the dispatch model's time) is no part of them."""
    good = [t for t in timings if t.scatter <= MAX_SCATTER]
    dispatch_s = next((t.median_s for t in good if t.micro.kind == "dispatch"), 0.0)
    used = [t for t in good if t.micro.kernels and t.micro.kind != "dispatch"]
    where = f"{accelerator} {runtime.provider}: kernel times"
    stays = "not used, predictions follow from shares of peaks"
    again = "close what else computes on this machine and calibrate again"
    if len(used) < MIN_MODELS:
        return None, f"{where} need {MIN_MODELS} steady micro models, there are {len(used)}: {stays}; {again}"
    best = _best(used, dispatch_s)
    found, keys, caches = best.fit, best.keys, best.caches
    if len(used) < len(keys) + MIN_FREEDOM:
        return None, (
            f"{where} of {len(keys)} kinds of work need {len(keys) + MIN_FREEDOM} steady micro models, there are "
            f"{len(used)}: {stays}; {again}"
        )
    if found.rel_residual > MAX_RESIDUAL:
        return None, (
            f"{where} miss their own measurements by {found.rel_residual:.0%} (limit {MAX_RESIDUAL:.0%}): "
            f"{stays}; {again}"
        )
    terms = tuple(
        KernelTerm(amount=amount, routine=routine, precision=precision, seconds=float(each_s))
        for (amount, routine, precision), each_s in zip(keys, found.coefficients, strict=True)
    )
    times = KernelTimes(terms=terms, rel_uncertainty=found.rel_residual, source=source, **asdict(caches))
    return MeasuredKernels(
        accelerator=accelerator, backend=runtime.backend, provider=runtime.provider, threads=threads, times=times
    ), None


@record(frozen=True)
class _Fitted:
    fit: KernelFit
    caches: Caches
    keys: list[Key]


def _best(used: Sequence[Timing], dispatch_s: float) -> _Fitted:
    """Sizes and tiles that the times agree with best, one after the other: their effects hardly overlap."""
    best = _fitted(used, dispatch_s, Caches(CACHES_BYTES[-1]))
    for name, values in _TRIED:
        tried = (Caches(**{**asdict(best.caches), name: value}) for value in values)
        best = min((best, *(_fitted(used, dispatch_s, caches) for caches in tried)), key=_score)
    return best


def _fitted(used: Sequence[Timing], dispatch_s: float, caches: Caches) -> _Fitted:
    rows = [
        amounts(t.micro.kernels, t.micro.footprint_bytes, caches, (t.micro.io_bytes, t.micro.io_tensors)) for t in used
    ]
    keys = sorted({key for row in rows for key in row}, key=str)
    table = np.array([[row.get(key, 0.0) for key in keys] for row in rows])
    return _Fitted(fit_kernels(table, [t.median_s for t in used], dispatch_s), caches, keys)


def _score(found: _Fitted) -> float:
    return float(np.abs(found.fit.errors).mean())
