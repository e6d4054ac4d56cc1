"""Thermal impedance of a sensor, learnt on line: what each heat source adds to it, by fixed time constants.

The temperature of any node of an RC network is a sum of decaying exponentials of the powers (Foster's form):

    T = T_0 + Σ_source Σ_k R_sk·x_sk − d·z,   τ_k·dx_sk/dt = P_s − x_sk,   τ_K·dz/dt = fan·Σ_s R⁰_sK·x_sK − z

With the time constants fixed on a grid (Van den Hof et al., Automatica 31, 1995) it is linear in T_0, R and d, and its
regressors are filtered powers, free of the sensor's noise. T_0 is the air with everything that is not counted as power
and drifts; d is the share of the slowest part that a full fan takes away. A Kalman filter follows all of them; what the
data does not excite keeps its prior and its prior's uncertainty. Owns no sensor, no limit and no decision.
"""

from __future__ import annotations

import math
from dataclasses import field, replace

import numpy as np
from numpy.typing import ArrayLike

from agent.physics.arguments import Array, celsius, nonnegative, positive, share
from agent.records import record

_SHARED = 0.9
"""Correlation of the slowest resistances of a zone's sources."""
_SPIKE = 4.0
"""Innovations beyond this many standard deviations count as this many: a spike moves the estimate, not the network."""
_NOISE_C = 1.0
"""Most that a reading is mistrusted, as a standard deviation, however badly it was foretold."""
_NOISE_MEMORY = 60.0
"""Samples over which the size of the innovations is averaged."""
_LEAST_KEPT = 1e-3
"""Share of the information that is left after any gap: nothing at all would leave the air without a value."""


@record(frozen=True, slots=True, eq=False)
class ImpedancePrior:
    """What is believed before any data, and how fast it may change."""

    time_constants_s: Array
    """(poles,), rising, > 0."""
    resistance_k_per_w: Array
    """(sources, poles), > 0."""
    rel_uncertainty: float = 0.5
    """One standard deviation of a resistance as a share of it."""
    fan_share: float = 0.4
    """Share of the slowest part that a full fan takes away."""
    drift_c_per_sqrt_s: float = 0.02
    """Random walk of T_0: 0.02 is 1.2 °C in an hour."""
    memory_s: float = 7200.0
    """Time constant with which what readings have told is forgotten, and what is believed before data comes back.

    Forgetting is linear in information and towards the prior (Kulhavý and Zarrop, Int. J. Control 58, 1993): where
    readings tell much, the prior weighs next to nothing; what they never tell is the prior again after some memories.
    """
    sensor_c: float = 0.3
    """Smallest standard deviation of a reading."""
    mean: Array = field(init=False, repr=False)
    """Parameters before data: T_0 (0: set by the first reading), resistances, −d."""
    variance: Array = field(init=False, repr=False)
    """Their variances: T_0 within 10 °C of the first reading, d within 0.3."""
    covariance: Array = field(init=False, repr=False)
    """The slowest parts of all sources change together: they share the way from the board to the air.

    Without that, whichever source is always on is taken for the cause of a fan that fails.
    """
    information: Array = field(init=False, repr=False)
    """Inverse of the covariance; none of T_0: the air has no prior but its last value."""
    low: Array = field(init=False, repr=False)
    high: Array = field(init=False, repr=False)
    """Least and greatest that each parameter can physically be."""

    def __post_init__(self) -> None:
        taus = np.atleast_1d(positive("time_constants_s", self.time_constants_s))
        resistance = np.atleast_2d(positive("resistance_k_per_w", self.resistance_k_per_w))
        if resistance.shape[1] != taus.size:
            raise ValueError(f"resistance_k_per_w must have one column per time constant; got {resistance.shape}")
        if np.any(np.diff(taus) <= 0):
            raise ValueError("time_constants_s must rise")
        share("fan_share", self.fan_share)
        for name in ("rel_uncertainty", "drift_c_per_sqrt_s", "memory_s", "sensor_c"):
            positive(name, getattr(self, name))
        object.__setattr__(self, "time_constants_s", taus)
        object.__setattr__(self, "resistance_k_per_w", resistance)
        flat = resistance.ravel()
        object.__setattr__(self, "mean", np.concatenate([[0.0], flat, [-self.fan_share]]))
        variance = np.concatenate([[100.0], (self.rel_uncertainty * flat) ** 2, [0.09]])
        object.__setattr__(self, "variance", variance)
        object.__setattr__(self, "covariance", _shared(variance, taus.size, self.sources))
        information = np.zeros_like(self.covariance)
        information[1:, 1:] = np.linalg.inv(self.covariance[1:, 1:])
        object.__setattr__(self, "information", information)
        object.__setattr__(self, "low", np.concatenate([[-np.inf], 0.05 * flat, [-0.95]]))
        object.__setattr__(self, "high", np.append(np.full(flat.size + 1, np.inf), 0.0))

    @property
    def sources(self) -> int:
        """Number of heat sources."""
        return int(self.resistance_k_per_w.shape[0])


