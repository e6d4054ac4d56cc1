"""Thermal model: what the governor has learnt of every zone, and whether a reading can be believed.

Follows each zone's impedance to the accelerators' powers. A reading that jumps where no power could have moved it, or
stands still while the powers must have moved it, is implausible. Owns no limit and no action.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field, replace

import numpy as np

from agent.physics import impedance
from agent.physics.impedance import Forecast, ImpedancePrior, ImpedanceState
from agent.records import record

JUMP_C = 25.0
"""No board changes by this much between two samples beyond what its model says."""
JUMP_DEVIATIONS = 3.0
"""Nor by more than this many standard deviations, where the model knows that it knows little."""
BACK_C = 10.0
"""A sensor that jumped is believed again within this of the model."""
OVERRULED_S, OVERRULED_CHANGES = 60.0, 5
"""And where it has gone on for so long, moving as often as this: it is the model that is wrong, and learns anew."""
PROBED_S = 600.0
"""One that does not move, after this: work heats it or shows it to be stuck within seconds; never is no answer."""
FROZEN_C = 8.0
"""A reading that has not moved at all while its model moved by this much is stuck."""
BIAS_SHARE = 0.1
"""Of each new difference between reading and network in its running mean."""
SAME_READINGS = 5
"""A reading that comes again more often teaches nothing: a sensor that is stuck would teach that nothing warms."""
ERRING_C = 1.5
"""Innovations beyond this, as a root mean square, are no noise: the network is not what hours have taught."""
LEARNING_SAMPLES = 30
"""A model that has seen fewer is not trusted."""


@record(frozen=True)
class Sample:
    """One zone as read now. `temperature_c` None: nothing fresh."""

    temperature_c: float | None
    t_s: float


@record(frozen=True)
class ZoneMemory:
    """What is known of one zone."""

    network: ImpedanceState
    seen_s: float
    """Time of the last reading that was taken in."""
    value_c: float
    then: ImpedanceState
    """The network when the reading last changed: a stuck sensor cannot teach it to expect no change."""
    doubt: str = ""
    """Why the last reading is not believed; empty: it is."""
    bias_c: float = 0.0
    """What readings have lately been above the network: it follows some changes late, and forecasts start from here."""
    stuck: bool = False
    """It stood still while the power must have moved it; so it is until it moves, whatever the model does meanwhile."""
    same: int = 0
    """How often the last reading has come again."""
    doubted_s: float = 0.0
    """When the present doubt began."""
    changes: int = 0
    """How often the reading has changed since."""


@record(frozen=True)
class ModelState:
    """All zones that have been read at least once."""

    zones: Mapping[str, ZoneMemory] = field(default_factory=dict)


def observe(
    state: ModelState,
    samples: Mapping[str, Sample],
    priors: Mapping[str, ImpedancePrior],
    power_w: Sequence[float],
    fan: float,
    now_s: float,
) -> ModelState:
    """Take in one round of readings. Zones without a prior are not modelled.

    power_w: mean of each source since the last round, in the order of the priors' sources; fan: duty in [0, 1], 0 where
    it is not known; now_s: monotonic.
    """
    zones = dict(state.zones)
    for name, prior in priors.items():
        sample = samples.get(name, Sample(None, now_s))
        known = zones.get(name)
        if known is None:
            if sample.temperature_c is not None:
                began = impedance.start(prior, sample.temperature_c, now_s)
                zones[name] = ZoneMemory(began, sample.t_s, sample.temperature_c, began)
            continue
        zones[name] = _follow(known, sample, prior, power_w, fan, now_s)
    return ModelState(zones)


def _follow(
    known: ZoneMemory, sample: Sample, prior: ImpedancePrior, power_w: Sequence[float], fan: float, now_s: float
) -> ZoneMemory:
    fresh = sample.temperature_c is not None and sample.t_s > known.seen_s
    moved = impedance.observe(known.network, prior, None, np.asarray(power_w), fan, now_s)
    if not fresh or sample.temperature_c is None:
        return replace(known, network=moved)
    frozen = sample.temperature_c == known.value_c
    due_k = 0.0
    if frozen:
        due_k = impedance.estimate(replace(moved, mean=known.then.mean)) - impedance.estimate(known.then)
    stuck = frozen and (known.stuck or abs(due_k) > FROZEN_C)
    doubt = _doubt(known, sample.temperature_c, moved, due_k, stuck)
    if doubt and known.doubt and not stuck and _overruled(known, sample.t_s):
        began = impedance.start_anew(moved, prior, sample.temperature_c)
        return ZoneMemory(began, sample.t_s, sample.temperature_c, began)
    same = known.same + 1 if frozen else 0
    bias_c = known.bias_c
    if not doubt and same < SAME_READINGS:
        moved = _corrected(moved, prior, sample.temperature_c)
        bias_c += BIAS_SHARE * (sample.temperature_c - impedance.estimate(moved) - bias_c)
    went_on = bool(doubt and known.doubt)
    return ZoneMemory(
        moved, sample.t_s, sample.temperature_c, known.then if frozen else moved, doubt, bias_c, stuck, same,
        known.doubted_s if went_on else sample.t_s, known.changes + (not frozen) if went_on else 0,
    )  # fmt: skip


def _corrected(moved: ImpedanceState, prior: ImpedancePrior, temperature_c: float) -> ImpedanceState:
    """With the reading taken in; a network that begins to err gives up its certainty, and what comes now teaches it."""
    found = impedance.correct(moved, prior, temperature_c)
    began_to_err = moved.innovation_c2 <= ERRING_C**2 < found.innovation_c2
    if began_to_err and found.samples >= LEARNING_SAMPLES:
        return impedance.unsure(found, prior)
    return found


def _doubt(known: ZoneMemory, value_c: float, moved: ImpedanceState, due_k: float, stuck: bool) -> str:
    expected_c = impedance.estimate(moved)
    # A load that never changed leaves open what the board is like without it: that is no sensor's fault.
    reach_c = BACK_C if known.doubt else max(JUMP_C, JUMP_DEVIATIONS * impedance.estimate_deviation_c(moved))
    if abs(value_c - expected_c) > reach_c and known.network.samples >= LEARNING_SAMPLES:
        return f"reads {value_c:.1f} °C where the model has {expected_c:.1f} °C"
    if stuck:
        return f"stuck at {value_c:.1f} °C while the power moved it by {due_k:+.1f} °C"
    return ""


def _overruled(known: ZoneMemory, t_s: float) -> bool:
    """Whether a reading that is not believed has gone on for so long that the model has to be doubted instead."""
    doubted_s = t_s - known.doubted_s
    return doubted_s >= PROBED_S or (doubted_s >= OVERRULED_S and known.changes >= OVERRULED_CHANGES)


def trusted(memory: ZoneMemory | None, max_error_c: float) -> bool:
    """Whether the zone's model has learnt enough to forecast with."""
    if memory is None or memory.network.samples < LEARNING_SAMPLES:
        return False
    return memory.network.innovation_c2 <= max_error_c**2


def judged_c(memory: ZoneMemory, reading_c: float) -> float:
    """Temperature that limits are held against: the model's, unless the reading is beyond its noise above it."""
    noise_c = math.sqrt(memory.network.innovation_c2)
    return max(impedance.estimate(memory.network) + memory.bias_c, reading_c - 3.0 * noise_c)


def forecasts(
    state: ModelState, priors: Mapping[str, ImpedancePrior], times_s: Sequence[float], fan: float
) -> dict[str, Forecast]:
    """Forecast of every zone that has been read, at times from now."""
    found = {}
    for name, memory in state.zones.items():
        if name in priors:
            ahead = impedance.forecast(memory.network, priors[name], np.asarray(times_s), fan)
            found[name] = replace(ahead, base_c=ahead.base_c + memory.bias_c)
    return found
