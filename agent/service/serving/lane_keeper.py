"""Lane keeper: one accelerator's lane over its deaths and returns, with the models loaded on it.

Owned by the supervisor's thread. What completes elsewhere arrives as events with the generation they belong to, so
that news of a dead lane never touches its successor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

from agent.control import fault_detector, lane_health
from agent.control.load_estimate import Estimate
from agent.control.thermal_governor import Level, ThermalVerdict
from agent.errors import QeilError
from agent.ports import Lane, LaneSpec, LaneVitals, LoadReport
from agent.records import record
from agent.schema.policy import Recovery
from agent.schema.snapshot import LaneState
from agent.service.planning.plan import Candidate
from agent.service.serving import load_faults
from agent.service.serving.admitted import Seen, seen, when_recognised
from agent.service.serving.call_sizes import Allowance, CallSizes
from agent.service.serving.canaries import CAUSE, Canaries, Finding
from agent.service.serving.load_times import Loading, LoadTimes

STARTUP_TIMEOUT_S = 60.0
"""A Python process with a native runtime answers within seconds; a Raspberry Pi on a slow card needs up to twenty."""


@record
class LoadedModel:
    """One model on this lane."""

    candidate: Candidate
    state: Literal["loading", "ready", "refused"] = "loading"
    report: LoadReport | None = None
    reason: str | None = None
    changed: bool = False
    """Refused because its file is not what was admitted; looked at again whenever the lane starts."""
    asked: tuple[int, LoadReport] | None = None
    """Its load is over, and it is asked the known question: what takes long now is a call, and no load.

    With the lane's generation, as the word of one that ended may come when the next one is loading.
    """
    deaths_while_loading: int = 0
    """Since it was loaded last."""
    loading: Loading | None = None
    """The load under way and what is expected of it, where loads are timed."""


@record(frozen=True)
class LaneDiedEvent:
    """The lane's process ended."""

    accelerator: str
    generation: int
    cause: str


@record(frozen=True)
class LoadDoneEvent:
    """A load finished."""

    accelerator: str
    generation: int
    model: str
    report: LoadReport | None
    error: str | None
    changed: bool = False
    """The error is that the file is not what was admitted."""


@record
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


def _another(old: LoadedModel, candidate: Candidate) -> bool:
    """Whether the same name now stands for another file."""
    before, now = old.candidate.admitted, candidate.admitted
    return before is not None and now is not None and before.contents != now.contents


FIRST_RUNS = 10.0
"""A first run, with all that it sets up, is believed to take up to so many times the p99 of the later ones."""


