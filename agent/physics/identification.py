"""On-line identification of a thermal node from the board's own sensors, fan state included.

Integrating C·dT/dt = P − Σ G_j·(T − T_j) − (G_a + G_fan·fan)·(T − T_a) over a window of samples gives a relation that
is linear in 1/C, G/C: its terms are integrals, which average sensor noise, where a derivative would amplify it.
Recursive least squares (Ljung, System Identification, §11.2) folds in one window at a time, in constant memory. Says
which parameters the data does not determine; owns no sensor and no buffer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from agent.physics.arguments import Array, celsius, finite, nonnegative, positive, positive_share, share
from agent.physics.thermal import ThermalNetwork
from agent.records import record

_DIFFUSE = 1e6
"""Variance of a parameter about which nothing is known; the parameters are below 1 in SI units on any board."""


@record(frozen=True, slots=True, eq=False)
class RlsState:
    """What recursive least squares remembers."""

    parameters: Array
    covariance: Array
    """Inverse information matrix: times the noise variance it is the covariance of the parameters."""
    squared_error: float
    """Sum of squared residuals, with forgetting."""
    weight: float
    """Effective number of observations."""
    forgetting: float


@record(frozen=True, slots=True, eq=False)
class NodeEstimate:
    """A node's capacity and conductances with one standard deviation as a share of the value."""

    capacity_j_per_k: float
    neighbour_w_per_k: Array
    ambient_w_per_k: float
    fan_w_per_k: float
    """Added conductance at full fan."""
    rel_uncertainty: Array
    """Of capacity, each neighbour, ambient, fan, in this order; infinite where not determined."""
    undetermined: tuple[str, ...]
    """Names of the parameters that the data does not support; empty where all are."""

    @property
    def supported(self) -> bool:
        """True where every parameter is determined and has a physical sign."""
        return not self.undetermined


@record(frozen=True, slots=True)
class UnnamedPower:
    """Power into a node beside the recorded one, taken as constant; below 0 where something cools it."""

    power_w: float
    standard_error_w: float
    """Infinite where the data does not determine it."""


def start(parameters: int, forgetting: float = 1.0) -> RlsState:
    """Return the state before any data: parameters 0 with a diffuse covariance.

    parameters: 3 + neighbours; forgetting: λ in (0, 1], 1 never forgets, 0.99 remembers about 100 windows.
    """
    if parameters < 1:
        raise ValueError(f"parameters must be >= 1; got {parameters}")
    kept = float(positive_share("forgetting", forgetting))
    return RlsState(np.zeros(parameters), np.eye(parameters) * _DIFFUSE, 0.0, 0.0, kept)


def update(state: RlsState, regressors: ArrayLike, response: float) -> RlsState:
    """Return the state after one more observation response ≈ regressors·parameters.

    Without excitation forgetting would inflate the covariance for ever (wind-up), so a direction that has become as
    uncertain as at the start is not forgotten further. ValueError where a number is not finite or a length differs.
    """
    x = finite("regressors", regressors)
    y = float(finite("response", response))
    if x.shape != state.parameters.shape:
        raise ValueError(f"regressors must have {state.parameters.size} entries; got shape {x.shape}")
    spread = state.covariance / state.forgetting
    if np.trace(spread) > _DIFFUSE * x.size:
        spread = state.covariance
    projected = spread @ x
    innovation_scale = 1.0 + float(x @ projected)
    gain = projected / innovation_scale
    innovation = y - float(x @ state.parameters)
    covariance = spread - np.outer(gain, projected)
    return RlsState(
        parameters=state.parameters + gain * innovation,
        covariance=0.5 * (covariance + covariance.T),
        squared_error=state.forgetting * state.squared_error + innovation**2 / innovation_scale,
        weight=state.forgetting * state.weight + 1.0,
        forgetting=state.forgetting,
    )


def window(
    time_s: ArrayLike,
    temperature_c: ArrayLike,
    power_w: ArrayLike,
    fan: ArrayLike,
    *,
    ambient_c: ArrayLike,
    neighbours_c: ArrayLike = (),
) -> tuple[Array, float]:
    """Return (regressors, response) of one window of samples, by the trapezoidal rule.

    time_s: (m,), m >= 2, rising; temperature_c, power_w (>= 0), fan (duty in [0, 1]): (m,); ambient_c: scalar or (m,);
    neighbours_c: (neighbours, m). Regressors are ∫P, −∫(T−T_j) per neighbour, −∫(T−T_a), −∫fan·(T−T_a); the response is
    the rise over the window. Windows of several seconds keep the noise of the two end samples small against the rise.
    """
    times = finite("time_s", time_s)
    if times.ndim != 1 or times.size < 2 or np.any(np.diff(times) <= 0):
        raise ValueError("time_s must hold at least two rising times")
    node = _series("temperature_c", celsius("temperature_c", temperature_c), times)
    duty = _series("fan", share("fan", fan), times)
    power = _series("power_w", nonnegative("power_w", power_w), times)
    above = node - _series("ambient_c", celsius("ambient_c", ambient_c), times)
    others = celsius("neighbours_c", np.reshape(np.asarray(neighbours_c, dtype=np.float64), (-1, times.size)))
    columns = np.vstack([power, others - node, -above, -duty * above])
    areas = np.sum(0.5 * (columns[:, 1:] + columns[:, :-1]) * np.diff(times), axis=1)
    return areas, float(node[-1] - node[0])


