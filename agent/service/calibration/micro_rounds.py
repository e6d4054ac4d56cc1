"""Micro models of one runtime timed in rounds, those the machine disturbed once more, power beside the first round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path

import numpy as np

from agent.errors import QeilError
from agent.ports import Clock, Lane, LoadSpec, Tensors
from agent.records import record
from agent.schema.device import Runtime
from agent.service.calibration.calibration import MAX_SCATTER, Timing
from agent.service.calibration.power_probe import PowerLoad, PowerProbe
from agent.service.calibration.steadiness import CALL_TIMEOUT_S, LOAD_TIMEOUT_S, Reference, Round, Rounds
from agent.workload.micro import MicroModel

QUICK_SECONDS_PER_MODEL = 0.02
FULL_SECONDS_PER_MODEL = 0.06
MIN_RUNS, MAX_RUNS = 8, 200
POWER_MAX_RUNS = 1_000_000
"""A power window lasts its whole time: the sensor needs it, however short one run is."""
ROUNDS = 2
"""Times that every micro model is measured, the whole set between two of them; the fastest third of the runs counts.

The speed of a machine changes within a minute – other processes, other guests of the host, heat – and never for the
better, so the fastest runs of all rounds are those that met the least of it.
"""
MORE_ROUNDS = 4
"""Further rounds at most, of micro models that scatter or that the machine disturbed in every round."""
MORE_S = 90.0
"""No further round of a runtime begins later than this after its rounds began to be repeated."""
KEPT, FEWEST_KEPT = 3, 4
"""One run of so many is kept, the fastest ones, but so many at least."""

Tell = Callable[[str, int], None]
"""Told what is measured next and in which round, from 0."""


@record
class MicroRounds:
    """What is needed to time the micro models of one runtime in a lane."""

    lane: Lane
    clock: Clock
    runtime: Runtime
    threads: int
    folder: Path
    quick: bool
    refuse: Callable[[str], None]
    probe: PowerProbe | None
    loads: list[PowerLoad] = field(default_factory=list)
    reference_s: float = 0.0
    """The reference product at its fastest, after `run`."""
    disturbed: int = 0
    """Micro models beside which the machine was slow in every round, after `run`."""

    def run(self, micros: Sequence[MicroModel], tell: Tell) -> list[Timing]:
        """Time all; those that cannot run are refused and left out."""
        try:
            reference = Reference(self.lane, self.clock, self.runtime, self.threads, micros, self.folder)
            before_s = reference.seconds()
        except (QeilError, TimeoutError) as error:
            self.refuse(f"{self.lane.spec.accelerator} {self.runtime.provider}: nothing measured: {error}")
            return []
        rounds = Rounds()
        named = {micro.name: micro for micro in micros}
        names, until_s = list(named), 0.0
        for turn in range(ROUNDS + (0 if self.quick else MORE_ROUNDS)):
            if turn == ROUNDS:
                until_s = self.clock.monotonic_s() + MORE_S
            if turn >= ROUNDS:
                names = [name for name in names if self._again(named[name], rounds)]
            for name in list(names):
                if turn >= ROUNDS and self.clock.monotonic_s() > until_s:
                    break
                tell(name, turn)
                times = self._time(named[name], self.probe if turn == 0 else None)
                if times is None:
                    names.remove(name)
                    continue
                after_s = self._seconds(reference) or before_s
                rounds.add(name, times, before_s, after_s)
                before_s = after_s
        self.reference_s = rounds.fastest_s
        reference.unload()
        self.disturbed = len(rounds.wanting(named, 1))
        return [undisturbed(micro, rounds.counted(name)) for name, micro in named.items() if rounds.counted(name)]

    def _again(self, micro: MicroModel, rounds: Rounds) -> bool:
        """Whether the machine disturbed every round of it, or its runs scatter too much to be used."""
        return not rounds.steady(micro.name) or undisturbed(micro, rounds.counted(micro.name)).scatter > MAX_SCATTER

    def _seconds(self, reference: Reference) -> float | None:
        try:
            return reference.seconds()
        except (QeilError, TimeoutError):
            return None  # the lane has died: whatever comes next is refused with the reason

    def _time(self, micro: MicroModel, probe: PowerProbe | None) -> tuple[float, ...] | None:
        load = LoadSpec(micro.name, self.folder / micro.file, micro.format, self.runtime, self.threads)
        inputs = {name: np.full(shape, 0.5, np.float32) for name, shape in micro.inputs}
        where = f"{self.lane.spec.accelerator} {self.runtime.provider}: {micro.name}"
        try:
            report = self.lane.load(load, LOAD_TIMEOUT_S).result(LOAD_TIMEOUT_S + 5)
            if self.runtime.provider not in report.actual:
                self.refuse(f"{where} ran on {', '.join(report.actual)} instead, refused")
                return None
            self.lane.renew_permit(self.clock.monotonic_s() + 600.0)
            if len(inputs) == 1:
                # LiteRT names an input after its signature, not after its tensor.
                inputs = {report.inputs[0].name: next(iter(inputs.values()))}
            budget_s = QUICK_SECONDS_PER_MODEL if self.quick else FULL_SECONDS_PER_MODEL
            times = self._runs(micro.name, inputs, budget_s)
            if probe is not None:
                self.loads += self._power(probe, micro, inputs, budget_s)
            self.lane.unload(micro.name).result(CALL_TIMEOUT_S)
        except (QeilError, TimeoutError) as error:
            self.refuse(f"{where}: {error}")
            return None
        return times

    def _power(self, probe: PowerProbe, micro: MicroModel, inputs: Tensors, budget_s: float) -> list[PowerLoad]:
        """The load of running a micro model for a while, above idle; nothing where the sensor does not answer."""
        times: list[float] = []
        measured = probe.measure(
            lambda: times.extend(self._runs(micro.name, inputs, budget_s, warm=0, most=POWER_MAX_RUNS))
        )
        if measured is None:
            return []
        seconds, joules = measured
        count = len(times)
        flops = ((micro.precision, micro.flops * count),)
        return [PowerLoad(flops, micro.bytes_moved * count, seconds, joules)]

    def _runs(
        self, model: str, inputs: Tensors, budget_s: float, warm: int = 2, most: int = MAX_RUNS
    ) -> tuple[float, ...]:
        """Execution times of calls in a row, without the first `warm` ones."""
        end_s = self.clock.monotonic_s() + budget_s
        times: list[float] = []
        while len(times) < MIN_RUNS or (self.clock.monotonic_s() < end_s and len(times) < most):
            deadline_s = self.clock.monotonic_s() + CALL_TIMEOUT_S
            times.append(self.lane.submit(model, inputs, None, deadline_s).result(CALL_TIMEOUT_S).execute_s)
        return tuple(times[warm:])


def undisturbed(micro: MicroModel, rounds: Sequence[Round]) -> Timing:
    """The fastest third of all runs of one micro model, whichever round they are from.

    A run that shared its core with something else, or whose virtual core was taken away, is only ever slower; where
    much else runs the median of a round is a disturbed run.
    """
    pooled = sorted(seconds for round_ in rounds for seconds in round_.times_s)
    return Timing(micro, tuple(pooled[: max(FEWEST_KEPT, len(pooled) // KEPT)]))