@record
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
    together: int = 1
    """Most requests that may share a call, which then takes that many times as long at most."""
    bring_up_s: float | None = None
    """From the start of its process until it served, the last time."""
    slowest_s: dict[str, float] = field(default_factory=dict)
    """p99 of the recent calls, by model, as measured."""
    sizes: CallSizes | None = None
    """Of the calls larger than planned that are on the lane."""
    _waits: _Waits = field(default_factory=_Waits)

    @property
    def name(self) -> str:
        """The accelerator's name."""
        return self.spec.accelerator

    @property
    def unused(self) -> bool:
        """Whether nothing was ever placed on it, so that it has no process."""
        return self.generation == 0 and not self.models

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
            if model.state != "refused" or model.changed:
                model.state, model.report, model.changed, model.loading = "loading", None, False, None
                model.asked = None
                self._load(model, limits)

    def place(self, candidate: Candidate, limits: Recovery) -> None:
        """Load a model beside what is loaded (or replace its candidate when only the predictions changed)."""
        name = candidate.load.model
        old = self.models.get(name)
        if old is not None and old.candidate.load == candidate.load and not _another(old, candidate):
            old.candidate = candidate
            return
        self.models[name] = LoadedModel(candidate)
        if self.lane is not None and self.lane.alive():
            self._load(self.models[name], limits)

    def readmit(self, candidate: Candidate) -> None:
        """The file was read for a new plan: a load of it that was refused because it had changed is tried again."""
        old = self.models.get(candidate.load.model)
        if old is not None and old.changed:
            del self.models[candidate.load.model]

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
        """Load what was admitted: the file must be that when the load begins, and when it has ended."""
        assert self.lane is not None  # noqa: S101  (callers checked)
        lane, generation, name = self.lane, self.generation, model.candidate.load.model
        admitted = model.candidate.admitted
        if admitted is None or admitted.path != model.candidate.load.path:
            self._order(model, lane, generation, limits)
            return

        def refused(sentence: str) -> None:
            model_name, _, stage = name.partition("@")[0].partition("/")
            mend = "its stages are cut again:" if stage else "put that file back, or serve this one:"
            told = f"{sentence}; {mend} qeil models load {model_name}"
            self.post(LoadDoneEvent(self.name, generation, name, None, told, True))

        def same(stamps: Seen) -> None:
            def changed() -> bool:
                now = seen(admitted)
                if now == stamps:
                    return False
                with suppress(QeilError):
                    lane.unload(name)
                files = (admitted.path, *(w.path for w in admitted.weights))
                which = next(f for f, a, b in zip(files, now, stamps, strict=True) if a != b)
                refused(f"{which} changed while it was loaded")
                return True

            self._order(model, lane, generation, limits, changed)

        when_recognised(admitted, same, refused)

    def _order(
        self, model: LoadedModel, lane: Lane, generation: int, limits: Recovery,
        changed: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """`changed()` after the load: the file is another one now, and that was told."""
        name = model.candidate.load.model
        load = replace(model.candidate.load, engines=self.engines)
        loading = model.loading = None if self.times is None else self.times.begin(self.name, load)
        try:
            future = lane.load(load, limits.load_timeout_s)
        except QeilError as error:
            self.post(
                LoadDoneEvent(self.name, generation, name, None, load_faults.told(error.message, self.spec, load))
            )
            return

        def done(_: object) -> None:
            error = future.exception()
            report = None if error else future.result()
            sentence = None if error is None else getattr(error, "message", f"{type(error).__name__}: {error}")
            if self.models.get(name, model) is not model or (report is not None and changed()):
                return  # superseded: another file has the name now, and its own load says what came of it
            if report is not None and self.times is not None and loading is not None:
                self.times.end(loading)
            if report is None or self.canaries is None or generation != self.generation:
                sentence = None if sentence is None else load_faults.told(sentence, self.spec, load)
                self.post(LoadDoneEvent(self.name, generation, name, report, sentence))
                return
            model.asked = (generation, report)
            told = partial(self._examined, lane, generation, report)
            self.canaries.loaded(self.name, lane, model.candidate.load, report, told, model.candidate.admitted)

        future.add_done_callback(done)

    def _examined(self, lane: Lane, generation: int, report: LoadReport, finding: Finding) -> None:
        """The canary's word on a model just loaded. A lane that answered rightly once and does not now is ended."""
        if finding.outcome == "gone" and not lane.alive():
            return  # its death tells, and blames what it was asked
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
        loading.state, loading.reason = "refused", load_faults.ended(cause, self.spec)
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

    def back_in_s(self, now_s: float) -> float | None:
        """Time until it is expected to serve, as measured the last time, else as its loads are expected to take."""
        loads = [m.loading.told.expected_s for m in self.models.values() if m.loading is not None]
        told_s = sum(s for s in loads if s is not None) if any(s is not None for s in loads) else None
        return lane_health.back_in_s(self.health, now_s, told_s if self.bring_up_s is None else self.bring_up_s)

    def serves(self, limits: Recovery, now_s: float) -> None:
        """Everything on it is loaded and answers."""
        if self.health.phase in {"starting", "probing"}:
            self.bring_up_s = now_s - self.health.since_s
        self.health, _ = lane_health.step(self.health, lane_health.Ready(), limits, now_s)

    def fault(self, limits: Recovery, now_s: float, predicted_s: float | None) -> str | None:
        """Cause to kill the lane for, or None."""
        if self.lane is None or not self.lane.alive() or self.health.phase not in {"starting", "probing", "ready"}:
            return None
        if self.vitals is None:
            waited_s = now_s - self.health.since_s
            return f"did not start within {STARTUP_TIMEOUT_S:g} s" if waited_s > STARTUP_TIMEOUT_S else None
        busy_since_s, until_s = self.vitals.busy_since_s, self.vitals.busy_until_s
        starved_s = self._waits.starved_s(busy_since_s, self.vitals.waited_s)
        longest_s = fault_detector.hang_deadline_s(self._expected_s(predicted_s), limits, starved_s is not None)
        begun_s = now_s if busy_since_s is None else busy_since_s
        allowance = Allowance()
        if self.sizes is not None:
            allowance = self.sizes.allowance(self.name, now_s, longest_s, begun_s, until_s)
        expected_s = max((s for s in (predicted_s, allowance.expected_s) if s is not None), default=None)
        signs = fault_detector.LaneSigns(
            heartbeat_age_s=now_s - self.vitals.heartbeat_s,
            busy_for_s=None if busy_since_s is None else now_s - busy_since_s,
            predicted_s=self._expected_s(expected_s),
            loading=any(m.state == "loading" and self._asked(m) is None for m in self.models.values()),
            starved_s=starved_s,
            stopped=self.vitals.stopped,
            allowed_s=allowance.time_s * self.together,
        )
        cause = fault_detector.judge(signs, limits)
        if cause is not None and self.sizes is not None and cause.startswith(fault_detector.UNTIMED):
            self.sizes.hung(self.name, now_s, begun_s, until_s)
        return cause

    def overdue(self, limits: Recovery, now_s: float, predicted_s: float | None) -> bool:
        """Whether the call in progress takes far longer than those before: it may be no hang, but nobody queues for it.

        A request of a size that nobody has timed, or one whose client gave up, may keep the lane for minutes.
        """
        if self.vitals is None or self.vitals.busy_since_s is None:
            return False
        usual_s = fault_detector.hang_deadline_s(self._expected_s(predicted_s), limits, False)
        return now_s - self.vitals.busy_since_s > usual_s

    def _expected_s(self, predicted_s: float | None) -> float | None:
        """The longest call to expect: the prediction, the first run of each model, and the p99 once it is measured."""
        reports = [(name, m.report or self._asked(m)) for name, m in self.models.items()]
        first = [self._first_s(name, report.first_run_s) for name, report in reports if report is not None]
        alone = [s * self.together for s in (predicted_s, *first) if s is not None]
        known = [*alone, *self.slowest_s.values()]
        return max(known, default=None)

    def _asked(self, model: LoadedModel) -> LoadReport | None:
        """What this lane's load of it said, where the model is asked the known question now."""
        return model.asked[1] if model.asked is not None and model.asked[0] == self.generation else None

    def _first_s(self, model: str, first_s: float | None) -> float | None:
        """A first run that met a busy machine would hide every hang after it: what is measured since then bounds it."""
        measured_s = self.slowest_s.get(model)
        return first_s if first_s is None or measured_s is None else min(first_s, FIRST_RUNS * measured_s)

    def state(self) -> LaneState:
        """The word shown in status; idle: nothing is placed on it, so no process was started for it."""
        if self.unused:
            return "idle"
        if self.health.phase == "starting" and self.health.restarts:
            return "restarting"
        return _WORDS[self.health.phase]


_WORDS: Final[Mapping[str, LaneState]] = {
    "starting": "starting", "ready": "ready", "waiting": "restarting", "probing": "restarting",
    "open": "quarantined", "stopped": "stopped",
}  # fmt: skip


def stop_lanes(keepers: Iterable[LaneKeeper]) -> None:
    """End their lanes beside each other, within a few seconds."""
    lanes = [keeper.lane for keeper in keepers if keeper.lane is not None]
    threads = [threading.Thread(target=lane.stop, args=(2.0,), daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4.0)
