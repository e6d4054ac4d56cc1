"""Lane watch: looks at every lane after each tick – is a canary due, and how long do its calls take.

Lives on the supervisor's thread; suspicions may come from any. A lane that fails its canary is reported through
`restart`, and the supervisor ends it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from agent.control.degradation import degradation
from agent.control.load_estimate import sentence
from agent.control.memory_words import says_no_memory
from agent.schema.policy import Recovery
from agent.service.serving.canaries import Canaries, Finding
from agent.service.serving.dispatcher import Dispatcher
from agent.service.serving.lane_keeper import LaneKeeper

_log = structlog.get_logger("canary")
_models = structlog.get_logger("models")

SUSPECT_PAUSE_S = 0.5
"""Shortest time between two canaries that suspicions ask for on one lane."""

LONG_LOAD_S = 5.0
"""A load that takes longer is told of, again after each further such time."""

LONG_LOAD_MEND = "wait; a runtime that compiles keeps the result for the next start, where it can"

MEMORY_FAILURES = 3
"""Failed allocations after which a lane begins anew."""


class LaneWatch:
    """See module."""

    def __init__(
        self, canaries: Canaries, keepers: Mapping[str, LaneKeeper], dispatcher: Dispatcher,
        restart: Callable[[str, str], None],
        tell: Callable[[str, str | None, str, str], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        """`tell(type, cause, consequence, mend)` shows a condition, cause None clears it."""
        self._tell = tell
        self._degraded: dict[str, str] = {}
        self._long: dict[str, int] = {}
        self._canaries = canaries
        self._keepers = keepers
        self._dispatcher = dispatcher
        self._restart = restart
        self._lock = threading.Lock()
        self._suspects: set[str] = set()
        self._starved: Counter[str] = Counter()
        self._asked_s: dict[str, float] = {}
        self._in_flight: set[str] = set()

    def suspect(self, accelerator: str, cause: str = "") -> None:
        """An error speaks against a lane: ask it soon. From any thread."""
        out_of_memory = says_no_memory(cause)
        with self._lock:
            self._suspects.add(accelerator)
            if out_of_memory:
                self._starved[accelerator] += 1

    def look(self, limits: Recovery, now_s: float) -> None:
        """Ask what is due; called every tick."""
        used = {name: keeper for name, keeper in self._keepers.items() if not keeper.unused}
        if not used:
            return
        with self._lock:
            suspects, self._suspects = self._suspects, set()
            empty = [name for name, times in self._starved.items() if times >= MEMORY_FAILURES]
            for name in empty:
                del self._starved[name]
        for name in empty:
            self._restart(name, "no memory for several requests; a new process begins with an empty heap")
        for name, keeper in used.items():
            self._measure(keeper)
            since_s = now_s - self._asked_s.setdefault(name, now_s)
            due = limits.canary_s > 0 and since_s >= limits.canary_s
            if name in suspects and not due:
                due = since_s >= SUSPECT_PAUSE_S
                if not due:
                    self.suspect(name)
            if due and keeper.health.phase == "ready":
                self._asked_s[name] = now_s
                self._ask(keeper)

        self._degradations()
        self._loads()

    def _degradations(self) -> None:
        """Show what the absence of lanes costs each model, and whether that is within the bound.

        A lane that has not served yet is not absent: starting is not degraded.
        """
        begun = [k for k in self._keepers.values() if k.health.phase != "starting" or k.health.last_fault is not None]
        for model in {name for keeper in self._keepers.values() for name in keeper.models}:
            kept = {k.name: s for k in begun if (s := self._time_s(k, model)) is not None}
            serving = [k.name for k in begun if k.health.phase == "ready" and k.verdict.permit]
            found, kind = degradation(kept, serving), f"degraded:{model}"
            if found is None:
                if self._degraded.pop(kind, None) is not None:
                    self._tell(kind, None, "", "")
                continue
            cause = f"{found.healthy} of {found.total} accelerators serve it"
            if self._degraded.get(kind) != cause:
                self._degraded[kind] = cause
                within = "within" if found.holds else "above, because faster ones are away,"
                consequence = (
                    f"at full load a request takes {found.factor:.2g} times as long (modelled), "
                    f"{within} the bound of {found.bound:.2g}"
                )
                self._tell(kind, cause, consequence, "lanes return by themselves; see the lane's own condition")

    def _loads(self) -> None:
        """Tell of loads that take long, in steps; a runtime that compiles says nothing for minutes."""
        told = {}
        for keeper in self._keepers.values():
            if keeper.lane is None or not keeper.lane.alive():
                continue  # what waits for a new process is not loading
            for name in list(keeper.models):
                load = keeper.progress(name)
                if load is None or load[0] < LONG_LOAD_S:
                    continue
                kind, step = f"loading:{name}@{keeper.name}", int(load[0] / LONG_LOAD_S)
                told[kind] = step
                if self._long.get(kind) != step:
                    cause = sentence(keeper.name, name, *load)
                    _models.info("loading", lane=keeper.name, model=name, progress=cause)
                    self._tell(kind, cause, "it is not served from there yet", LONG_LOAD_MEND)
        for kind in self._long.keys() - told.keys():
            self._tell(kind, None, "", "")
        self._long = told

    @staticmethod
    def _time_s(keeper: LaneKeeper, model: str) -> float | None:
        entry = keeper.models.get(model)
        if entry is None or entry.state == "refused":
            return None
        time_s = entry.candidate.predicted_s
        return time_s if time_s is not None and time_s > 0 else None

    def _ask(self, keeper: LaneKeeper) -> None:
        lane = keeper.lane
        if lane is None or not lane.alive():
            return
        for model, entry in list(keeper.models.items()):
            key = f"{keeper.name}/{model}"
            if entry.state == "ready" and key not in self._in_flight:
                self._in_flight.add(key)
                self._canaries.ask(keeper.name, lane, model, partial(self._told, keeper, keeper.generation, key))

    def _told(self, keeper: LaneKeeper, generation: int, key: str, finding: Finding) -> None:
        self._in_flight.discard(key)
        if finding.outcome in {"wrong", "failed"} and generation == keeper.generation:
            _log.warning("canary", lane=key, outcome=finding.outcome, cause=finding.sentence)
            self._restart(keeper.name, finding.sentence)

    def _measure(self, keeper: LaneKeeper) -> None:
        for model in keeper.models:
            meter = self._dispatcher.meters.get(model)
            slowest_s = meter.slowest_s(keeper.name) if meter is not None else None
            if slowest_s is not None:
                keeper.slowest_s[model] = slowest_s
