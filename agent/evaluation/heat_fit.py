"""What a recording teaches of a board's heat: capacities, conductances, how well they replay it, and where it leads.

Every zone is identified against all others (`physics.identification`); the window over which samples are summed is the
one whose network replays the recording best. What the recording does not determine is named, and so is a constant
power that it must have left out. Owns no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from agent.errors import BadInput
from agent.evaluation.heat_recording import HeatRecording
from agent.physics import identification
from agent.physics.arguments import Array
from agent.physics.identification import NodeEstimate, RlsState, UnnamedPower
from agent.physics.thermal import ThermalNetwork, steady_state, time_constants, time_to_reach, transition, with_fan
from agent.records import record

WINDOWS_S = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
MOST_STEPS = 2000
"""Steps of a replay; more samples are averaged."""
GAP = 10.0
"""An interval this many times the usual one is a gap: nothing is summed or replayed across it."""
HORIZON_S = 86_400.0
UNNAMED_SHARE = 0.05
"""Of the mean power of all zones: less that is not recorded is not worth a word."""
UNNAMED_SIGMAS = 3.0
SEEN_SHARE = 2 / 3
"""Part of the recording that the check on the rest is identified from."""


@record(frozen=True, slots=True, eq=False)
class HeatFit:
    """Nodes and network of a recording."""

    recording: HeatRecording
    estimates: tuple[NodeEstimate, ...]
    window_s: float
    windows: int
    network: ThermalNetwork
    """At the mean fan speed of the recording."""
    fan_w_per_k: Array | None
    """What a full fan adds to each node; None where that is not determined."""
    replay_c: Array
    """(n, m): the recording replayed from its first sample, its powers and the air alone; NaN between steps."""
    rms_c: float
    """Replayed against recorded."""
    unseen_rms_c: float | None
    """The last third replayed by a network of the first two thirds; None where those determine none."""
    unnamed: tuple[UnnamedPower, ...]
    """Of each zone: the constant power that the recording leaves out and the estimates allow for; 0 where none is."""

    @property
    def supported(self) -> bool:
        """Whether the recording determines everything that was asked of it."""
        return not self.undetermined

    @property
    def undetermined(self) -> tuple[tuple[str, str], ...]:
        """(zone, parameter) that the recording does not determine; a fan that was not recorded is not asked for."""
        return tuple(
            (zone, self._named(zone, name))
            for zone, node in zip(self.recording.zones, self.estimates, strict=True)
            for name in node.undetermined
            if name != "fan" or self.recording.fan is not None
        )

    def _named(self, zone: str, parameter: str) -> str:
        if not parameter.startswith("neighbour"):
            return parameter
        others = [other for other in self.recording.zones if other != zone]
        return f"link to {others[int(parameter.split()[1])]}"

    @property
    def time_constants_s(self) -> Array:
        """Of the network, the slowest first."""
        return time_constants(self.network)

    def mean_power_w(self) -> Array:
        """(n,): over the whole recording, with what it left out."""
        return self._whole(_mean(self.recording.power_w, self.recording.time_s))

    def highest_power_w(self) -> Array:
        """(n,): mean of the window in which all zones together drew most, with what the recording left out."""
        found = [_mean(p.power_w, p.time_s) for p in _pieces(self.recording, self.window_s)]
        return self._whole(max(found, key=lambda power: float(power.sum())))

    def _whole(self, recorded_w: Array) -> Array:
        return np.maximum(0.0, recorded_w + _powers(self.unnamed))

    def settles_c(self, power_w: Array, fan: float | None = None) -> Array:
        """(n,): where the zones settle at a power, in the air of the recording's end; fan: another speed, in [0, 1]."""
        return steady_state(self._at(fan), power_w, ambient_c=float(self.recording.ambient_c[-1]))

    def reaches_s(self, zone: str, trip_c: float, power_w: Array, start_c: Array) -> float:
        """Seconds until a zone reaches a temperature at a constant power; infinite where it does not in a day."""
        return time_to_reach(
            self.network, start_c, power_w, trip_c, node=self.recording.zones.index(zone),
            ambient_c=float(self.recording.ambient_c[-1]), horizon_s=HORIZON_S,
        )  # fmt: skip

    def _at(self, fan: float | None) -> ThermalNetwork:
        if fan is None or self.fan_w_per_k is None or self.recording.fan is None:
            return self.network
        still = _network(self.estimates, 0.0)
        return with_fan(still, self.fan_w_per_k, fan) if still is not None else self.network


