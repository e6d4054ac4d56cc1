"""Input screen: what the policy's guard says of a request's tensors before, and of its answer after, they are run.

Stands between the HTTP edge and the dispatcher. Costs nothing for a model that has no statistics and a policy that
switches nothing on. Everything found is counted per model and kind, told in one log line, and shown as a condition.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import field
from functools import partial

import structlog

from agent.control import input_statistics, squeeze
from agent.control.input_statistics import Statistics
from agent.control.verdict import Finding, GuardVerdict, weigh
from agent.errors import BadInput, Overloaded, QeilError, TooLarge
from agent.ports import Clock, InferenceAnswer, InferenceRequest, Tensor
from agent.records import record
from agent.schema.guard import TensorGuard
from agent.service.conditions import SHOWN_S
from agent.service.serving.quarantine import Quarantine
from agent.service.serving.statistics_store import StatisticsStore

_log = structlog.get_logger("guard")
Infer = Callable[[InferenceRequest], "Future[InferenceAnswer]"]
RATE_WINDOW_S = 1.0


@record
class _Model:
    """What the screen remembers of one model."""

    digest: str
    learnt: dict[str, Statistics] | None = None
    learning: dict[str, Statistics] = field(default_factory=dict)
    seen: int = 0
    recent_s: deque[float] = field(default_factory=deque)
    last: tuple[float, str] | None = None
    """When something was found last, and what."""


class InputScreen:
    """Thread-safe. `tell(type, cause, consequence, mend)` shows a condition; cause None clears it."""

    def __init__(
        self, infer: Infer, guard: Callable[[], TensorGuard], store: StatisticsStore, quarantine: Quarantine,
        clock: Clock, tell: Callable[[str, str | None, str, str], None],
    ) -> None:  # fmt: skip
        self._infer = infer
        self._guard = guard
        self._store = store
        self._quarantine = quarantine
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        self._models: dict[str, _Model] = {}
        self._shown: dict[str, str] = {}
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """(model, kind, action) → times."""

    def infer(self, request: InferenceRequest) -> Future[InferenceAnswer]:
        """Screen, run, and where the policy asks for it compare with squeezed runs."""
        guard, model = self._guard(), self._models.get(request.model)
        if model is None:
            return self._infer(request)
        try:
            self._before(request, guard, model)
        except QeilError as error:
            refused: Future[InferenceAnswer] = Future()
            refused.set_exception(error)
            return refused
        squeezed = squeeze.squeezed(request.inputs) if guard.adversarial != "ignore" else []
        if not squeezed:
            return self._infer(request)
        return _Comparison(self, request, guard, squeezed).future

    # ------------------------------------------------------------------ before the run

    def _before(self, request: InferenceRequest, guard: TensorGuard, model: _Model) -> None:
        elements = 0
        for tensor in request.inputs.values():  # loops: a generator would cost as much as all else here
            elements += tensor.size
        if elements > guard.max_elements:
            self._count(request.model, Finding("size", "reject", ""), "reject")
            raise TooLarge(f"{elements} elements, guard.tensors.max_elements allows {guard.max_elements}")
        if guard.rate_per_s is not None:
            self._pace(request.model, guard.rate_per_s, model)
        if model.learnt is not None:
            self.act(request, self._compare(request, guard, model.learnt))
        elif guard.learn_requests:
            self._learn(request, guard, model)

    def _pace(self, name: str, rate_per_s: float, model: _Model) -> None:
        now_s = self._clock.monotonic_s()
        most = max(1, int(rate_per_s * RATE_WINDOW_S))
        with self._lock:
            while model.recent_s and model.recent_s[0] <= now_s - most / rate_per_s:
                model.recent_s.popleft()
            if len(model.recent_s) >= most:
                wait_s = max(0.0, model.recent_s[0] + most / rate_per_s - now_s)
                self._count(name, Finding("rate", "reject", ""), "reject")
                raise Overloaded(f"guard.tensors.rate_per_s allows {rate_per_s:g} requests a second", wait_s)
            model.recent_s.append(now_s)

    @staticmethod
    def _compare(request: InferenceRequest, guard: TensorGuard, learnt: Mapping[str, Statistics]) -> GuardVerdict:
        found = []
        for name, tensor in request.inputs.items():
            known = learnt.get(name)
            if known is None:
                continue
            value = input_statistics.outside(known, tensor) if guard.out_of_range != "ignore" else None
            if value is not None:
                sentence = f"input {name!r} holds {value:g}; learnt were {known.low:g} to {known.high:g}"
                found.append(Finding("range", guard.out_of_range, sentence, value))
            away = input_statistics.distance(known, tensor) if guard.out_of_distribution != "ignore" else None
            if away is not None and away > guard.distance_bound:
                sentence = f"input {name!r} lies {away:.1f} deviations from all that was learnt"
                found.append(Finding("distribution", guard.out_of_distribution, sentence, away))
        return weigh(found)

    def _learn(self, request: InferenceRequest, guard: TensorGuard, model: _Model) -> None:
        with self._lock:
            for name, tensor in request.inputs.items():
                known = model.learning.get(name, input_statistics.empty())
                model.learning[name] = input_statistics.learn(known, tensor)
            model.seen += 1
            if model.seen >= guard.learn_requests and model.learnt is None:
                model.learnt = model.learning
                self._store.save_later(request.model, model.digest, model.learnt)

    # ------------------------------------------------------------------ outcomes

    def act(self, request: InferenceRequest, verdict: GuardVerdict) -> None:
        """Count, tell and keep what was found. Raises BadInput where the request is refused."""
        if verdict.action == "allow":
            return
        self.found(request.model, request.request_id, verdict)
        if verdict.action == "quarantine":
            self.keep(request.model, request.inputs)
        if verdict.action != "flag":
            kind = verdict.findings[0].kind
            raise BadInput(f"model {request.model!r}: {verdict.sentence} (policy guard.tensors)", code=kind)

    def found(self, model: str, request_id: str, verdict: GuardVerdict) -> None:
        """Count what was found in a request, tell it in the log and show it with the model."""
        for finding in verdict.findings:
            self._count(model, finding, finding.reaction)
        _log.warning("guard", id=request_id, model=model, verdict=verdict.action, cause=verdict.sentence)
        known = self._models.get(model)
        if known is not None:
            known.last = (self._clock.monotonic_s(), verdict.sentence)

    def keep(self, model: str, inputs: Mapping[str, Tensor]) -> None:
        """Keep refused inputs for the owner."""
        number = sum(n for (_, _, action), n in self.counts.items() if action == "quarantine")
        self._quarantine.keep(f"{model}-{number:06d}", inputs)

    def _count(self, model: str, finding: Finding, action: str) -> None:
        self.counts[model, finding.kind, action] += 1

    # ------------------------------------------------------------------ supervisor's side

    def look(self, models: Mapping[str, str], now_s: float) -> None:
        """Follow the models in force (name → digest), write what was learnt, show and clear conditions."""
        for name, digest in models.items():
            known = self._models.get(name)
            if known is None or known.digest != digest:
                self._models[name] = _Model(digest, self._store.load(name, digest))
        for name in self._models.keys() - models.keys():
            del self._models[name]
        self._store.write_waiting()
        for name, model in self._models.items():
            kind = f"guard:{name}"
            last = model.last
            if last is not None and now_s - last[0] < SHOWN_S:
                if self._shown.get(kind) != last[1]:
                    self._shown[kind] = last[1]
                    mend = "look at the sender; guard in the policy decides what happens"
                    self._tell(kind, last[1], "such requests are flagged or refused, as the policy says", mend)
            elif self._shown.pop(kind, None) is not None:
                self._tell(kind, None, "", "")


class _Comparison:
    """One request with its squeezed runs: the answer leaves when all are there."""

    def __init__(
        self,
        screen: InputScreen,
        request: InferenceRequest,
        guard: TensorGuard,
        squeezed: list[dict[str, squeeze.Array]],
    ) -> None:
        self.future: Future[InferenceAnswer] = Future()
        self._screen, self._request, self._guard = screen, request, guard
        self._lock = threading.Lock()
        self._runs: dict[int, InferenceAnswer] = {}
        self._left = 1 + len(squeezed)
        requests = [request, *(request._replace(inputs=inputs) for inputs in squeezed)]
        self._asked = [screen._infer(r) for r in requests]  # noqa: SLF001  (a part of the screen)
        self.future.add_done_callback(self._given_up)
        for number, asked in enumerate(self._asked):
            asked.add_done_callback(partial(self._done, number))

    def _given_up(self, done: Future[InferenceAnswer]) -> None:
        if done.cancelled():
            for asked in self._asked:
                asked.cancel()

    def _done(self, number: int, done: Future[InferenceAnswer]) -> None:
        error = None if done.cancelled() else done.exception()
        with self._lock:
            if not done.cancelled() and error is None:
                self._runs[number] = done.result()
            self._left -= 1
            last = self._left == 0
        if number == 0 and error is not None and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
        elif last and not self.future.done() and self.future.set_running_or_notify_cancel():
            self._settle()

    def _settle(self) -> None:
        answer, guard = self._runs[0], self._guard
        gaps = [squeeze.disagreement(answer.outputs, run.outputs) for n, run in self._runs.items() if n]
        gap = max((g for g in gaps if g is not None), default=None)
        found = []
        if gap is not None and gap > guard.adversarial_bound:
            sentence = f"squeezing the input changes the answer by {gap:.2f} of 2: it may have been made to deceive"
            found.append(Finding("adversarial", guard.adversarial, sentence, gap))
        try:
            self._screen.act(self._request, weigh(found))
        except BadInput as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(answer)