def _shared(variance: Array, poles: int, sources: int) -> Array:
    found = np.diag(variance)
    slow = np.arange(poles, 1 + sources * poles, poles)
    deviation = np.sqrt(variance[slow])
    found[np.ix_(slow, slow)] += _SHARED * (np.outer(deviation, deviation) - np.diag(variance[slow]))
    return found


@record(frozen=True, slots=True, eq=False)
class ImpedanceState:
    """What has been learnt."""

    time_s: float
    filtered_w: Array
    """(sources, poles)."""
    fan_k: float
    mean: Array
    covariance: Array
    innovation_c2: float
    """Mean square of the one-step prediction error [K²]."""
    samples: int

    @property
    def ambient_c(self) -> float:
        """T_0: the temperature it would settle at without the counted powers."""
        return float(self.mean[0])

    def resistance_k_per_w(self) -> Array:
        """(sources,): kelvin per watt once settled, without fan."""
        found: Array = self.mean[1:-1].reshape(self.filtered_w.shape).sum(axis=1)
        return found


def start(prior: ImpedancePrior, temperature_c: float, now_s: float) -> ImpedanceState:
    """Return the state at the first reading: everything idle before it, as far as anyone knows."""
    mean = prior.mean.copy()
    mean[0] = float(celsius("temperature_c", temperature_c))
    zeros = np.zeros(prior.resistance_k_per_w.shape)
    return ImpedanceState(now_s, zeros, 0.0, mean, prior.covariance, prior.sensor_c**2, 0)


def start_anew(state: ImpedanceState, prior: ImpedancePrior, temperature_c: float) -> ImpedanceState:
    """Return the state with everything that was learnt given up for a reading [°C] at `state.time_s`.

    The powers are known, whatever was learnt of them: a board that is warm from work is not taken for one in hot air.
    """
    began = start(prior, temperature_c, state.time_s)
    moved = replace(began, filtered_w=state.filtered_w, fan_k=state.fan_k)
    mean = moved.mean.copy()
    mean[0] += temperature_c - estimate(moved)
    return replace(moved, mean=mean)


def unsure(state: ImpedanceState, prior: ImpedancePrior) -> ImpedanceState:
    """Return the state as sure of its parameters as before any data, with the values that were learnt."""
    return replace(state, covariance=prior.covariance)


def observe(
    state: ImpedanceState,
    prior: ImpedancePrior,
    temperature_c: float | None,
    power_w: ArrayLike,
    fan: float,
    now_s: float,
) -> ImpedanceState:
    """Return the state after powers held since the last call and, where there is one, a reading.

    power_w: (sources,), >= 0, mean since `state.time_s`; fan: duty in [0, 1]; temperature_c None: only time passes.
    ValueError where time runs backwards or a number is out of range.
    """
    duration_s = now_s - state.time_s
    if duration_s < 0:
        raise ValueError(f"now_s ({now_s:g}) lies before the last call ({state.time_s:g})")
    powers = nonnegative("power_w", power_w)
    duty = float(share("fan", fan))
    filtered, fan_k = _advance(state, prior, powers, duty, duration_s)
    mean, covariance = _forgotten(state, prior, duration_s)
    moved = ImpedanceState(now_s, filtered, fan_k, mean, covariance, state.innovation_c2, state.samples)
    return moved if temperature_c is None else correct(moved, prior, temperature_c)


