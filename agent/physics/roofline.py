"""The roofline: how long a stage takes on an accelerator, and which share of the compute peak it can use (DASI).

Owns the ceilings on time – compute, memory, cache, instruction issue, link – and the cost of leaving part of a stage on
the host. Owns no coefficients and no power.

Roofline: Williams, Waterman, Patterson, CACM 52(4) 2009, doi:10.1145/1498765.1498785; cache roof: Ilic, Pratas, Sousa,
IEEE CAL 13(1) 2014, doi:10.1109/L-CA.2013.6.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.physics.arguments import (
    Array,
    nonnegative,
    nonnegative_or_unlimited,
    positive,
    positive_or_unlimited,
    positive_share,
)
from agent.records import record

CEILINGS = ("compute", "memory", "cache", "issue", "link")
"""Names of the ceilings, in the order of `Roofline.binding` when two are equal."""


@record(frozen=True, slots=True, eq=False)
class Roofline:
    """Times of one stage on one accelerator, or arrays of them that broadcast against each other."""

    compute_s: Array
    memory_s: Array
    cache_s: Array
    issue_s: Array
    link_s: Array
    partition_s: Array
    overhead_s: Array
    time_s: Array
    dasi: Array

    @property
    def ceilings_s(self) -> tuple[Array, ...]:
        """The ceilings in the order of `CEILINGS`."""
        return (self.compute_s, self.memory_s, self.cache_s, self.issue_s, self.link_s)

    @property
    def binding(self) -> NDArray[np.str_]:
        """Name of the ceiling that sets the time, per element."""
        stacked = np.stack(np.broadcast_arrays(*self.ceilings_s))
        name: NDArray[np.str_] = np.asarray(CEILINGS)[np.argmax(stacked, axis=0)]
        return name


def operational_intensity(flops: ArrayLike, bytes_moved: ArrayLike) -> Array:
    """Return operations per byte of memory traffic, F/B [flops/byte]; infinite where nothing is moved.

    Raises ValueError for a negative or NaN argument and where both are 0.
    """
    work, traffic = nonnegative("flops", flops), nonnegative("bytes_moved", bytes_moved)
    if np.any((work == 0) & (traffic == 0)):
        raise ValueError("flops and bytes_moved are both 0: such a stage has no intensity")
    with np.errstate(divide="ignore"):
        return np.divide(work, traffic)


def ridge_point(peak_flops_per_s: ArrayLike, bandwidth_bytes_per_s: ArrayLike) -> Array:
    """Return the intensity where the compute and memory roofs meet, P̂/β̂ [flops/byte]."""
    return np.divide(
        positive("peak_flops_per_s", peak_flops_per_s), positive("bandwidth_bytes_per_s", bandwidth_bytes_per_s)
    )


def dasi(intensity_flops_per_byte: ArrayLike, ridge_flops_per_byte: ArrayLike) -> Array:
    """Return min(1, I/Î*) in (0, 1]: DASI of the two-ceiling roofline. `attainable` gives it with all ceilings."""
    intensity = positive_or_unlimited("intensity_flops_per_byte", intensity_flops_per_byte)
    return np.minimum(1.0, np.divide(intensity, positive("ridge_flops_per_byte", ridge_flops_per_byte)))


def effective(peak: ArrayLike, efficiency: ArrayLike) -> Array:
    """Return P̂ = η·P (or β̂ = η·β) in the unit of `peak`; efficiency is the achieved share in (0, 1]."""
    return np.multiply(positive("peak", peak), positive_share("efficiency", efficiency))


def blended_peak(flops: ArrayLike, peaks_flops_per_s: ArrayLike) -> Array:
    """Return the one peak that takes as long as a mixture of families and precisions: ΣF / Σ(F/P̂) on the last axis.

    A stage without operations has no mixture; it gets the slowest of its peaks, which its time never uses.
    """
    work = nonnegative("flops", flops)
    peaks = positive("peaks_flops_per_s", peaks_flops_per_s)
    work, peaks = np.broadcast_arrays(work, peaks)
    time_s = np.sum(work / peaks, axis=-1)
    total = np.sum(work, axis=-1)
    busy = time_s > 0
    blended: Array = np.where(busy, total / np.where(busy, time_s, 1.0), np.min(peaks, axis=-1))
    return blended


def resident_bytes(weight_bytes: ArrayLike, cache_bytes: ArrayLike) -> Array:
    """Return the weight bytes that stay in the last-level cache from one inference to the next.

    All or nothing: a cyclic sweep over more than the cache holds evicts every line before its reuse under
    least-recently-used replacement. Both arguments in bytes, >= 0.
    """
    weights, cache = nonnegative("weight_bytes", weight_bytes), nonnegative("cache_bytes", cache_bytes)
    return np.where(weights <= cache, weights, 0.0)


def issue_time(cycles: ArrayLike, units: ArrayLike, clock_hz: ArrayLike) -> Array:
    """Return cycles/(units·f) [s], the ceiling of kernels that wait for instruction issue, not for memory.

    `cycles` counts unit-cycles of the stage. Decode with 4-bit weights on small GPUs meets it before the memory roof.
    """
    rate = positive("units", units) * positive("clock_hz", clock_hz)
    return np.divide(nonnegative("cycles", cycles), rate)


def link_time(weight_bytes: ArrayLike, sram_bytes: ArrayLike, link_bytes_per_s: ArrayLike) -> Array:
    """Return max(0, W − SRAM)/β_link [s]: weights that do not fit on the accelerator cross its link every inference.

    Infinite `sram_bytes` or `link_bytes_per_s` mean that there is no such limit.
    """
    excess = nonnegative("weight_bytes", weight_bytes) - nonnegative_or_unlimited("sram_bytes", sram_bytes)
    return np.divide(np.maximum(excess, 0.0), positive_or_unlimited("link_bytes_per_s", link_bytes_per_s))


def partition_time(
    flops: ArrayLike,
    bytes_moved: ArrayLike,
    *,
    coverage: ArrayLike,
    host_peak_flops_per_s: ArrayLike,
    host_bandwidth_bytes_per_s: ArrayLike,
    boundaries: ArrayLike = 0.0,
    boundary_bytes: ArrayLike = 0.0,
    boundary_bytes_per_s: ArrayLike = math.inf,
    sync_s: ArrayLike = 0.0,
) -> Array:
    """Return the time [s] that a partly supported stage spends outside its accelerator.

    The host runs the share 1 − coverage on its own roofline, and each of the `boundaries` between the two moves
    `boundary_bytes` and synchronises for `sync_s`:
    max((1−c)·F/P̂_host, (1−c)·B/β̂_host) + n·(b/β_boundary + sync).
    Coverage is in (0, 1]; 1 leaves only the boundaries. Raises ValueError naming the argument that is out of range.
    """
    rest = 1.0 - positive_share("coverage", coverage)
    compute_s = nonnegative("flops", flops) * rest / positive("host_peak_flops_per_s", host_peak_flops_per_s)
    memory_s = (
        nonnegative("bytes_moved", bytes_moved)
        * rest
        / positive("host_bandwidth_bytes_per_s", host_bandwidth_bytes_per_s)
    )
    transfer_s = np.divide(
        nonnegative("boundary_bytes", boundary_bytes),
        positive_or_unlimited("boundary_bytes_per_s", boundary_bytes_per_s),
    )
    crossings_s = nonnegative("boundaries", boundaries) * (transfer_s + nonnegative("sync_s", sync_s))
    return np.add(np.maximum(compute_s, memory_s), crossings_s)


def attainable(
    flops: ArrayLike,
    bytes_moved: ArrayLike,
    peak_flops_per_s: ArrayLike,
    bandwidth_bytes_per_s: ArrayLike,
    *,
    cache_s: ArrayLike = 0.0,
    issue_s: ArrayLike = 0.0,
    link_s: ArrayLike = 0.0,
    coverage: ArrayLike = 1.0,
    partition_s: ArrayLike = 0.0,
    overhead_s: ArrayLike = 0.0,
) -> Roofline:
    """Return the attainable time and DASI of stages on accelerators under every ceiling.

    limit = max(c·F/P̂, c·B/β̂, cache, issue, link) + partition;  t = limit + τ;  DASI = (c·F/P̂)/limit.
    Thus t = c·F/(P̂·DASI) + τ identically, and without a partition t is the largest ceiling plus τ.

    flops, bytes_moved: operations and memory bytes of the stage (bytes already multiplied by the pressure penalty).
    peak_flops_per_s, bandwidth_bytes_per_s: effective peaks, η included, > 0.
    cache_s, issue_s, link_s: further ceilings, see `issue_time` and `link_time`; they overlap with the others.
    coverage: share of the stage that the accelerator runs, (0, 1]; partition_s: what the rest costs, serially.
    overhead_s: launch and dispatch, τ.
    DASI is in (0, 1], and 0 only for a stage without operations. Raises ValueError naming the argument out of range.
    """
    covered = positive_share("coverage", coverage)
    compute = nonnegative("flops", flops) * covered / positive("peak_flops_per_s", peak_flops_per_s)
    memory = nonnegative("bytes_moved", bytes_moved) * covered
    memory = memory / positive("bandwidth_bytes_per_s", bandwidth_bytes_per_s)
    cache, issue, link = nonnegative("cache_s", cache_s), nonnegative("issue_s", issue_s), nonnegative("link_s", link_s)
    partition, overhead = nonnegative("partition_s", partition_s), nonnegative("overhead_s", overhead_s)
    limit = np.maximum(np.maximum(np.maximum(compute, memory), np.maximum(cache, issue)), link) + partition
    busy = limit > 0
    used = np.where(busy, compute / np.where(busy, limit, 1.0), 0.0)
    return Roofline(compute, memory, cache, issue, link, partition, overhead, limit + overhead, used)
