"""Time trials: where a model has several placements loaded, each is timed on the idle board, one after the other.

A prediction may be wrong for one accelerator by more than accelerators differ. The question is that of the canary; the
second least of the last few times counts: what else runs on the board only adds, and one lucky call is no measure.
Where the times stand to each other otherwise than predicted, the models are planned again with them. `look` belongs to
the supervisor's thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from agent.control.thermal_governor import Level
from agent.errors import QeilError
from agent.ports import LaneReply, LoadSpec
from agent.service.planning.placed import part_of
from agent.service.planning.plan import Candidate, ModelPlan, Plan
from agent.service.serving.canaries import Canaries
from agent.service.serving.lane_keeper import LaneKeeper

TRIALS = 5
"""Before a time counts, and as many are remembered."""
SETTLED_S = 10.0
"""A model has been loaded for as long: a board that starts has other things to do."""
QUIET_TICKS = 5
"""Ticks in a row without a request before a trial."""
AGAIN_S = 300.0
"""Between two trials of a placement whose time is known."""
DIFFERS = 1.05
"""Ratio of two placements' errors of prediction that may change which of them is the better one."""
CHANGED = 0.1
"""Share by which a time has changed since it was last planned with."""

Key = tuple[str, str]
"""Digest of the model file, accelerator."""


@dataclass
class _Record:
    load: LoadSpec
    since_s: float
    next_s: float
    times_s: deque[float] = field(default_factory=lambda: deque(maxlen=TRIALS))


class TimeTrials:
    """See module. `times` may be called from any thread."""

    def __init__(
        self, canaries: Canaries, keepers: Mapping[str, LaneKeeper], busy: Callable[[], bool],
        replan: Callable[[str], object],
    ) -> None:  # fmt: skip
        """`busy()` tells whether a request is under way; `replan(why)` plans all models again."""
        self._canaries, self._keepers, self._busy, self._replan = canaries, keepers, busy, replan
        self._lock = threading.Lock()
        self._records: dict[Key, _Record] = {}
        self._told: dict[Key, float] = {}
        self._running: Future[LaneReply] | None = None
        self._quiet = 0

    def times(self) -> dict[Key, float]:
        """Seconds of one call of a placement, where it was timed often enough."""
        with self._lock:
            return {key: sorted(r.times_s)[1] for key, r in self._records.items() if len(r.times_s) >= TRIALS}

    def look(self, plan: Plan, now_s: float) -> None:
        """One trial, if one is due and nobody else wants the board; called every tick."""
        self._quiet = 0 if self._busy() else self._quiet + 1
        if self._quiet < QUIET_TICKS or not (self._running is None or self._running.done()):
            return
        rivals = [(model, found) for model in plan.models if len(found := self._loaded(model)) > 1]
        kept = {(model.digest, c.accelerator) for model, found in rivals for c in found}
        with self._lock:
            for key in self._records.keys() - kept:
                del self._records[key]
            due = [self._due(model, c, now_s) for model, found in rivals for c in found]
        waiting = [found for found in due if found is not None]
        if waiting:
            self._try(*min(waiting, key=lambda found: len(found[1].times_s)), now_s)
            return
        for model, found in rivals:
            self._compare(model, found)

    def _loaded(self, model: ModelPlan) -> list[Candidate]:
        """Whole placements of the model file that could serve now; a split's stages are timed as they hand over."""
        found = []
        for candidate in model.candidates:
            keeper = self._keepers.get(candidate.accelerator)
            if candidate.stages or candidate.variant or not candidate.predicted_s or keeper is None:
                continue
            entry = part_of(candidate, self._keepers)
            cool = keeper.verdict.permit and keeper.verdict.level is Level.NOMINAL
            if entry is not None and entry.state == "ready" and cool and keeper.health.phase == "ready":
                found.append(candidate)
        return found

    def _due(self, model: ModelPlan, candidate: Candidate, now_s: float) -> tuple[Candidate, _Record] | None:
        key = (model.digest, candidate.accelerator)
        record = self._records.get(key)
        if record is None or record.load != candidate.load:
            record = self._records[key] = _Record(candidate.load, now_s, now_s + SETTLED_S)
        return (candidate, record) if now_s >= record.next_s else None

    def _try(self, candidate: Candidate, record: _Record, now_s: float) -> None:
        name = candidate.load.model
        record.next_s = now_s + AGAIN_S
        try:
            asked = self._canaries.timed(candidate.accelerator, self._keepers[candidate.accelerator].lane, name)
        except QeilError:
            return  # the lane is full, or ends at this moment
        if asked is None:
            return  # no question can be made for this model, or it was not answered yet
        self._running = asked
        asked.add_done_callback(lambda done: self._timed(record, now_s, done))

    def _timed(self, record: _Record, now_s: float, done: Future[LaneReply]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        with self._lock:
            record.times_s.append(done.result().execute_s)
            if len(record.times_s) < TRIALS:
                record.next_s = now_s

    def _compare(self, model: ModelPlan, found: Sequence[Candidate]) -> None:
        known = self.times()
        predicted = {(model.digest, c.accelerator): c.predicted_s for c in found if c.predicted_s}
        timed = {key: known[key] for key in predicted if key in known}
        errors = [time_s / predicted[key] for key, time_s in timed.items()]
        changed = any(abs(self._told.get(key, 0.0) - time_s) > CHANGED * time_s for key, time_s in timed.items())
        if len(errors) > 1 and max(errors) > DIFFERS * min(errors) and changed:
            self._told.update(timed)
            figures = [f"{k[1]} {s * 1e3:.3g} ms ({predicted[k] * 1e3:.3g} predicted)" for k, s in timed.items()]
            self._replan(f"{model.name} was timed: {', '.join(figures)}")
