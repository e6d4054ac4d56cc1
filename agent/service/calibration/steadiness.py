"""Whether the machine was as fast as it can be while something was timed, by a reference product before and after it.

Other processes, other guests of the host and heat slow a machine for seconds or minutes. A time taken then says nothing
about the work, so it is taken again, and where that is possible only the undisturbed ones count.
"""

from __future__ import annotations

import math
import statistics
from bisect import insort
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from agent.errors import ModelLoadFailed
from agent.ports import Clock, Lane, LoadSpec
from agent.records import record
from agent.schema.device import Runtime
from agent.workload.micro import MicroModel

SLOWER = 1.15
"""A round whose reference took longer than this times the fastest one seen is disturbed."""
RUNS = 9
LOAD_TIMEOUT_S, CALL_TIMEOUT_S = 120.0, 30.0
_FLOPS = 5e8
"""A product of about so many operations: much shorter ones are slowed by whoever waits for their answer."""


@record(frozen=True)
class Round:
    """Run times of one model in one round, and the slower of the references before and after [s]; 0 without one."""

    times_s: tuple[float, ...]
    reference_s: float


class Rounds:
    """Rounds of models on one runtime. fastest_s: reference of an earlier measurement, None where there is none."""

    def __init__(self, fastest_s: float | None = None) -> None:
        self._found: dict[str, list[Round]] = {}
        self._earlier_s = fastest_s
        self._references_s: list[float] = []

    def add(self, model: str, times_s: Sequence[float], before_s: float, after_s: float) -> None:
        """Keep a round; the reference ran in `before_s` and `after_s`."""
        self._found.setdefault(model, []).append(Round(tuple(times_s), max(before_s, after_s)))
        insort(self._references_s, min(before_s, after_s))

    @property
    def fastest_s(self) -> float:
        """The reference at its fastest; 0 where nothing was measured.

        The fastest tenth is left out: the very best of hundreds of runs is luck, not the speed of the machine.
        """
        found = self._references_s[len(self._references_s) // 10] if self._references_s else 0.0
        return found if self._earlier_s is None else min(found or self._earlier_s, self._earlier_s)

    def steady(self, model: str) -> list[Round]:
        """Rounds of a model beside which the machine was as fast as ever."""
        return [r for r in self._found.get(model, ()) if r.reference_s <= SLOWER * self.fastest_s]

    def counted(self, model: str) -> list[Round]:
        """What counts of a model: its steady rounds, all where none is."""
        return self.steady(model) or self._found.get(model, [])

    def wanting(self, models: Iterable[str], least: int) -> list[str]:
        """Models that were measured but have fewer than `least` steady rounds."""
        return [m for m in models if m in self._found and len(self.steady(m)) < least]

    def slowness(self, model: str) -> float:
        """The best round's reference over the fastest one, minus 1."""
        best = min((r.reference_s for r in self._found.get(model, ())), default=0.0)
        return best / self.fastest_s - 1.0 if self.fastest_s > 0 else 0.0


class Reference:
    """A product in a lane that is timed now and then. Raises QeilError and TimeoutError where the lane does."""

    def __init__(
        self, lane: Lane, clock: Clock, runtime: Runtime, threads: int, micros: Sequence[MicroModel], folder: Path
    ) -> None:
        self._lane, self._clock = lane, clock
        products = [m for m in micros if (m.family, m.precision) == ("gemm", "fp32")]
        if not products:
            raise ModelLoadFailed("none of its calibration models is an fp32 product (gemm)")
        micro = min(products, key=lambda m: abs(math.log(m.flops / _FLOPS)))
        self._model = f"reference-{micro.name}"
        load = LoadSpec(self._model, folder / micro.file, micro.format, runtime, threads)
        report = lane.load(load, LOAD_TIMEOUT_S).result(LOAD_TIMEOUT_S + 5)
        self._inputs = {report.inputs[0].name: np.full(micro.inputs[0][1], 0.5, np.float32)}

    def seconds(self) -> float:
        """The median of the fastest third of a few runs [s]."""
        times = []
        for _ in range(RUNS):
            deadline_s = self._clock.monotonic_s() + CALL_TIMEOUT_S
            self._lane.renew_permit(deadline_s)
            reply = self._lane.submit(self._model, self._inputs, None, deadline_s).result(CALL_TIMEOUT_S)
            times.append(reply.execute_s)
        return statistics.median(sorted(times)[: RUNS // 3])

    def unload(self) -> None:
        """Take the product out of the lane; one that died has none."""
        if self._lane.alive():
            self._lane.unload(self._model).result(CALL_TIMEOUT_S)
