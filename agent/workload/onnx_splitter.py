"""Where to cut one ONNX file: the boundaries asked for, or a search for such that keep every bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.errors import ModelLoadFailed
from agent.workload import onnx_graph
from agent.workload.boundaries import Crossing, Places
from agent.workload.onnx_cut import Boundary, Cutter, node_costs
from agent.workload.onnx_split import ATTEMPTS, Checked, Order, Split, StageFile
from agent.workload.onnx_stages import StageWriter
from agent.workload.onnx_verify import Trial

MAX_REFUSED = 64
MAX_TOLD = 8
"""Boundaries that are refused before a search ends, and that its result names."""


class Splitter:
    """One order. Raises ModelLoadFailed with one clear line; OSError where the folder cannot be written."""

    def __init__(self, order: Order, told: Callable[[str], None]) -> None:
        self._order = order
        self._told = told
        told("reading the graph")
        self._model = onnx_graph.load(order.path)
        self._graph = onnx_graph.read(self._model, {"past": 0})
        self._cutter = Cutter(self._model, node_costs(self._graph))
        self._writer: StageWriter | None = None
        self._refused: dict[Crossing, str] = {}
        self._tried = 0

    def run(self) -> Split:
        """Choose boundaries where that is asked, write the stages, check them."""
        order = self._order
        if order.boundaries:
            files, trial = self._write(order.boundaries, order.names)
            if trial is not None and trial.differs is not None:
                _remove(files)
                raise ModelLoadFailed(
                    f"cannot be cut at {_listed(order.boundaries)}: output {trial.differs!r} would not be the same to "
                    f"the bit (off by {trial.max_abs_diff:.3g}), because the runtime fuses operators across it"
                )
            return self._result(order.boundaries, files, trial)
        return self._search()

    def _search(self) -> Split:
        order = self._order
        places = Places(self._graph)
        targets = places.planned(order.after) if order.after else places.even(order.stages)
        wanted = len(order.after) + 1 if order.after else order.stages
        if len(targets) < wanted - 1:
            raise ModelLoadFailed(f"cannot be cut into {wanted} stages: its graph allows {len(targets) + 1} at most")
        # An attempt that ends before anything runs costs next to nothing.
        while self._tried < ATTEMPTS and len(self._refused) < MAX_REFUSED:
            chosen = places.nearest(targets, self._refused)
            if chosen is None:
                break
            done = self._attempt(chosen)
            if done is not None:
                return done
        why = list(self._refused.values())
        raise ModelLoadFailed(f"no boundaries for {wanted} stages hold: {why[-1] if why else 'there are too few'}")

    def _attempt(self, chosen: Sequence[Crossing]) -> Split | None:
        """The split at these boundaries, or None after refusing at least one of them."""
        boundaries = [c.tensors for c in chosen]
        self._refused.update((c, why) for c in chosen if (why := self._uncuttable(c)) is not None)
        if self._refused.keys() & set(chosen):
            return None
        files, trial = self._write(boundaries, self._order.names)
        if trial is None or trial.differs is None:
            return self._result(boundaries, files, trial)
        _remove(files)
        self._blame(chosen)
        return None

    def _uncuttable(self, crossing: Crossing) -> str | None:
        try:
            self._cutter.slices([crossing.tensors])
        except ModelLoadFailed as error:
            return error.message
        return None

    def _blame(self, chosen: Sequence[Crossing]) -> None:
        """Refuse the boundaries that change bits on their own, or all where it takes them together."""
        before = len(self._refused)
        self._tried += 1
        for crossing in chosen if len(chosen) > 1 else ():
            files, trial = self._write([crossing.tensors], (".trial-a", ".trial-b"), timed=False)
            _remove(files)
            if trial is not None and trial.differs is not None:
                self._refused[crossing] = f"{_listed([crossing.tensors])} changes bits of {trial.differs!r}"
        if len(self._refused) == before:
            self._refused.update({c: f"{_listed([c.tensors])} changes bits" for c in chosen})
        self._told(f"moving {len(self._refused) - before} boundaries that change bits")

    def _write(
        self, boundaries: Sequence[Boundary], names: Sequence[str], timed: bool = True
    ) -> tuple[tuple[StageFile, ...], Trial | None]:
        slices = self._cutter.slices(boundaries)
        if self._writer is None:  # nothing is written for an order that can never be met
            self._writer = StageWriter(self._order, self._model, self._graph, self._told)
        return self._writer.write(slices, names, timed)

    def _result(self, boundaries: Sequence[Boundary], files: tuple[StageFile, ...], trial: Trial | None) -> Split:
        checked = None
        if trial is not None:
            checked = Checked(trial.inputs, trial.whole_s, trial.stage_s, trial.crossing_bytes)
        return Split(tuple(boundaries), files, checked, tuple(self._refused.values())[:MAX_TOLD])


def _listed(boundaries: Sequence[Boundary]) -> str:
    return "; ".join(", ".join(repr(name) for name in boundary) for boundary in boundaries)


def _remove(files: Sequence[StageFile]) -> None:
    for file in files:
        file.path.unlink(missing_ok=True)
