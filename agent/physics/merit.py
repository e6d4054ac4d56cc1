"""Figures of merit: pass@k, intelligence per watt, coverage per joule, price–power performance.

Plain quotients, stated as such. QEIL v2 (arXiv:2602.06057) prints an IPW of 0.9749 for 75.7 % at 63.8 W; the quotient
here gives 1.187 %/W and its normalisation is unpublished, so the two are shown side by side and never matched.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from agent.physics.arguments import Array, nonnegative, positive, share


def pass_at_k(samples: ArrayLike, correct: ArrayLike, k: ArrayLike) -> Array:
    """Return the unbiased pass@k of one task, 1 − C(n−c, k)/C(n, k), in [0, 1].

    samples: n >= 1 drawn; correct: c of them, 0 <= c <= n; k: 1 <= k <= n; whole numbers. Computed as a product, which
    does not overflow (Chen et al. 2021, arXiv:2107.03374, eq. 1). Average over tasks for a benchmark's pass@k.
    Raises ValueError naming the argument out of range.
    """
    n, c, chosen = np.broadcast_arrays(positive("samples", samples), nonnegative("correct", correct), positive("k", k))
    for name, value in (("samples", n), ("correct", c), ("k", chosen)):
        if np.any(value != np.floor(value)):
            raise ValueError(f"{name} must be whole numbers")
    if np.any(c > n):
        raise ValueError("correct must not exceed samples")
    if np.any(chosen > n):
        raise ValueError("k must not exceed samples: no unbiased estimate exists then")
    miss = np.ones(n.shape)
    for drawn in range(int(chosen.max(initial=0.0))):
        active = drawn < chosen
        miss = np.where(active, miss * np.maximum(0.0, n - c - drawn) / np.where(active, n - drawn, 1.0), miss)
    return 1.0 - miss


def intelligence_per_watt(pass_share: ArrayLike, mean_power_w: ArrayLike) -> Array:
    """Return IPW = pass@k [%] / mean power [%/W], after Saad-Falcon et al. 2025, arXiv:2511.07885.

    pass_share: accuracy or pass@k in [0, 1]; mean_power_w: over the query, > 0. ValueError names the culprit.
    """
    return np.divide(100.0 * share("pass_share", pass_share), positive("mean_power_w", mean_power_w))


def energy_coverage_efficiency(coverage: ArrayLike, energy_j: ArrayLike) -> Array:
    """Return ECE = coverage C(S) / energy E(S) [1/J]; coverage in [0, 1], energy > 0."""
    return np.divide(share("coverage", coverage), positive("energy_j", energy_j))


def price_power_performance(throughput_per_s: ArrayLike, price_usd: ArrayLike, mean_power_w: ArrayLike) -> Array:
    """Return PPP = throughput/(price · mean power) [1/(s·USD·W)]; throughput in tokens or inferences per second."""
    cost = positive("price_usd", price_usd) * positive("mean_power_w", mean_power_w)
    return np.divide(nonnegative("throughput_per_s", throughput_per_s), cost)