def _series(name: str, values: Array, times: Array) -> Array:
    if values.shape not in ((), times.shape):
        raise ValueError(f"{name} must have one value per time_s; got shape {values.shape}")
    return np.broadcast_to(values, times.shape)


def estimate(state: RlsState, max_rel_uncertainty: float = 0.25) -> NodeEstimate:
    """Return capacity and conductances from the state, and which of them the data does not determine.

    C = 1/θ_0, G_i = θ_i/θ_0; uncertainties by first-order propagation with the residual variance. A parameter is
    undetermined where it is more uncertain than `max_rel_uncertainty`, has an impossible sign, or – the fan – was never
    varied. ValueError for a state with fewer than 3 parameters.
    """
    limit = float(positive("max_rel_uncertainty", max_rel_uncertainty))
    theta = state.parameters
    if theta.size < 3:
        raise ValueError("state must have at least 3 parameters: power, ambient and fan")
    spare = state.weight - theta.size
    rel = np.full(theta.size, np.inf)
    inverse_capacity = float(theta[0])
    if spare <= 0 or inverse_capacity <= 0:
        nothing = np.zeros(theta.size - 3)
        return NodeEstimate(np.inf, nothing, 0.0, 0.0, rel, _names(theta.size))
    covariance = state.covariance * max(state.squared_error / spare, np.finfo(np.float64).eps)
    values = theta[1:] / inverse_capacity
    rel[0] = np.sqrt(covariance[0, 0]) / inverse_capacity
    # Var(θ_i/θ_0) = (Var θ_i − 2·G_i·Cov(θ_i, θ_0) + G_i²·Var θ_0)/θ_0²
    variance = np.diagonal(covariance)[1:] - 2 * values * covariance[0, 1:] + values**2 * covariance[0, 0]
    # A direction that no observation touched still has its prior variance, whatever the residuals say.
    blind = np.diagonal(state.covariance) > 1e-3 * _DIFFUSE
    known = (values > 0) & ~blind[1:]
    spread = np.sqrt(np.maximum(variance, 0.0)) / inverse_capacity
    rel[1:] = np.where(known, spread / np.where(known, values, 1.0), np.inf)
    undetermined = tuple(name for name, share_ in zip(_names(theta.size), rel, strict=True) if share_ > limit)
    return NodeEstimate(1.0 / inverse_capacity, values[:-2], float(values[-2]), float(values[-1]), rel, undetermined)


def estimate_beside(state: RlsState, max_rel_uncertainty: float = 0.25) -> tuple[NodeEstimate, UnnamedPower]:
    """Return `estimate` of a state whose last regressor is the length of the window, and the power that explains it.

    ∫dt carries a power P₀ that warms the node all the time without being recorded: P₀ = θ_last/θ_0. ValueError for
    a state with fewer than 4 parameters.
    """
    theta, spread = state.parameters, state.covariance
    named = RlsState(theta[:-1], spread[:-1, :-1], state.squared_error, state.weight - 1.0, state.forgetting)
    node = estimate(named, max_rel_uncertainty)
    spare, inverse_capacity = state.weight - theta.size, float(theta[0])
    if spare <= 0 or inverse_capacity <= 0 or spread[-1, -1] > 1e-3 * _DIFFUSE:
        return node, UnnamedPower(0.0, np.inf)
    power_w = float(theta[-1]) / inverse_capacity
    variance = spread[-1, -1] - 2.0 * power_w * spread[0, -1] + power_w**2 * spread[0, 0]
    noise = max(state.squared_error / spare, np.finfo(np.float64).eps)
    return node, UnnamedPower(power_w, float(np.sqrt(max(variance, 0.0) * noise)) / inverse_capacity)


def _names(parameters: int) -> tuple[str, ...]:
    return ("capacity", *(f"neighbour {i}" for i in range(parameters - 3)), "ambient", "fan")


def assemble(estimates: tuple[NodeEstimate, ...], fan: float) -> ThermalNetwork:
    """Return the network of jointly estimated nodes at a fan duty in [0, 1].

    Node i must have been estimated with every other node as a neighbour, in index order. The two estimates of a link
    are averaged, weighted by the inverse of their relative variance; estimates below 0, within noise of no link, count
    as 0. A fan or link that is undetermined is used as it is: check `supported` first where that matters.
    """
    nodes = len(estimates)
    duty = float(share("fan", fan))
    link = np.zeros((nodes, nodes))
    precision = np.zeros((nodes, nodes))
    for i, node in enumerate(estimates):
        others = [j for j in range(nodes) if j != i]
        if node.neighbour_w_per_k.size != len(others):
            raise ValueError(f"estimates[{i}] has {node.neighbour_w_per_k.size} neighbours; needs {len(others)}")
        link[i, others] = np.maximum(node.neighbour_w_per_k, 0.0)
        precision[i, others] = 1.0 / (1e-6 + np.square(node.rel_uncertainty[1:-2]))
    total = precision + precision.T
    weighted = link * precision
    averaged = (weighted + weighted.T) / np.where(total > 0, total, 1.0)
    return ThermalNetwork(
        capacity_j_per_k=np.array([node.capacity_j_per_k for node in estimates]),
        link_w_per_k=averaged,
        ambient_w_per_k=np.array([max(0.0, n.ambient_w_per_k) + duty * max(0.0, n.fan_w_per_k) for n in estimates]),
    )
