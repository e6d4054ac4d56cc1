"""Loading and running models inside the process (or thread) of a lane: timing, warm-up, simulation, faults."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import field
from typing import NamedTuple

from agent.backends.artifact import LoadOrder, LoadOutcome, Session, SimulatedUnit
from agent.backends.faults import Faults, spoil
from agent.backends.formats import Array, check_outputs
from agent.backends.registry import open_session
from agent.backends.simulated import HeatModel, pad
from agent.backends.vitals import rss_bytes
from agent.errors import InferenceFailed, LaneOutOfMemory
from agent.records import record


class Result(NamedTuple):
    """A finished run."""

    arrays: list[Array]
    execute_s: float
    energy_j: float | None


@record
class LoadedSession:
    """A session and what was learnt while loading it."""

    order: LoadOrder
    session: Session
    outcome: LoadOutcome

    @property
    def output_names(self) -> tuple[str, ...]:
        """All outputs."""
        return tuple(signature.name for signature in self.session.outputs)

    def check_outputs(self, names: tuple[str, ...]) -> None:
        """Refuse names the model does not have (InferenceFailed)."""
        check_outputs(self.order.model, names, self.output_names)


@record
class Executor:
    """Runs sessions one after the other, on one thread."""

    faults: Faults = field(default_factory=Faults)
    heat: HeatModel | None = None

    def run(self, loaded: LoadedSession, feeds: Mapping[str, Array], outputs: tuple[str, ...]) -> Result:
        """Run once. Raises InferenceFailed."""
        unit = loaded.order.simulation
        fault = self.faults.next()
        started_s = time.monotonic()
        if unit is not None:
            self.warm(unit, started_s).begin(unit, started_s)
        try:
            self.faults.before(fault)
            arrays = loaded.session.run(feeds, outputs)
        except MemoryError as error:
            raise LaneOutOfMemory(f"{loaded.order.model}: out of memory while running") from error
        if fault == "wrong":
            arrays = spoil(arrays)
        if unit is not None:
            pad(unit, started_s)
        return Result(arrays, time.monotonic() - started_s, None if unit is None else unit.energy_j)

    def warm(self, unit: SimulatedUnit, now_s: float) -> HeatModel:
        """The heat of the simulated unit, which begins with its first model."""
        if self.heat is None:
            self.heat = HeatModel(unit, now_s)
        return self.heat


def load(order: LoadOrder) -> LoadedSession:
    """Load, warm up and describe. Raises ModelLoadFailed."""
    before_bytes = rss_bytes()
    started_s = time.monotonic()
    session = open_session(order)
    load_s = time.monotonic() - started_s
    notes = list(session.assignment.notes)
    first_run_s, output_bytes, note = _warm_up(session, order.warmup_runs)
    if note:
        notes.append(note)
    outcome = LoadOutcome(
        actual=session.assignment.actual, nodes=session.assignment.nodes,
        nodes_on_requested=session.assignment.nodes_on_requested, inputs=session.inputs, outputs=session.outputs,
        load_s=load_s, first_run_s=first_run_s, memory_bytes=max(0, rss_bytes() - before_bytes),
        output_bytes=output_bytes, notes=tuple(notes),
    )  # fmt: skip
    return LoadedSession(order, session, outcome)


def _warm_up(session: Session, runs: int) -> tuple[float | None, int, str | None]:
    """(seconds of the first run, bytes of its outputs, why there was none)."""
    feeds = {signature.name: signature.zeros() for signature in session.inputs}
    names = tuple(signature.name for signature in session.outputs)
    first_run_s, output_bytes = None, 0
    for index in range(runs):
        started_s = time.monotonic()
        try:
            arrays = session.run(feeds, names)
        except InferenceFailed as error:
            # Zeros, or one for a free dimension, are no input that every model takes.
            return None, 0, f"not warmed up: {error.message}"
        if index == 0:
            first_run_s = time.monotonic() - started_s
            output_bytes = sum(array.nbytes for array in arrays if array.dtype.kind != "O")
    return first_run_s, output_bytes, None
