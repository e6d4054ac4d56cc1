"""Bandwidth of a shared memory domain, divided among the accelerators that use it at the same time.

On Jetson, Raspberry Pi, RK3588 and integrated GPUs one DRAM serves everyone. The division is max–min fair: nobody gets
more than asked, what one leaves the others share, and no bandwidth idles while somebody waits (Bertsekas & Gallager,
Data Networks, §6.5.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.physics.arguments import Array, nonnegative, positive, positive_share


def shared_bandwidth(
    demand_bytes_per_s: ArrayLike, bandwidth_bytes_per_s: ArrayLike, weights: ArrayLike = 1.0
) -> Array:
    """Return what each concurrent user gets [bytes/s], max–min fair over the last axis.

    demand_bytes_per_s: (…, users), >= 0; bandwidth_bytes_per_s: of the domain, shape (…) or a scalar, > 0;
    weights: priority per user, > 0. Gives min(demand, weight·level) with the level at which the sum is
    min(Σ demand, bandwidth). ValueError names the argument out of range.
    """
    demand = nonnegative("demand_bytes_per_s", demand_bytes_per_s)
    if demand.ndim == 0:
        raise ValueError("demand_bytes_per_s needs an axis of users, the last one")
    total = positive("bandwidth_bytes_per_s", bandwidth_bytes_per_s)[..., None]
    demand, weight, total = np.broadcast_arrays(demand, positive("weights", weights), total)
    level = demand / weight
    order = np.argsort(level, axis=-1)
    level_up = np.take_along_axis(level, order, axis=-1)
    demand_up = np.take_along_axis(demand, order, axis=-1)
    weight_up = np.take_along_axis(weight, order, axis=-1)
    served_below = np.cumsum(demand_up, axis=-1) - demand_up
    weight_from = np.flip(np.cumsum(np.flip(weight_up, axis=-1), axis=-1), axis=-1)
    # Users are satisfied in order of demand per weight; the first who cannot be sets the level for all after him.
    fill = (total - served_below) / weight_from
    starved = fill < level_up
    first = np.argmax(starved, axis=-1, keepdims=True)
    water = np.where(np.any(starved, axis=-1, keepdims=True), np.take_along_axis(fill, first, axis=-1), np.inf)
    granted: Array = np.minimum(demand, weight * water)
    return granted


def domain_bandwidth(
    demand_bytes_per_s: ArrayLike, domain_of_user: NDArray[np.intp], bandwidth_bytes_per_s: ArrayLike
) -> Array:
    """Return what each user gets when users draw from several domains.

    demand_bytes_per_s: (…, users); domain_of_user: index of each user's domain; bandwidth_bytes_per_s: per domain.
    Raises ValueError where an index names no domain or the lengths differ.
    """
    demand = nonnegative("demand_bytes_per_s", demand_bytes_per_s)
    totals = np.atleast_1d(positive("bandwidth_bytes_per_s", bandwidth_bytes_per_s))
    domains = np.asarray(domain_of_user)
    if domains.shape != demand.shape[-1:]:
        raise ValueError(f"domain_of_user has {domains.size} entries for a demand of shape {demand.shape}")
    if domains.size and not (domains.min() >= 0 and domains.max() < totals.size):
        raise ValueError(f"domain_of_user must index one of {totals.size} domains")
    granted = np.zeros(demand.shape)
    for domain, total in enumerate(totals):
        users = domains == domain
        granted[..., users] = shared_bandwidth(demand[..., users], total) if users.any() else 0.0
    return granted


def concurrent_times(
    compute_s: ArrayLike, bytes_moved: ArrayLike, bandwidth_bytes_per_s: ArrayLike, own_share: ArrayLike = 1.0
) -> Array:
    """Return the time [s] of each stage on the last axis while all of them keep running beside each other.

    Alone a stage takes max(compute, B/(own_share·β)), own_share being the part of the domain's bandwidth that its
    accelerator can draw. Its demand is B over that time; it then gets its max–min fair part:
    max(compute, B/granted). Never shorter than alone. A stage that moves nothing keeps its compute time.
    """
    compute, moved = nonnegative("compute_s", compute_s), nonnegative("bytes_moved", bytes_moved)
    total = positive("bandwidth_bytes_per_s", bandwidth_bytes_per_s)
    own = positive_share("own_share", own_share) * total[..., None]
    alone = np.maximum(compute, moved / own)
    busy = alone > 0
    demand = np.where(busy, moved / np.where(busy, alone, 1.0), 0.0)
    granted = shared_bandwidth(demand, total)
    drawing = granted > 0
    return np.maximum(alone, np.where(drawing, moved / np.where(drawing, granted, 1.0), 0.0))