def fit_heat(recording: HeatRecording) -> HeatFit:
    """Identify the network of a recording. Raises BadInput where it determines none, with what to record instead."""
    best = _identified(recording)
    if best is None:
        raise BadInput(
            "the recording determines no heat capacity and no way to the air: let the load rest and run in turns of a "
            "few minutes, until temperatures settle in between, and record again"
        )
    seen = int(recording.time_s.size * SEEN_SHARE)
    first, last = recording.part(0, seen), recording.part(seen, recording.time_s.size)
    earlier = _identified(first) if first.time_s.size > 1 and last.time_s.size > 1 else None
    unseen = None if earlier is None else _rms(_replay(last, earlier.estimates, earlier.unnamed), last.temperature_c)
    estimates = best.estimates
    fans = np.array([max(0.0, node.fan_w_per_k) for node in estimates])
    told = recording.fan is not None and not any("fan" in node.undetermined for node in estimates)
    network = _network(estimates, _mean_fan(recording))
    assert network is not None  # noqa: S101  (it replayed the recording)
    return HeatFit(
        recording, estimates, best.window_s, best.windows, network, fans if told else None, best.replay_c, best.rms_c,
        unseen if unseen is not None and math.isfinite(unseen) else None, best.unnamed,
    )  # fmt: skip


@record(frozen=True, slots=True, eq=False)
class _Attempt:
    estimates: tuple[NodeEstimate, ...]
    window_s: float
    windows: int
    replay_c: Array
    rms_c: float
    unnamed: tuple[UnnamedPower, ...]


def _identified(recording: HeatRecording) -> _Attempt | None:
    """The attempt that replays best, with what the recording left out; None where no window gives a network."""
    plain = _from_named(recording)
    return None if plain is None else _with_unnamed(recording, plain)


def _with_unnamed(recording: HeatRecording, plain: _Attempt) -> _Attempt:
    """The attempt once more with a constant power in each zone where one shows; as it was where none does.

    One shows where it stands out from its own uncertainty and from the powers, and lets the replay come closer.
    """
    beside = _beside(recording, list(_pieces(recording, plain.window_s)))
    least_w = UNNAMED_SHARE * float(_mean(recording.power_w, recording.time_s).sum())
    shows = [abs(power.power_w) > max(least_w, UNNAMED_SIGMAS * power.standard_error_w) for _, power in beside]
    if not any(shows):
        return plain
    estimates = tuple(b[0] if show else e for b, e, show in zip(beside, plain.estimates, shows, strict=True))
    unnamed = tuple(b[1] if show else e for b, e, show in zip(beside, plain.unnamed, shows, strict=True))
    replay_c = _replay(recording, estimates, unnamed)
    rms_c = _rms(replay_c, recording.temperature_c)
    if not rms_c < plain.rms_c:
        return plain
    return _Attempt(estimates, plain.window_s, plain.windows, replay_c, rms_c, unnamed)


def _from_named(recording: HeatRecording) -> _Attempt | None:
    """The best attempt from the powers as they are recorded."""
    found: list[_Attempt] = []
    fewest = 3 * (len(recording.zones) + 2)
    nothing = tuple(UnnamedPower(0.0, math.inf) for _ in recording.zones)
    for window_s in WINDOWS_S:
        pieces = list(_pieces(recording, window_s))
        if len(pieces) < fewest:
            continue
        estimates = _estimates(recording, pieces)
        replay_c = _replay(recording, estimates, nothing)
        rms_c = _rms(replay_c, recording.temperature_c)
        if math.isfinite(rms_c):
            found.append(_Attempt(estimates, window_s, len(pieces), replay_c, rms_c, nothing))
    return min(found, key=lambda attempt: attempt.rms_c, default=None)


def _estimates(recording: HeatRecording, pieces: list[HeatRecording]) -> tuple[NodeEstimate, ...]:
    return tuple(identification.estimate(state) for state in _states(recording, pieces, 0))


def _beside(recording: HeatRecording, pieces: list[HeatRecording]) -> list[tuple[NodeEstimate, UnnamedPower]]:
    return [identification.estimate_beside(state) for state in _states(recording, pieces, 1)]


def _states(recording: HeatRecording, pieces: list[HeatRecording], lengths: int) -> Iterator[RlsState]:
    """What each zone's windows teach; lengths: 1 to give the length of each window as a last regressor, else 0."""
    nodes = len(recording.zones)
    for i in range(nodes):
        state = identification.start(2 + nodes + lengths)
        others = [j for j in range(nodes) if j != i]
        for piece in pieces:
            regressors, response = identification.window(
                piece.time_s, piece.temperature_c[i], piece.power_w[i], 0.0 if piece.fan is None else piece.fan,
                ambient_c=piece.ambient_c, neighbours_c=piece.temperature_c[others],
            )  # fmt: skip
            length_s = [float(piece.time_s[-1] - piece.time_s[0])] * lengths
            state = identification.update(state, np.append(regressors, length_s), response)
        yield state


