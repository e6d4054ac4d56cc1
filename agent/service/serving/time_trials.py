"""Time trials: where a model has several placements loaded, each is timed on the idle board, one after the other.

A prediction may be wrong for one accelerator by more than accelerators differ. The question is that of the canary; the
median of the last few times counts: neither what else ran for a moment nor one lucky call is a measure.
A split is asked the same question, stage after stage with its hand-overs. Where the times stand to each other otherwise
than predicted, the models are planned again with them. `look` belongs to the supervisor's thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import field
from statistics import median_low

from agent.control.thermal_governor import Level
from agent.errors import QeilError
from agent.ports import LaneReply, LoadSpec
from agent.records import record
from agent.service.planning.placed import part_of
from agent.service.planning.plan import Candidate, ModelPlan, Plan
from agent.service.serving.canaries import TIMEOUT_S, Canaries
from agent.service.serving.lane_keeper import LaneKeeper
from agent.service.serving.split_trial import SplitTrial

TRIALS = 5
"""Before a time counts, and as many are remembered."""
SETTLED_S = 10.0
"""A model has been loaded for as long: a board that starts has other things to do."""
CALLS = 40
"""Most calls one after another in a trial; of the second half the lower quartile counts, for the first ones wake cores
and caches. A model that is used is warm."""
SERIES_S = 0.1
"""Calls of a trial stop when another one would exceed this."""
QUIET_TICKS = 5
"""Ticks in a row without a request before a trial."""
AGAIN_S = 300.0
"""Between two trials of a placement whose time is known."""
DIFFERS = 1.05
"""Ratio of two placements' errors of prediction that may change which of them is the better one."""
CHANGED = 0.1
"""Share by which a time has changed since it was last planned with."""

BUDGET_S = 20.0
"""Of calls of one placement: one that takes long is tried less often."""
MAX_RECORDS = 256
"""Placements whose times are remembered; of those that are not loaded the oldest makes room."""

Key = tuple[str, str]
"""Digest of the model file, name of the placement (`Candidate.timed_as`)."""


@record
class _Record:
    loads: tuple[LoadSpec, ...]
    since_s: float
    next_s: float
    times_s: deque[float] = field(default_factory=lambda: deque(maxlen=TRIALS))

    def known(self) -> bool:
        return len(self.times_s) >= TRIALS or sum(self.times_s) > BUDGET_S

    def time_s(self) -> float:
        return median_low(self.times_s)


@record
class _Series:
    """The calls of one trial."""

    model: ModelPlan
    candidate: Candidate
    record: _Record
    begun_s: float
    times_s: list[float] = field(default_factory=list)


