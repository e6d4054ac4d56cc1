"""Power probe: joules above idle of short loads on one accelerator, and the coefficients that they give.

One rail that covers the accelerator is read, best one that also sees the memory chips but not the rest of the board;
what it shows with nothing running is measured first and taken off. Without a rail there is no probe, and the profile's
own figures stay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from agent.physics import leakage
from agent.physics.power_fit import FittedPower, fit_power
from agent.ports import Clock, Sensor
from agent.records import record
from agent.schema.device import Accelerator, DeviceProfile, Rail
from agent.schema.workload import Precision
from agent.sensors.energy import EnergyMeter, EnergyWindow
from agent.sensors.registry import ENERGY_SUFFIX

PERIOD_S = 0.05
MAX_GAP_S = 1.0
IDLE_S = 3.0
QUICK_IDLE_S = 0.5
LOAD_S = 1.5
MIN_COVERED = 0.8
"""Share of a load's time that readings must cover, else its joules are not used."""
MAX_REL_UNCERTAINTY = 0.5
ASSUMED_JUNCTION_C = 45.0
"""Temperature at which leakage is taken off the watts of being on; calibration is short, so the board is lukewarm."""

_SCOPES = ("module", "package", "rail", "board", "wall")
_WITH_MEMORY = frozenset({"module", "board", "wall"})
"""Scopes that surely include the memory chips; a package counter or a core rail may not see them."""


@record(frozen=True)
class PowerLoad:
    """One load: what it did and what it took above idle."""

    flops: tuple[tuple[Precision, float], ...]
    bytes_moved: float
    seconds: float
    joules: float


@record(frozen=True)
class MeasuredPower:
    """Coefficients of one accelerator; what the sensor could not tell is absent and named in `refused`."""

    j_per_flop: tuple[tuple[Precision, FittedPower], ...] = ()
    j_per_byte: FittedPower | None = None
    base_power_w: FittedPower | None = None
    refused: tuple[str, ...] = ()


def rail_of(profile: DeviceProfile, accelerator: str) -> Rail | None:
    """The rail to calibrate with: by scope, then by how few share it, then as the profile orders them."""
    covering = [rail for rail in profile.rails if accelerator in rail.covers]
    return min(covering, key=lambda rail: (_SCOPES.index(rail.scope), len(rail.covers)), default=None)


class PowerProbe:
    """Measures loads on one rail; `idle_w` is None until a reading has come."""

    def __init__(self, rail: Rail, sensors: Sequence[Sensor], clock: Clock, idle_s: float = IDLE_S) -> None:
        by_name = {sensor.name: sensor for sensor in sensors}
        counter = by_name.get(rail.name + ENERGY_SUFFIX)
        if counter is None or counter.read(clock.monotonic_s()).value is None:
            counter = by_name[rail.name]
        self.rail, self._sensor, self._clock = rail, counter, clock
        rest = threading.Event()
        self.idle_w = self._watch(lambda: rest.wait(idle_s)).mean_power_w

    @property
    def described(self) -> str:
        """Which sensor, what it covers and what was taken off."""
        idle = "idle unknown" if self.idle_w is None else f"idle {self.idle_w:.2f} W taken off"
        return f"{self.rail.name} ({self.rail.scope}), {idle}"

    def measure(self, work: Callable[[], object]) -> tuple[float, float] | None:
        """(seconds, joules above idle) of some work; None where the readings do not cover it."""
        if self.idle_w is None:
            return None
        window = self._watch(work)
        length_s = window.end_s - window.begin_s
        if window.energy_j is None or length_s <= 0 or window.covered_s < MIN_COVERED * length_s:
            return None
        return window.covered_s, window.energy_j - self.idle_w * window.covered_s

    def _watch(self, work: Callable[[], object]) -> EnergyWindow:
        meter = EnergyMeter(self._sensor.name, MAX_GAP_S)
        done = threading.Event()

        def sample() -> None:
            while not done.is_set():
                meter.add(self._sensor.read(self._clock.monotonic_s()), 1.0)
                done.wait(PERIOD_S)
            meter.add(self._sensor.read(self._clock.monotonic_s()), 1.0)

        sampler = threading.Thread(target=sample, name="power-probe", daemon=True)
        sampler.start()
        try:
            work()
        finally:
            done.set()
            sampler.join()
        return meter.close(self._clock.monotonic_s())


def coefficients(accelerator: Accelerator, rail: Rail, loads: Sequence[PowerLoad]) -> MeasuredPower:
    """Energy per operation and byte and the watts of being on, from loads above idle.

    Only what the rail sees is fitted into the profile: a rail without the memory chips says nothing of their joules.
    """
    precisions = sorted({p for load in loads for p, flops in load.flops if flops > 0})
    names = (*precisions, "bytes", "seconds")
    table = [
        [*(sum(f for p, f in load.flops if p == precision) for precision in precisions), load.bytes_moved, load.seconds]
        for load in loads
    ]
    fit = fit_power(names, np.array(table).reshape(len(loads), len(names)), [load.joules for load in loads])
    where = f"{accelerator.name}, power from {rail.name} ({rail.scope})"
    if fit.doubt is not None:
        return MeasuredPower(refused=(f"{where}: {fit.doubt}, refused",))
    good = {c.name: c for c in fit.coefficients if c.rel_uncertainty <= MAX_REL_UNCERTAINTY}
    refused = [
        f"{where}: {c.name} is known to ±{c.rel_uncertainty:.0%} only, refused" if np.isfinite(c.rel_uncertainty)
        else f"{where}: {c.name} cannot be told from the others, refused"
        for c in fit.coefficients if c.name not in good
    ]  # fmt: skip
    memory = good.get("bytes")
    if memory is not None and rail.scope not in _WITH_MEMORY:
        refused.append(f"{where}: energy per byte kept from the profile, the sensor may not see the memory chips")
        memory = None
    operations = tuple((p, good[p]) for p in precisions if p in good)
    return MeasuredPower(operations, memory, _without_leakage(accelerator, good.get("seconds")), tuple(refused))


def _without_leakage(accelerator: Accelerator, on: FittedPower | None) -> FittedPower | None:
    leak = accelerator.leakage
    if on is None or leak is None:
        return on
    leak_w = float(
        leakage.leakage_power(ASSUMED_JUNCTION_C, leak.power_w.value, leak.activation_energy_ev.value, leak.reference_c)
    )
    return FittedPower(on.name, max(0.0, on.value - leak_w), on.rel_uncertainty)