def _advance(
    state: ImpedanceState, prior: ImpedancePrior, powers: Array, duty: float, duration_s: float
) -> tuple[Array, float]:
    decay = np.exp(-duration_s / prior.time_constants_s)
    filtered = powers[:, None] + (state.filtered_w - powers[:, None]) * decay
    slow = prior.resistance_k_per_w[:, -1]
    settled, began = float(slow @ powers), float(slow @ state.filtered_w[:, -1])
    last, elapsed = float(decay[-1]), duration_s / float(prior.time_constants_s[-1])
    fan_k = state.fan_k * last + duty * (settled * (1.0 - last) + (began - settled) * elapsed * last)
    return filtered, fan_k


def _forgotten(state: ImpedanceState, prior: ImpedancePrior, duration_s: float) -> tuple[Array, Array]:
    """Mean and covariance with part of the readings' information given up for as much of the prior's.

    Variances that grow alike whatever is known would let each reading move what hours have shown: its noise becomes
    news, the governor answers to it, and a quick resistance is learnt from the answers.
    """
    kept = max(_LEAST_KEPT, math.exp(-duration_s / prior.memory_s))
    gained = (1.0 - kept) * prior.information
    scaled = state.covariance @ gained
    scaled.flat[:: scaled.shape[0] + 1] += kept
    covariance = np.linalg.solve(scaled, state.covariance)
    covariance = 0.5 * (covariance + covariance.T)
    mean = state.mean + covariance @ (gained @ (prior.mean - state.mean))
    covariance[0, 0] += prior.drift_c_per_sqrt_s**2 * duration_s
    # Bounded by the prior, so that hours without excitation cannot wind it up.
    scale = np.sqrt(np.minimum(1.0, prior.variance / covariance.diagonal()))
    covariance *= scale[:, None]
    covariance *= scale
    return mean, covariance


def correct(state: ImpedanceState, prior: ImpedancePrior, temperature_c: float) -> ImpedanceState:
    """Return the state after a reading [°C] at `state.time_s`."""
    celsius("temperature_c", temperature_c)
    row = _row(state)
    projected = state.covariance @ row
    # Errors of the model are correlated in time, so innovations count as noise; bounded, or a bad start would last.
    # All of them: a filter that takes noise for news lowers the power for it, and learns that this helped.
    variance = float(row @ projected) + max(prior.sensor_c**2, min(_NOISE_C**2, state.innovation_c2))
    innovation = temperature_c - float(row @ state.mean)
    reach = _SPIKE * variance**0.5
    kept = min(max(innovation, -reach), reach)
    gain = projected / variance
    covariance = state.covariance - gain[:, None] * projected
    mean = _possible(state.mean + gain * kept, covariance, prior, row, temperature_c, abs(innovation))
    memory = 1.0 / min(state.samples + 1.0, _NOISE_MEMORY)
    size = state.innovation_c2 + memory * (kept**2 - state.innovation_c2)
    return ImpedanceState(
        state.time_s, state.filtered_w, state.fan_k, mean, 0.5 * (covariance + covariance.T), size, state.samples + 1
    )


def _row(state: ImpedanceState) -> Array:
    """(parameters,): regressors now."""
    row = np.empty(state.mean.size)
    row[0], row[1:-1], row[-1] = 1.0, state.filtered_w.ravel(), state.fan_k
    return row


def _possible(
    mean: Array, covariance: Array, prior: ImpedancePrior, row: Array, temperature_c: float, off_c: float
) -> Array:
    """The parameters within their bounds.

    Each is cut off at its bound alone, which noise does not bias. Where that would carry the estimate further from the
    reading than the `off_c` it was, what is cut off one is made up by those it depends on: each bound becomes a
    certainty, one after the other (projection in the metric of the covariance: Simon and Chia, IEEE Trans. Aerosp.
    Electron. Syst. 38, 2002). Without that, a filter can walk away from its readings.
    """
    low, high = prior.low, prior.high
    cut: Array = np.minimum(np.maximum(mean, low), high)
    if abs(temperature_c - float(row @ cut)) <= off_c:
        return cut
    left = covariance
    for _ in range(mean.size):
        bound = np.clip(mean, low, high)
        off = np.abs(bound - mean)
        at = int(off.argmax())
        if off[at] > 1e-12 and left[at, at] > 0.0:
            gain = left[:, at] / left[at, at]
            mean = mean + gain * (bound[at] - mean[at])
            left = left - np.outer(gain, left[at])
    found: Array = np.clip(mean, low, high)
    return found