class TimeTrials:
    """See module. `times` may be called from any thread."""

    def __init__(
        self, canaries: Canaries, keepers: Mapping[str, LaneKeeper], busy: Callable[[], bool],
        replan: Callable[[str], object], splits: SplitTrial,
    ) -> None:  # fmt: skip
        """`busy()` tells whether a request or a plan is under way; `replan(why)` plans all models again."""
        self._canaries, self._keepers, self._busy, self._replan = canaries, keepers, busy, replan
        self._splits = splits
        self._lock = threading.Lock()
        self._records: dict[Key, _Record] = {}
        self._told: dict[Key, float] = {}
        self._running = False
        self._quiet = 0

    def times(self) -> dict[Key, float]:
        """Seconds of one call of a placement, where it was timed often enough; also of one that is not loaded now."""
        with self._lock:
            return {key: record.time_s() for key, record in self._records.items() if record.known()}

    def look(self, plan: Plan, now_s: float) -> None:
        """One trial, if one is due and nobody else wants the board; called every tick."""
        self._quiet = 0 if self._busy() else self._quiet + 1
        if self._quiet < QUIET_TICKS or self._running:
            return
        rivals = [(model, found) for model in plan.models if len(found := self._loaded(model)) > 1]
        if not rivals and not self._records:
            return
        with self._lock:
            self._forget(plan, {(model.digest, c.timed_as) for model, found in rivals for c in found})
            due = [self._due(model, c, now_s) for model, found in rivals for c in found]
        waiting = [found for found in due if found is not None]
        if waiting:
            model, candidate, record = min(waiting, key=lambda found: len(found[2].times_s))
            self._try(model, candidate, record, now_s)
            return
        for model, found in rivals:
            self._compare(model, found)

    def _forget(self, plan: Plan, loaded: set[Key]) -> None:
        """Files that are gone; of placements that are not loaded now those that were timed are remembered."""
        digests = {model.digest for model in plan.models}
        idle = [key for key in self._records if key not in loaded]
        gone = [key for key in idle if key[0] not in digests or not self._records[key].known()]
        left = [key for key in idle if key not in gone]
        for key in (*gone, *left[: max(0, len(loaded) + len(left) - MAX_RECORDS)]):
            del self._records[key]

    def _loaded(self, model: ModelPlan) -> list[Candidate]:
        """Placements of the model file that could serve now; splits only beside a whole one, which has the question."""
        found = [c for c in model.candidates if c.predicted_s and not c.variant and self._free(c)]
        return found if any(not c.stages for c in found) else []

    def _free(self, candidate: Candidate) -> bool:
        """Whether all of it is loaded on lanes that are well and cool."""
        for piece in candidate.pieces:
            keeper = self._keepers.get(piece.accelerator)
            if keeper is None or keeper.health.phase != "ready":
                return False
            entry = part_of(piece, self._keepers)
            cool = keeper.verdict.permit and keeper.verdict.level is Level.NOMINAL
            if entry is None or entry.state != "ready" or not cool:
                return False
        return True

    def _due(self, model: ModelPlan, candidate: Candidate, now_s: float) -> tuple[ModelPlan, Candidate, _Record] | None:
        key = (model.digest, candidate.timed_as)
        loads = tuple(piece.load for piece in candidate.pieces)
        record = self._records.get(key)
        if record is None or record.loads != loads:
            record = self._records[key] = _Record(loads, now_s, now_s + SETTLED_S)
        return (model, candidate, record) if now_s >= record.next_s else None

    def _try(self, model: ModelPlan, candidate: Candidate, record: _Record, now_s: float) -> None:
        record.next_s = now_s + AGAIN_S
        self._running = True
        self._call(_Series(model, candidate, record, now_s))

    def _call(self, series: _Series) -> None:
        try:
            asked = self._asked(series.model, series.candidate)
        except QeilError:
            asked = None  # the lane is full, or ends at this moment
        if asked is None:  # or no question can be made for this model, or it was not answered yet
            self._end(series)
            return
        asked.add_done_callback(lambda done: self._called(series, done))

    def _called(self, series: _Series, done: Future[LaneReply]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._running = False
            return
        if self._busy():  # whoever came shares the cores
            with self._lock:
                series.record.next_s = series.begun_s
            self._running = False
            return
        series.times_s.append(done.result().execute_s)
        if len(series.times_s) < CALLS and sum(series.times_s) + series.times_s[-1] <= SERIES_S:
            self._call(series)
        else:
            self._end(series)

    def _end(self, series: _Series) -> None:
        record = series.record
        with self._lock:
            if series.times_s:
                record.times_s.append(_typical_s(series.times_s))
                if not record.known():
                    record.next_s = series.begun_s
        self._running = False

    def _asked(self, model: ModelPlan, candidate: Candidate) -> Future[LaneReply] | None:
        if not candidate.stages:
            lane = self._keepers[candidate.accelerator].lane
            return self._canaries.timed(candidate.accelerator, lane, candidate.load.model)
        asked = (self._canaries.question(c.accelerator, c.load.model) for c in model.candidates if not c.stages)
        inputs = next((found for found in asked if found is not None), None)
        return None if inputs is None else self._splits.timed(candidate, self._keepers, inputs, TIMEOUT_S)

    def _compare(self, model: ModelPlan, found: Sequence[Candidate]) -> None:
        known = self.times()
        predicted = {(model.digest, c.timed_as): c.predicted_s for c in found if c.predicted_s}
        timed = {key: known[key] for key in predicted if key in known}
        errors = [time_s / predicted[key] for key, time_s in timed.items()]
        changed = any(abs(self._told.get(key, 0.0) - time_s) > CHANGED * time_s for key, time_s in timed.items())
        if len(errors) > 1 and max(errors) > DIFFERS * min(errors) and changed:
            self._told.update(timed)
            figures = [
                f"{k[1].partition('/')[0]} {s * 1e3:.3g} ms ({predicted[k] * 1e3:.3g} predicted)"
                for k, s in timed.items()
            ]
            self._replan(f"{model.name} was timed: {', '.join(figures)}")


def _typical_s(times_s: Sequence[float]) -> float:
    warm = sorted(times_s[len(times_s) // 2 :])
    return warm[len(warm) // 4]
