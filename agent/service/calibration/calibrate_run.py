"""Calibration run: starts each accelerator's lane in turn, times the micro models on it and fits the coefficients."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from agent.backends.lane import ProcessLane
from agent.ports import Clock, LaneSpec, Sensor
from agent.records import record
from agent.schema.device import Accelerator, Runtime
from agent.service.board import Board
from agent.service.calibration.calibrate_kernels import fit_kernel_times
from agent.service.calibration.calibration import (
    Calibration,
    Coefficient,
    MeasuredKernels,
    Progress,
    fit,
    from_power,
)
from agent.service.calibration.micro_rounds import ROUNDS, MicroRounds
from agent.service.calibration.power_probe import IDLE_S, QUICK_IDLE_S, PowerLoad, PowerProbe, coefficients, rail_of
from agent.service.calibration.steadiness import SLOWER
from agent.workload.micro import MicroModel, write_in_child


def _served(accelerator: Accelerator) -> tuple[Runtime, ...]:
    return tuple(r for r in accelerator.runtimes if r.format is not None)


@record
class _Found:
    """What a run has come to so far."""

    source: str
    coefficients: list[Coefficient] = field(default_factory=list)
    kernel_times: list[MeasuredKernels] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class _Steps:
    """Progress over all runtimes; rounds that repeat disturbed micro models do not move it."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def tell(self, where: str, micro: str, turn: int) -> None:
        again = "" if turn < ROUNDS else " · again, it was disturbed"
        self._progress(f"{where} · {micro}{again}", min(self._done, self._total), self._total)
        self._done += turn < ROUNDS

    def end(self) -> None:
        self._progress("done", self._total, self._total)


def calibrate(
    board: Board, clock: Clock, quick: bool, progress: Progress, sensors: Sequence[Sensor] = ()
) -> Calibration:
    """Measure every real accelerator of the board; a simulated one has nothing to measure.

    Power coefficients come from `sensors` where a rail covers the accelerator; without one the profile's stay.
    """
    accelerators = [a for a in board.profile.accelerators if a.name not in board.simulated and _served(a)]
    formats = sorted({r.format for a in accelerators for r in _served(a) if r.format is not None})
    stamp = datetime.fromtimestamp(clock.wall_s(), timezone.utc)
    found = _Found(f"qeil calibrate on this board, {stamp:%Y-%m-%d %H:%M} UTC")
    with tempfile.TemporaryDirectory(prefix="qeil-calibrate-") as folder:
        micros, notes = write_in_child(Path(folder), tuple(formats))
        found.refused += notes
        jobs = sum(m.format == r.format for a in accelerators for r in _served(a) for m in micros)
        steps = _Steps(progress, ROUNDS * jobs)
        for accelerator in accelerators:
            probe = _probe(board, accelerator, sensors, clock, quick)
            _measure(board, accelerator, clock, quick, micros, Path(folder), probe, steps, found)
        steps.end()
    return Calibration(
        profile=board.profile.name, measured_at=f"{stamp:%Y-%m-%dT%H:%M:%SZ}", coefficients=tuple(found.coefficients),
        kernel_times=tuple(found.kernel_times), refused=tuple(found.refused),
    )  # fmt: skip


def _measure(
    board: Board, accelerator: Accelerator, clock: Clock, quick: bool, micros: Sequence[MicroModel], folder: Path,
    probe: PowerProbe | None, steps: _Steps, found: _Found,
) -> None:  # fmt: skip
    """All runtimes of one accelerator, in a lane of its own."""
    lane = ProcessLane(LaneSpec(accelerator.name, board.threads(accelerator)), clock)
    lane.start(lambda _cause: None)
    loads: list[PowerLoad] = []
    try:
        for runtime in _served(accelerator):
            threads = runtime.threads or board.threads(accelerator)
            mine = [m for m in micros if m.format == runtime.format]
            where = f"{accelerator.name} · {runtime.provider}"
            measure = MicroRounds(lane, clock, runtime, threads, folder, quick, found.refused.append, probe, loads)
            timings = measure.run(mine, partial(steps.tell, where))
            if measure.disturbed:
                found.refused.append(
                    f"{accelerator.name} {runtime.provider}: beside {measure.disturbed} of {len(mine)} micro models a "
                    f"reference product took over {SLOWER - 1:.0%} longer than at its fastest, in every round: their "
                    f"times are used, but close what else computes on this machine and calibrate again"
                )
            new, noisy = fit(accelerator.name, runtime, timings, found.source)
            found.coefficients += new
            found.refused += noisy
            kernels, why_not = fit_kernel_times(accelerator.name, runtime, threads, timings, found.source)
            reference = {"reference_s": measure.reference_s or None}
            found.kernel_times += [kernels.model_copy(update=reference)] if kernels else []
            found.refused += [why_not] if why_not else []
        if probe is not None:
            power = coefficients(accelerator, probe.rail, loads)
            where = f"{found.source}, {probe.rail.name} ({probe.rail.scope}), idle {probe.idle_w or 0:.2f} W taken off"
            found.coefficients += from_power(accelerator.name, _served(accelerator)[0], power, where)
            found.refused += power.refused
    finally:
        lane.stop(2.0)


def _probe(
    board: Board, accelerator: Accelerator, sensors: Sequence[Sensor], clock: Clock, quick: bool
) -> PowerProbe | None:
    rail = rail_of(board.profile, accelerator.name)
    if rail is None or not any(s.name == rail.name for s in sensors):
        return None
    return PowerProbe(rail, sensors, clock, QUICK_IDLE_S if quick else IDLE_S)