def _powers(unnamed: tuple[UnnamedPower, ...]) -> Array:
    return np.array([power.power_w for power in unnamed])


def _network(estimates: tuple[NodeEstimate, ...], fan: float) -> ThermalNetwork | None:
    try:
        return identification.assemble(estimates, fan)
    except ValueError:
        return None  # a capacity that is unknown, or a node without a way to the air


def _replay(recording: HeatRecording, estimates: tuple[NodeEstimate, ...], unnamed: tuple[UnnamedPower, ...]) -> Array:
    """(n, m): temperatures stepped from the first sample of each stretch without a gap; NaN where no network is."""
    replayed = np.full(recording.temperature_c.shape, np.nan)
    steps = _Steps(estimates)
    for begin, end in _stretches(recording.time_s):
        stretch = recording.part(begin, end)
        marks = _marks(stretch.time_s.size)
        power_w = _means(stretch.power_w, stretch.time_s, marks) + _powers(unnamed)[:, np.newaxis]
        air_c = _means(stretch.ambient_c, stretch.time_s, marks)
        fans = None if stretch.fan is None else _means(stretch.fan, stretch.time_s, marks)
        now = replayed[:, begin] = stretch.temperature_c[:, 0]
        for k, duration_s in enumerate(np.diff(stretch.time_s[marks])):
            pair = steps.of(0.0 if fans is None else float(fans[k]), float(duration_s))
            if pair is None:
                return np.full(replayed.shape, np.nan)
            now = air_c[k] + pair[0] @ (now - air_c[k]) + pair[1] @ power_w[:, k]
            replayed[:, begin + marks[k + 1]] = now
    return replayed


class _Steps:
    """Exact steps of a recording's networks, each made once: T − air after = decay·(T − air) + response·P."""

    def __init__(self, estimates: tuple[NodeEstimate, ...]) -> None:
        self._estimates = estimates
        self._networks: dict[float, ThermalNetwork | None] = {}
        self._made: dict[tuple[float, float], tuple[Array, Array]] = {}

    def of(self, fan: float, duration_s: float) -> tuple[Array, Array] | None:
        """(decay, response) at a fan speed, to the hundredth; None where there is no network."""
        duty = round(min(1.0, max(0.0, fan)), 2)
        if duty not in self._networks:
            self._networks[duty] = _network(self._estimates, duty)
        network = self._networks[duty]
        if network is None:
            return None
        if (duty, duration_s) not in self._made:
            decay = transition(network, duration_s)
            settled: Array = np.asarray(np.linalg.inv(network.laplacian_w_per_k), dtype=np.float64)
            self._made[duty, duration_s] = (decay, settled - decay @ settled)
        return self._made[duty, duration_s]


def _marks(samples: int) -> list[int]:
    """Samples that a replay stops at: all of a short stretch, every k-th and the last of a long one."""
    marks = list(range(0, samples, math.ceil(samples / MOST_STEPS)))
    return marks if marks[-1] == samples - 1 else [*marks, samples - 1]


def _means(values: Array, times: Array, marks: list[int]) -> Array:
    """Means over time between marks, along the last axis, by the trapezoidal rule."""
    areas = 0.5 * (values[..., 1:] + values[..., :-1]) * np.diff(times)
    total = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(areas, axis=-1)], axis=-1)
    return np.asarray(np.diff(total[..., marks], axis=-1) / np.diff(times[marks]))


def _rms(replayed_c: Array, recorded_c: Array) -> float:
    seen = np.isfinite(replayed_c)
    if not seen.any():
        return math.inf
    return float(np.sqrt(np.mean(np.square(replayed_c[seen] - recorded_c[seen]))))


def _pieces(recording: HeatRecording, window_s: float) -> Iterator[HeatRecording]:
    """Windows of at least that length and of two samples or more, end to end, none across a gap."""
    times = recording.time_s
    for begin, end in _stretches(times):
        first = begin
        for i in range(begin + 1, end):
            if times[i] - times[first] >= window_s * (1 - 1e-9):
                yield recording.part(first, i + 1)
                first = i


def _stretches(times: Array) -> list[tuple[int, int]]:
    """[begin, end) of the parts between gaps."""
    steps = np.diff(times)
    cuts = np.flatnonzero(steps > GAP * np.median(steps)) + 1
    edges = [0, *cuts.tolist(), times.size]
    return list(pairwise(edges))


def _mean(values: Array, times: Array) -> Array:
    """Mean over all the time."""
    return np.asarray(_means(values, times, [0, times.size - 1])[..., 0])


def _mean_fan(recording: HeatRecording) -> float:
    return 0.0 if recording.fan is None else float(np.clip(_mean(recording.fan, recording.time_s), 0.0, 1.0))
