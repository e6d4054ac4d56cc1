"""Calibration run: starts each accelerator's lane in turn, times the micro models on it and fits the coefficients."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from agent.backends.lane import ProcessLane
from agent.errors import QeilError
from agent.ports import Clock, Lane, LaneSpec, LoadSpec, Sensor, Tensors
from agent.schema.device import Accelerator, Runtime
from agent.service.board import Board
from agent.service.calibration.calibrate_kernels import fit_kernel_times
from agent.service.calibration.calibration import (
    Calibration,
    Coefficient,
    MeasuredKernels,
    Progress,
    Timing,
    fit,
    from_power,
)
from agent.service.calibration.power_probe import IDLE_S, QUICK_IDLE_S, PowerLoad, PowerProbe, coefficients, rail_of
from agent.workload.micro import MicroModel, write_in_child

LOAD_TIMEOUT_S = 120.0
CALL_TIMEOUT_S = 30.0
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
KEPT, FEWEST_KEPT = 3, 4
"""One run of so many is kept, the fastest ones, but so many at least."""

_FORMATS = {"onnx": "onnx", "litert": "tflite"}


def _served(accelerator: Accelerator) -> tuple[Runtime, ...]:
    return tuple(r for r in accelerator.runtimes if r.backend in _FORMATS)


def calibrate(
    board: Board, clock: Clock, quick: bool, progress: Progress, sensors: Sequence[Sensor] = ()
) -> Calibration:
    """Measure every real accelerator of the board; a simulated one has nothing to measure.

    Power coefficients come from `sensors` where a rail covers the accelerator; without one the profile's stay.
    """
    accelerators = [a for a in board.profile.accelerators if a.name not in board.simulated and _served(a)]
    formats = sorted({_FORMATS[r.backend] for a in accelerators for r in _served(a)})
    stamp = datetime.fromtimestamp(clock.wall_s(), timezone.utc)
    source = f"qeil calibrate on this board, {stamp:%Y-%m-%d %H:%M} UTC"
    found: list[Coefficient] = []
    kernel_times: list[MeasuredKernels] = []
    refused: list[str] = []
    with tempfile.TemporaryDirectory(prefix="qeil-calibrate-") as folder:
        micros, notes = write_in_child(Path(folder), tuple(formats))
        refused += notes
        jobs = [(a, r, m) for a in accelerators for r in _served(a) for m in micros if m.format == _FORMATS[r.backend]]
        done = 0
        for accelerator in accelerators:
            lane = ProcessLane(LaneSpec(accelerator.name, board.threads(accelerator)), clock)
            lane.start(lambda _cause: None)
            probe = _probe(board, accelerator, sensors, clock, quick)
            loads: list[PowerLoad] = []
            try:
                for runtime in _served(accelerator):
                    mine = [m for a, r, m in jobs if a is accelerator and r is runtime]
                    threads = runtime.threads or board.threads(accelerator)
                    rounds: dict[str, list[Timing]] = {}
                    unusable: set[str] = set()
                    for turn in range(ROUNDS):
                        for micro in mine:
                            progress(
                                f"{accelerator.name} · {runtime.provider} · {micro.name}", done, ROUNDS * len(jobs)
                            )
                            done += 1
                            if micro.name in unusable:
                                continue
                            timing = _time(
                                lane, clock, runtime, threads, micro, Path(folder), quick, refused.append,
                                probe if turn == 0 else None, loads,
                            )  # fmt: skip
                            if timing is None:
                                unusable.add(micro.name)
                            else:
                                rounds.setdefault(micro.name, []).append(timing)
                    timings = [undisturbed(found_here) for found_here in rounds.values()]
                    new, noisy = fit(accelerator.name, runtime, timings, source)
                    found += new
                    refused += noisy
                    kernels, why_not = fit_kernel_times(accelerator.name, runtime, threads, timings, source)
                    kernel_times += [kernels] if kernels else []
                    refused += [why_not] if why_not else []
                if probe is not None:
                    power = coefficients(accelerator, probe.rail, loads)
                    where = (
                        f"{source}, {probe.rail.name} ({probe.rail.scope}), idle {probe.idle_w or 0:.2f} W taken off"
                    )
                    found += from_power(accelerator.name, _served(accelerator)[0], power, where)
                    refused += power.refused
            finally:
                lane.stop(2.0)
        progress("done", ROUNDS * len(jobs), ROUNDS * len(jobs))
    return Calibration(
        profile=board.profile.name, measured_at=f"{stamp:%Y-%m-%dT%H:%M:%SZ}", coefficients=tuple(found),
        kernel_times=tuple(kernel_times), refused=tuple(refused),
    )  # fmt: skip


def undisturbed(rounds: Sequence[Timing]) -> Timing:
    """The fastest third of all runs of one micro model, whichever round they are from.

    A run that shared its core with something else, or whose virtual core was taken away, is only ever slower; where
    much else runs the median of a round is a disturbed run.
    """
    pooled = sorted(seconds for timing in rounds for seconds in timing.times_s)
    return Timing(rounds[0].micro, tuple(pooled[: max(FEWEST_KEPT, len(pooled) // KEPT)]))


def _time(
    lane: Lane,
    clock: Clock,
    runtime: Runtime,
    threads: int,
    micro: MicroModel,
    folder: Path,
    quick: bool,
    refuse: Callable[[str], None],
    probe: PowerProbe | None,
    loads: list[PowerLoad],
) -> Timing | None:
    load = LoadSpec(micro.name, folder / micro.file, micro.format, runtime, threads)
    inputs = {name: np.full(shape, 0.5, np.float32) for name, shape in micro.inputs}
    where = f"{lane.spec.accelerator} {runtime.provider}: {micro.name}"
    try:
        report = lane.load(load, LOAD_TIMEOUT_S).result(LOAD_TIMEOUT_S + 5)
        if runtime.provider not in report.actual:
            refuse(f"{where} ran on {', '.join(report.actual)} instead, refused")
            return None
        lane.renew_permit(clock.monotonic_s() + 600.0)
        if len(inputs) == 1:
            # LiteRT names an input after its signature, not after its tensor.
            inputs = {report.inputs[0].name: next(iter(inputs.values()))}
        budget_s = QUICK_SECONDS_PER_MODEL if quick else FULL_SECONDS_PER_MODEL
        timing = Timing(micro, _runs(lane, clock, micro.name, inputs, budget_s))
        if probe is not None:
            loads += _power(probe, lane, clock, micro, inputs, budget_s)
        lane.unload(micro.name).result(CALL_TIMEOUT_S)
    except (QeilError, TimeoutError) as error:
        refuse(f"{where}: {error}")
        return None
    return timing


def _probe(
    board: Board, accelerator: Accelerator, sensors: Sequence[Sensor], clock: Clock, quick: bool
) -> PowerProbe | None:
    rail = rail_of(board.profile, accelerator.name)
    if rail is None or not any(s.name == rail.name for s in sensors):
        return None
    return PowerProbe(rail, sensors, clock, QUICK_IDLE_S if quick else IDLE_S)


def _power(
    probe: PowerProbe, lane: Lane, clock: Clock, micro: MicroModel, inputs: Tensors, budget_s: float
) -> list[PowerLoad]:
    """The load of running a micro model for a while, above idle; nothing where the sensor does not answer."""
    times: list[float] = []
    measured = probe.measure(
        lambda: times.extend(_runs(lane, clock, micro.name, inputs, budget_s, warm=0, most=POWER_MAX_RUNS))
    )
    if measured is None:
        return []
    seconds, joules = measured
    count = len(times)
    flops = ((micro.precision, micro.flops * count),)
    return [PowerLoad(flops, micro.bytes_moved * count, seconds, joules)]


def _runs(
    lane: Lane, clock: Clock, model: str, inputs: Tensors, budget_s: float, warm: int = 2, most: int = MAX_RUNS
) -> tuple[float, ...]:
    """Execution times of calls in a row, without the first `warm` ones."""
    end_s = clock.monotonic_s() + budget_s
    times: list[float] = []
    while len(times) < MIN_RUNS or (clock.monotonic_s() < end_s and len(times) < most):
        deadline_s = clock.monotonic_s() + CALL_TIMEOUT_S
        times.append(lane.submit(model, inputs, None, deadline_s).result(CALL_TIMEOUT_S).execute_s)
    return tuple(times[warm:])
