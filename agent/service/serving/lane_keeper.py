"""Lane keeper: one accelerator's lane over its deaths and returns, with the models loaded on it.

Owned by the supervisor's thread. What completes elsewhere arrives as events with the generation they belong to, so
that news of a dead lane never touches its successor.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from agent.control import fault_detector, lane_health
from agent.control.load_estimate import Estimate
from agent.control.thermal_governor import Level, ThermalVerdict
from agent.errors import QeilError
from agent.ports import Lane, LaneSpec, LaneVitals, LoadReport
from agent.schema.policy import Recovery
from agent.schema.snapshot import LaneState
from agent.service.planning.plan import Candidate
from agent.service.serving.canaries import CAUSE, Canaries, Finding
from agent.service.serving.load_times import Loading, LoadTimes

STARTUP_TIMEOUT_S = 60.0
"""A Python process with a native runtime answers within seconds; a Raspberry Pi on a slow card needs up to twenty."""


@dataclass
class LoadedModel:
    """One model on this lane."""

    candidate: Candidate
    state: Literal["loading", "ready", "refused"] = "loading"
    report: LoadReport | None = None
    reason: str | None = None
    deaths_while_loading: int = 0
    loading: Loading | None = None
    """The load under way and what is expected of it, where loads are timed."""


@dataclass(frozen=True)
class LaneDiedEvent:
    """The lane's process ended."""

    accelerator: str
    generation: int
    cause: str


@dataclass(frozen=True)
class LoadDoneEvent:
    """A load finished."""

    accelerator: str
    generation: int
    model: str
    report: LoadReport | None
    error: str | None


@dataclass
class _Waits:
    """How long the call in progress waited for a core: what the scheduler counted since the look before it began."""

    busy_since_s: float | None = None
    base_s: float = 0.0
    last_s: float = 0.0

    def starved_s(self, busy_since_s: float | None, waited_s: float | None) -> float | None:
        if waited_s is None:
            return None
        if busy_since_s != self.busy_since_s:
            self.busy_since_s, self.base_s = busy_since_s, self.last_s
        self.last_s = waited_s
        return max(0.0, waited_s - self.base_s)


FIRST_RUNS = 10.0
"""A first run, with all that it sets up, is believed to take up to so many times the p99 of the later ones."""