def estimate(state: ImpedanceState) -> float:
    """Return the temperature now [°C] as the network has it: the reading without most of its noise."""
    parts = state.mean[1:-1] @ state.filtered_w.ravel()
    return float(state.mean[0] + parts + state.mean[-1] * state.fan_k)


def estimate_deviation_c(state: ImpedanceState) -> float:
    """Return one standard deviation of that estimate, from what is not known of the parameters.

    Small where the powers are those it was learnt at, and large where they are others: a constant load leaves open how
    much of the temperature is its own and how much the air's.
    """
    row = _row(state)
    return math.sqrt(max(0.0, float(row @ state.covariance @ row)))


@record(frozen=True, slots=True, eq=False)
class Forecast:
    """Temperatures at some times ahead as a linear function of powers held from now on."""

    times_s: Array
    base_c: Array
    """(times,): with no power at all."""
    gain_k_per_w: Array
    """(times, sources)."""
    base_rows: Array
    """(times, parameters): regressors with no power; gain_rows (sources, times, parameters): per watt."""
    gain_rows: Array
    covariance: Array
    extra_c2: Array
    """(times,): variance from the drift of the air."""

    def temperature_c(self, power_w: ArrayLike) -> Array:
        """(times,) at constant powers (sources,)."""
        found: Array = self.base_c + self.gain_k_per_w @ np.asarray(power_w, dtype=np.float64)
        return found

    def deviation_c(self, power_w: ArrayLike) -> Array:
        """(times,): one standard deviation of that, from what is not known of the parameters."""
        powers = np.asarray(power_w, dtype=np.float64)
        flat = self.gain_rows.reshape(powers.size, -1)
        rows = self.base_rows + (powers @ flat).reshape(self.base_rows.shape)
        found: Array = np.sqrt(np.maximum(0.0, ((rows @ self.covariance) * rows).sum(axis=1)) + self.extra_c2)
        return found

    def first_deviation_c(self, power_w: Array) -> float:
        """The same at the first time alone, for a fraction of the work."""
        row = self.base_rows[0] + power_w @ self.gain_rows[:, 0]
        return math.sqrt(max(0.0, float(row @ self.covariance @ row)) + float(self.extra_c2[0]))


def forecast(state: ImpedanceState, prior: ImpedancePrior, times_s: ArrayLike, fan: float) -> Forecast:
    """Return the forecast at `times_s` (>= 0) from now with the fan as it is (duty in [0, 1])."""
    times = np.atleast_1d(nonnegative("times_s", times_s))
    duty = float(share("fan", fan))
    sources, poles = state.filtered_w.shape
    decay = np.exp(-times[:, None] / prior.time_constants_s)
    slow = prior.resistance_k_per_w[:, -1]
    last, elapsed = decay[:, -1], times / prior.time_constants_s[-1]
    began = float(slow @ state.filtered_w[:, -1])
    base = np.empty((times.size, 2 + sources * poles))
    base[:, 0] = 1.0
    base[:, 1:-1] = (state.filtered_w[None] * decay[:, None, :]).reshape(times.size, -1)
    base[:, -1] = state.fan_k * last + duty * began * elapsed * last
    gain = np.zeros((sources, times.size, base.shape[1]))
    for source in range(sources):
        gain[source, :, 1 + source * poles : 1 + (source + 1) * poles] = 1.0 - decay
        gain[source, :, -1] = duty * slow[source] * (1.0 - last - elapsed * last)
    drift = prior.drift_c_per_sqrt_s**2 * times
    return Forecast(
        times, base @ state.mean, (gain @ state.mean).T, base,
        gain, state.covariance, drift,
    )  # fmt: skip
