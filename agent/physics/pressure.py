"""Memory pressure: how full a memory domain is (CPQ), what crowding costs, and the cliff when it overflows.

Accelerators of a shared-memory board draw from one capacity: sum their bytes first, then ask here. Owns no policy:
whether a CPQ is acceptable is the policy's `max_cpq`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from agent.physics.arguments import Array, nonnegative, positive, positive_share


def usable_bytes(capacity_bytes: ArrayLike, reserved_bytes: ArrayLike) -> Array:
    """Return capacity − reserved [bytes]; ValueError where nothing is left."""
    left = positive("capacity_bytes", capacity_bytes) - nonnegative("reserved_bytes", reserved_bytes)
    return positive("capacity_bytes - reserved_bytes", left)


def cpq(
    weight_bytes: ArrayLike,
    arena_bytes: ArrayLike,
    kv_bytes: ArrayLike,
    capacity_bytes: ArrayLike,
    reserved_bytes: ArrayLike = 0.0,
) -> Array:
    """Return (Σ weights + arena + KV cache)/(capacity − reserved), >= 0; above 1 the domain overflows.

    The first three are sums over everything that lives in the domain [bytes]. ValueError names the culprit.
    """
    held = nonnegative("weight_bytes", weight_bytes) + nonnegative("arena_bytes", arena_bytes)
    held = held + nonnegative("kv_bytes", kv_bytes)
    return np.divide(held, usable_bytes(capacity_bytes, reserved_bytes))


def penalty(cpq: ArrayLike, *, knee: ArrayLike, slope: ArrayLike, saturation: ArrayLike = 0.98) -> Array:
    """Return π(CPQ) >= 1, the factor on bytes moved: 1 up to the knee θ, then 1 + κ·(CPQ − θ)/(1 − CPQ).

    Expected search and reclaim work of an allocator grows like 1/(1 − occupancy) (Kleinrock, Queueing Systems I). Near
    a full memory that surrogate diverges while real machines fault instead, so from `saturation` on π keeps its value
    and `swap_time` takes over. Continuous and never falling in CPQ.

    cpq: >= 0; knee: θ in (0, 1]; slope: κ >= 0; saturation: in (0, 1), at or above the knee to have a slope at all.
    """
    limit = positive_share("saturation", saturation)
    if np.any(limit == 1.0):
        raise ValueError("saturation must be below 1: the penalty diverges there")
    occupancy = np.minimum(nonnegative("cpq", cpq), limit)
    over = np.maximum(0.0, occupancy - positive_share("knee", knee))
    return 1.0 + nonnegative("slope", slope) * over / (1.0 - occupancy)


def swap_time(
    held_bytes: ArrayLike,
    usable_bytes: ArrayLike,
    backing_bytes_per_s: ArrayLike,
    touched_share: ArrayLike = 1.0,
) -> Array:
    """Return the seconds added to one pass by bytes that no longer fit: touched · max(0, held − usable)/B_backing.

    Zero while everything fits, then a cliff: a backing store gives 0.02–0.1 GB/s (SD card) to 0.5–3 GB/s (NVMe) against
    tens of GB/s of DRAM. touched_share: share of the excess that the pass really reads, (0, 1].
    """
    excess = np.maximum(0.0, nonnegative("held_bytes", held_bytes) - positive("usable_bytes", usable_bytes))
    touched = excess * positive_share("touched_share", touched_share)
    return np.divide(touched, positive("backing_bytes_per_s", backing_bytes_per_s))