@dataclass
class LaneKeeper:
    """See module."""

    spec: LaneSpec
    make_lane: Callable[[LaneSpec], Lane]
    post: Callable[[LaneDiedEvent | LoadDoneEvent], None]
    backend: str
    provider: str
    lane: Lane | None = None
    generation: int = 0
    health: lane_health.LaneHealth = field(default_factory=lane_health.LaneHealth)
    models: dict[str, LoadedModel] = field(default_factory=dict)
    verdict: ThermalVerdict = field(default_factory=lambda: ThermalVerdict(True, 1.0, Level.NOMINAL, ""))
    vitals: LaneVitals | None = None
    canaries: Canaries | None = None
    """Asked after every load, before the model counts as loaded; None: nothing is asked."""
    times: LoadTimes | None = None
    engines: Path | None = None
    """Folder in which this accelerator's compiled models are kept."""
    slowest_s: dict[str, float] = field(default_factory=dict)
    """p99 of the recent calls, by model, as measured."""
    _waits: _Waits = field(default_factory=_Waits)

    @property
    def name(self) -> str:
        """The accelerator's name."""
        return self.spec.accelerator

    def start(self, limits: Recovery, now_s: float) -> None:
        """Start a new process and load every model that belongs here and was not refused."""
        self.generation += 1
        generation = self.generation
        self.vitals, self._waits = None, _Waits()
        lane = self.make_lane(self.spec)
        self.lane = lane
        try:
            lane.start(lambda cause: self.post(LaneDiedEvent(self.name, generation, cause)))
        except QeilError as error:
            self.post(LaneDiedEvent(self.name, generation, error.message))
            return
        lane.renew_permit(now_s + limits.permit_s)
        for model in self.models.values():
            if model.state != "refused":
                model.state, model.report = "loading", None
                self._load(model, limits)

    def place(self, candidate: Candidate, limits: Recovery) -> None:
        """Load a model beside what is loaded (or replace its candidate when only the predictions changed)."""
        name = candidate.load.model
        old = self.models.get(name)
        if old is not None and old.candidate.load == candidate.load:
            old.candidate = candidate
            return
        self.models[name] = LoadedModel(candidate)
        if self.lane is not None and self.lane.alive():
            self._load(self.models[name], limits)

    def remove(self, model: str) -> None:
        """Forget a model."""
        if self.models.pop(model, None) is not None:
            self.unload(model)

    def unload(self, model: str) -> None:
        """Have the process forget a model. A lane that dies at this moment, or does not read, forgets it by its end."""
        if self.lane is not None and self.lane.alive():
            with suppress(QeilError):
                self.lane.unload(model)

    def _load(self, model: LoadedModel, limits: Recovery) -> None:
        assert self.lane is not None  # noqa: S101  (callers checked)
        generation, name = self.generation, model.candidate.load.model
        load = replace(model.candidate.load, engines=self.engines)
        loading = model.loading = None if self.times is None else self.times.begin(self.name, load)
        try:
            future = self.lane.load(load, limits.load_timeout_s)
        except QeilError as error:
            self.post(LoadDoneEvent(self.name, generation, name, None, error.message))
            return

        def done(_: object) -> None:
            error = future.exception()
            report = None if error else future.result()
            sentence = None if error is None else getattr(error, "message", f"{type(error).__name__}: {error}")
            lane = self.lane
            if report is not None and self.times is not None and loading is not None:
                self.times.end(loading)
            if report is None or self.canaries is None or lane is None or generation != self.generation:
                self.post(LoadDoneEvent(self.name, generation, name, report, sentence))
                return
            told = partial(self._examined, lane, generation, report)
            self.canaries.loaded(self.name, lane, model.candidate.load, report, told)

        future.add_done_callback(done)

    def _examined(self, lane: Lane, generation: int, report: LoadReport, finding: Finding) -> None:
        """The canary's word on a model just loaded. A lane that answered rightly once and does not now is ended."""
        if finding.outcome == "failed" or (finding.outcome == "wrong" and finding.known):
            lane.kill(finding.sentence)
        elif finding.outcome == "wrong":
            self.post(LoadDoneEvent(self.name, generation, report.model, None, finding.sentence))
        else:
            self.post(LoadDoneEvent(self.name, generation, report.model, report, None))

    def blame_death(self, cause: str) -> LoadedModel | None:
        """After a death while loading: refuse the model that was being loaded the second time it happens."""
        loading = next((m for m in self.models.values() if m.state == "loading"), None)
        # A crash may come before the next tick has looked: the page of the dead process still tells that it lived.
        lived = self.vitals is not None or (self.lane is not None and self.lane.vitals() is not None)
        if loading is None or not lived or cause.startswith(CAUSE):
            return None
        loading.deaths_while_loading += 1
        if loading.deaths_while_loading < 2:
            return None
        loading.state, loading.reason = "refused", f"loading it ends the lane: {cause}"
        return loading

    def progress(self, model: str) -> tuple[float, Estimate] | None:
        """Seconds since the model's load began and what is expected of it; None while none is under way."""
        entry = self.models.get(model)
        if entry is None or entry.state != "loading" or entry.loading is None or self.times is None:
            return None
        return self.times.elapsed_s(entry.loading), entry.loading.told

    def settled(self) -> bool:
        """Whether the process answers and nothing is loading any more."""
        return self.vitals is not None and all(m.state != "loading" for m in self.models.values())

    def fault(self, limits: Recovery, now_s: float, predicted_s: float | None) -> str | None:
        """Cause to kill the lane for, or None."""
        if self.lane is None or not self.lane.alive() or self.health.phase not in {"starting", "probing", "ready"}:
            return None
        if self.vitals is None:
            waited_s = now_s - self.health.since_s
            return f"did not start within {STARTUP_TIMEOUT_S:g} s" if waited_s > STARTUP_TIMEOUT_S else None
        busy_since_s = self.vitals.busy_since_s
        starved_s = self._waits.starved_s(busy_since_s, self.vitals.waited_s)
        signs = fault_detector.LaneSigns(
            heartbeat_age_s=now_s - self.vitals.heartbeat_s,
            busy_for_s=None if busy_since_s is None else now_s - busy_since_s,
            predicted_s=self._expected_s(predicted_s),
            loading=any(m.state == "loading" for m in self.models.values()),
            starved_s=starved_s,
            stopped=self.vitals.stopped,
        )
        return fault_detector.judge(signs, limits)

    def _expected_s(self, predicted_s: float | None) -> float | None:
        """The longest call to expect: the prediction, the first run of each model, and the p99 once it is measured."""
        first = [self._first_s(name, m.report.first_run_s) for name, m in self.models.items() if m.report is not None]
        known = [s for s in (predicted_s, *first, *self.slowest_s.values()) if s is not None]
        return max(known, default=None)

    def _first_s(self, model: str, first_s: float | None) -> float | None:
        """A first run that met a busy machine would hide every hang after it: what is measured since then bounds it."""
        measured_s = self.slowest_s.get(model)
        return first_s if first_s is None or measured_s is None else min(first_s, FIRST_RUNS * measured_s)

    def state(self) -> LaneState:
        """The word shown in status; idle: nothing is placed on it, so no process was started for it."""
        if self.generation == 0 and not self.models:
            return "idle"
        words: dict[str, LaneState] = {
            "starting": "starting", "ready": "ready", "waiting": "restarting", "probing": "restarting",
            "open": "quarantined", "stopped": "stopped",
        }  # fmt: skip
        if self.health.phase == "starting" and self.health.restarts:
            return "restarting"
        return words[self.health.phase]
