"""Heat: a lumped RC network of the board, stepped exactly, with its steady state and its time to a trip.

    C·dT/dt = P(T) − L·(T − T_amb),   L = links as a graph Laplacian + conductances to ambient

(HotSpot: Skadron et al., ISCA 2003.) P may rise with temperature: its slope, the leakage's, moves into L, which stays
symmetric. Scaling by √C then makes the system symmetric, so one eigendecomposition gives the matrix exponential with
orthogonal vectors: exact for any step, no stability limit. Owns no sensor, no clock and no trip policy.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from agent.physics.arguments import Array, celsius, finite, nonnegative, positive, share
from agent.records import record


@record(frozen=True, slots=True, eq=False)
class ThermalNetwork:
    """Nodes (dies, spreader, heatsink) with their capacities and conductances; n nodes.

    Raises ValueError where a shape, sign or symmetry is wrong, and where a node has no path to ambient: such a node
    would heat for ever.
    """

    capacity_j_per_k: Array
    """(n,), > 0."""
    link_w_per_k: Array
    """(n, n), symmetric, >= 0, diagonal 0: conductance between nodes."""
    ambient_w_per_k: Array
    """(n,), >= 0: conductance to ambient at the present fan state."""

    def __post_init__(self) -> None:
        capacity = np.atleast_1d(positive("capacity_j_per_k", self.capacity_j_per_k))
        link = np.atleast_2d(nonnegative("link_w_per_k", self.link_w_per_k))
        ambient = np.atleast_1d(nonnegative("ambient_w_per_k", self.ambient_w_per_k))
        nodes = capacity.size
        if capacity.shape != (nodes,) or link.shape != (nodes, nodes) or ambient.shape != (nodes,):
            raise ValueError(f"link_w_per_k and ambient_w_per_k do not fit the {nodes} nodes of capacity_j_per_k")
        if np.any(link != link.T) or np.any(np.diagonal(link) != 0):
            raise ValueError("link_w_per_k must be symmetric with a zero diagonal")
        if not _grounded(link, ambient):
            raise ValueError("ambient_w_per_k leaves a node without any path to ambient")
        object.__setattr__(self, "capacity_j_per_k", capacity)
        object.__setattr__(self, "link_w_per_k", link)
        object.__setattr__(self, "ambient_w_per_k", ambient)

    @property
    def laplacian_w_per_k(self) -> Array:
        """L: links as a graph Laplacian plus the conductances to ambient on the diagonal."""
        return np.diag(self.link_w_per_k.sum(axis=1) + self.ambient_w_per_k) - self.link_w_per_k


def _grounded(link: Array, ambient: Array) -> bool:
    reached = ambient > 0
    for _ in range(ambient.size):
        reached = reached | ((link > 0) @ reached)
    return bool(reached.all())


def with_fan(network: ThermalNetwork, fan_w_per_k: ArrayLike, fan: float) -> ThermalNetwork:
    """Return the network at a fan state: G_ambient + fan·fan_w_per_k.

    fan_w_per_k: what a full fan adds per node, >= 0; fan: duty in [0, 1].
    """
    added = nonnegative("fan_w_per_k", fan_w_per_k) * share("fan", fan)
    return replace(network, ambient_w_per_k=network.ambient_w_per_k + added)


def _modes(network: ThermalNetwork, power_slope_w_per_k: ArrayLike) -> tuple[Array, Array, Array]:
    """Return decay rates [1/s], orthonormal modes, and √C of C^-½·(L − diag slope)·C^-½."""
    slope = np.broadcast_to(finite("power_slope_w_per_k", power_slope_w_per_k), network.capacity_j_per_k.shape)
    root = np.sqrt(network.capacity_j_per_k)
    rates, vectors = np.linalg.eigh((network.laplacian_w_per_k - np.diag(slope)) / np.outer(root, root))
    return rates, vectors, root


def transition(network: ThermalNetwork, duration_s: float, power_slope_w_per_k: ArrayLike = 0.0) -> Array:
    """Return exp(−C⁻¹·(L − diag slope)·duration), the (n, n) matrix that decays temperatures above ambient."""
    rates, vectors, root = _modes(network, power_slope_w_per_k)
    decay = np.exp(-rates * nonnegative("duration_s", duration_s))
    scaled: Array = (vectors * decay) @ vectors.T
    return scaled * root / root[:, None]


def step(
    network: ThermalNetwork,
    temperature_c: ArrayLike,
    power_w: ArrayLike,
    duration_s: ArrayLike,
    *,
    ambient_c: ArrayLike,
    power_slope_w_per_k: ArrayLike = 0.0,
) -> Array:
    """Return node temperatures [°C] after `duration_s` at constant inputs: exact, and composable step by step.

    temperature_c: (…, n) at the start; power_w: (…, n) at those temperatures; duration_s (>= 0), ambient_c: (…);
    power_slope_w_per_k: dP/dT per node, for instance `leakage.leakage_slope`: exact for the linearised law.
    Raises ValueError naming the argument out of range.
    """
    rates, vectors, root = _modes(network, power_slope_w_per_k)
    start = celsius("temperature_c", temperature_c)
    ambient = celsius("ambient_c", ambient_c)[..., None]
    duration = nonnegative("duration_s", duration_s)[..., None]
    slope = np.asarray(power_slope_w_per_k, dtype=np.float64)
    above = start - ambient
    drive = (finite("power_w", power_w) - slope * above) / root
    modal = (above * root) @ vectors
    held = drive @ vectors
    # φ(λ, t) = (1 − e^−λt)/λ tends to t for the slowest modes, where the quotient would lose every digit.
    flat = np.abs(rates) * duration < 1e-12
    if np.any(-rates * duration > 500.0):
        raise ValueError("power_slope_w_per_k outweighs the cooling: temperatures run away within duration_s")
    response = np.where(flat, duration, -np.expm1(-rates * duration) / np.where(rates == 0.0, 1.0, rates))
    after: Array = (modal * np.exp(-rates * duration) + held * response) @ vectors.T
    return ambient + after / root


def steady_state(
    network: ThermalNetwork,
    power_w: ArrayLike,
    *,
    ambient_c: float,
    power_slope_w_per_k: ArrayLike = 0.0,
) -> Array:
    """Return where the node temperatures [°C] settle: (L − diag slope)·(T − T_amb) = P.

    power_w: (n,), P at ambient temperature; power_slope_w_per_k: dP/dT. ValueError where the slope outweighs the
    cooling: nothing settles then (thermal runaway).
    """
    rates, _, _ = _modes(network, power_slope_w_per_k)
    if rates[0] <= 0:
        raise ValueError("power_slope_w_per_k outweighs the cooling: temperatures run away")
    matrix = network.laplacian_w_per_k - np.diag(
        np.broadcast_to(np.asarray(power_slope_w_per_k, dtype=np.float64), rates.shape)
    )
    power = np.broadcast_to(finite("power_w", power_w), rates.shape)
    return celsius("ambient_c", ambient_c) + np.linalg.solve(matrix, power)


def time_constants(network: ThermalNetwork) -> Array:
    """Return the time constants of the network [s], slowest first."""
    return 1.0 / _modes(network, 0.0)[0]


def time_to_reach(
    network: ThermalNetwork,
    temperature_c: ArrayLike,
    power_w: ArrayLike,
    trip_c: float,
    *,
    node: int,
    ambient_c: float,
    horizon_s: float,
    power_slope_w_per_k: ArrayLike = 0.0,
) -> float:
    """Return the seconds until `node` first reaches `trip_c` at constant inputs; infinity if not within the horizon.

    0 where it is there already. A node's temperature is a sum of exponentials and may rise and fall again, so the first
    crossing is found exactly: roots of the sum lie between roots of its derivative (Rolle), term by term.
    `step` over the returned time gives `trip_c`. Arguments as in `step`; horizon_s: > 0; node: index.
    """
    if not 0 <= node < network.capacity_j_per_k.size:
        raise ValueError(f"node must be one of 0…{network.capacity_j_per_k.size - 1}; got {node}")
    horizon = float(positive("horizon_s", horizon_s))
    trip = float(celsius("trip_c", trip_c))
    ambient = float(celsius("ambient_c", ambient_c))
    start = np.broadcast_to(celsius("temperature_c", temperature_c), network.capacity_j_per_k.shape)
    if start[node] >= trip:
        return 0.0
    rates, vectors, root = _modes(network, power_slope_w_per_k)
    slope = np.asarray(power_slope_w_per_k, dtype=np.float64)
    above = start - ambient
    modal = (above * root) @ vectors
    held = ((finite("power_w", power_w) - slope * above) / root) @ vectors
    # A mode slower than the horizon by seven orders is a straight line over it; the bound keeps held/rate finite.
    slowest = 1e-7 / horizon
    rates = np.where(np.abs(rates) < slowest, slowest, rates)
    reach = vectors[node] / root[node]
    weights = reach * (modal - held / rates)
    level = float(np.sum(reach * held / rates)) - (trip - ambient)
    terms = sorted(zip([0.0, *rates.tolist()], [level, *weights.tolist()], strict=True))
    crossings = _roots(tuple(terms), horizon)
    return crossings[0] if crossings else math.inf


def _roots(terms: tuple[tuple[float, float], ...], horizon: float) -> list[float]:
    """Return where Σ c·e^(−r·t) changes sign in (0, horizon], rising; `terms` are (r, c) with r rising."""
    if len(terms) < 2:
        return []
    first = terms[0][0]
    derivative = tuple((rate, (rate - first) * weight) for rate, weight in terms[1:])
    edges = [0.0, *_roots(derivative, horizon), horizon]
    found = []
    for low, high in pairwise(edges):
        sign = _value(terms, low)
        if sign * _value(terms, high) < 0:
            found.append(_bisect(terms, low, high, sign))
    return found


def _value(terms: tuple[tuple[float, float], ...], at_s: float) -> float:
    # Divided by the slowest exponential: the sign is the same and the sum neither overflows nor underflows to 0.
    first = terms[0][0]
    return math.fsum(weight * math.exp(-(rate - first) * at_s) for rate, weight in terms)


def _bisect(terms: tuple[tuple[float, float], ...], low: float, high: float, sign: float) -> float:
    middle = 0.5 * (low + high)
    while low < middle < high:
        if _value(terms, middle) * sign > 0:
            low = middle
        else:
            high = middle
        middle = 0.5 * (low + high)
    return high
