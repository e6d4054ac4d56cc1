"""Dispatcher: takes one routing table per attempt, guards, admits, runs, and replays what a lane lost.

Owns the requests in flight. A request is answered exactly once: by a result, or by one error. When a lane dies its
requests move to the next placement; where none is usable they wait, bounded, until one is or their deadline passes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

import structlog

from agent.backends.promise import Promise
from agent.control import admission, input_guard, routing
from agent.errors import (
    BackendError,
    BadInput,
    DeadlineExceeded,
    InferenceFailed,
    InputRefused,
    LaneDied,
    NotFound,
    NotLoaded,
    Overloaded,
    PermitExpired,
    QeilError,
    Unprocessable,
)
from agent.ports import Clock, InferenceAnswer, InferenceRequest, LaneReply, ModelMetadata
from agent.service.serving import request_checks
from agent.service.serving.batching import Batches
from agent.service.serving.call_sizes import CallSizes
from agent.service.serving.costly_requests import CostlyRequests
from agent.service.serving.held_answers import Held, HeldAnswers, Part, part_of, parts_of
from agent.service.serving.job import Job
from agent.service.serving.meter import Meter
from agent.service.serving.routing_table import ModelRoutes, RouteEntry, RoutingTable
from agent.service.serving.split_meter import SplitMeter
from agent.service.serving.split_run import Progress, SplitRun, refused_by_the_model, resumable

_log = structlog.get_logger("request")


class Dispatcher:
    """Thread-safe; `infer` never blocks."""

    def __init__(
        self,
        table: RoutingTable,
        clock: Clock,
        on_suspect: Callable[[str, str], None],
        split_meter: SplitMeter | None = None,
        held: HeldAnswers | None = None,
        batches: Batches | None = None,
    ) -> None:
        """`on_suspect(accelerator, cause)` is told of errors that speak against a lane; `held` verifies answers."""
        self._held = held
        self.batches = batches or Batches(clock, {})
        self.sizes = CallSizes()
        self._table = table
        self._clock = clock
        self.heard_s = clock.monotonic_s()  # when the supervisor was at work last, with or without a new table
        self._on_suspect = on_suspect
        self._lock = threading.Lock()
        self._in_flight: set[Job] = set()
        self._waiting: list[Job] = []
        self._tickets = 0
        self._service_s = 0.05
        self.meters: dict[str, Meter] = {}
        self.newer: Callable[[str], str] = lambda _: ""  # what settings changed since the start say of a model
        self.split_meter = split_meter or SplitMeter()
        self.counters = {"refused": 0, "replayed": 0, "expired": 0, "rejected_input": 0, "forms_evicted": 0}
        self.costly = CostlyRequests(self.sizes, table, self.counters)

    # ------------------------------------------------------------------ requests

    def infer(self, request: InferenceRequest) -> Future[InferenceAnswer]:
        """Accept a request or fail its future with a RequestError."""
        future: Promise[InferenceAnswer] = Promise(self._dropped)
        try:
            job = future.key = self._admit(request, future)
        except QeilError as error:
            future.set_exception(error)
            return future
        self._attempt(job)
        return future

    def _admit(self, request: InferenceRequest, future: Promise[InferenceAnswer]) -> Job:
        table, model = self._table, self.routes(request.model)
        if model.metadata.inputs or model.routes:
            verdict = input_guard.screen(request.inputs, model.metadata.inputs, table.policy.admission)
            if not verdict.allow:
                self.counters["rejected_input"] += 1
                raise BadInput(f"model {request.model!r}: {verdict.sentence}", code=verdict.code)
        request_checks.check(request, model)
        limits = table.policy.admission
        share = model.derate_share
        now_s = self._clock.monotonic_s()
        given_s = admission.deadline_s(request.deadline_s, limits)
        self.costly.check(request, now_s)
        scale = self.sizes.scale(request, model, given_s, now_s)
        with self._lock:
            load = admission.Load(table.mode, len(self._in_flight), share, self._service_s, model.back_s)
            decision = admission.decide(load, limits)
            if not decision.admit:
                self.counters["refused"] += 1
                told = model.metadata.reason if decision.reason == "no_capacity" else None
                raise Overloaded(decision.sentence + (f": {told}" if told else ""), decision.retry_after_s)
            self._tickets += 1
            job = Job(request, future, self._tickets, now_s, now_s + given_s, table, scale)
            self._in_flight.add(job)
            if request.model not in self.meters:
                self.meters[request.model] = Meter()
        return job

    def routes(self, model: str) -> ModelRoutes:
        """The model's routes; NotFound names the nearest known model."""
        models = self._table.models
        if model not in models:
            raise request_checks.unknown(model, models, self.newer(model))
        return models[model]

    def metadata(self) -> tuple[ModelMetadata, ...]:
        """Every model of the table."""
        return tuple(m.metadata for m in self._table.models.values())

    # ------------------------------------------------------------------ attempts

    def _attempt(self, job: Job) -> None:
        table = self._table
        job.table = table
        model = table.models.get(job.request.model)
        now_s = self._clock.monotonic_s()
        if now_s >= job.deadline_s:
            self._fail(job, DeadlineExceeded(f"no answer within {job.deadline_s - job.started_s:g} s"))
            return
        if model is None:
            self._fail(job, NotFound(f"model {job.request.model!r} was removed"))
            return
        wanted = job.request.placement
        limit, left_s = table.policy.admission.max_queue_per_lane, job.deadline_s - now_s
        first = model.routes[0] if model.routes and wanted is None and not job.tried else None
        if first is not None and first.takes_all(limit, left_s, self.batches.waiting(first.lane)):
            self._submit(job, first)  # what `choose` would say, without asking the others
            return
        candidates = [
            routing.Route(r.accelerator, r.usable and r.alive(), r.capacity_share, queue, r.waits_s(queue))
            for r, queue in ((r, r.queue_length() + self.batches.waiting(r.lane)) for r in model.routes)
            if wanted in (None, r.accelerator)
        ]
        index = routing.choose(candidates, job.ticket, limit, job.tried, left_s)
        if index is None:
            self._wait_or_refuse(job, model, candidates)
            return
        accelerator = candidates[index].accelerator
        self._submit(job, next(r for r in model.routes if r.accelerator == accelerator))

    def _submit(self, job: Job, route: RouteEntry) -> None:
        asked, name = job.request, route.name or job.request.model
        fresh = job.last_error is None and not job.asked_again  # else its company may have died of it
        shares = fresh and not route.stages and self.batches.takes(asked, route.lane, name, route.report)
        if job.scale > 1.0:
            self.sizes.begin(job, route, self._clock.monotonic_s(), shares)
        if route.stages:
            self._submit_split(job, route)
            return
        job.progress = None
        try:
            if shares:
                reply = self.batches.submit(route.lane, name, asked, job.deadline_s, route.predicted_s or 0.0)
            else:
                reply = route.lane.submit(name, asked.inputs, asked.outputs, job.deadline_s)
        except QeilError as error:
            self._attempt_failed(job, route, error, route.accelerator)
            return
        self._watch(job, reply.cancel)
        if self._held is not None and not reply.done() and self._table.policy.recovery.release != "at_once":
            self._held.expect(route.accelerator, route.lane, name)
        reply.add_done_callback(lambda done: self._finished(job, route, done))

    def _submit_split(self, job: Job, route: RouteEntry) -> None:
        request = job.request
        kept = job.progress
        if kept is None or not resumable(kept, route):
            kept = Progress(route.split, request.inputs, scale=job.scale)
        job.progress = kept
        run = SplitRun(
            route, request.model, kept, request.outputs, job.deadline_s, self._clock, self.split_meter,
            lambda reply: self._made(job, route, reply),
            lambda accelerator, error: self._attempt_failed(job, route, error, accelerator),
        )  # fmt: skip
        self._watch(job, run.cancel)
        run.start()

    @staticmethod
    def _watch(job: Job, give_up: Callable[[], object]) -> None:
        job.give_up = give_up
        if job.future.done():
            give_up()

    def _finished(self, job: Job, route: RouteEntry, done: Future[LaneReply]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._made(job, route, done.result())
        else:
            known = error if isinstance(error, QeilError) else InferenceFailed(f"{type(error).__name__}: {error}")
            self._attempt_failed(job, route, known, route.accelerator)

    def _attempt_failed(self, job: Job, route: RouteEntry, error: QeilError, accelerator: str) -> None:
        """`accelerator` is the one at fault, of those that the placement needs."""
        if not isinstance(error, DeadlineExceeded):  # after which the lane may still be at it
            self.sizes.ended(job)
        if isinstance(error, NotLoaded) and self._table is not job.table:
            self._attempt(job)  # routed just before a swap: nobody is at fault
            return
        if isinstance(error, InputRefused) and refused_by_the_model(job.progress, route):
            self._fail(job, Unprocessable(error.message))
            return
        job.accused = part_of(route, accelerator, route.name or job.request.model)
        if self.costly.met(job, job.accused[1], accelerator, error):
            self._on_suspect(accelerator, error.message)
        replayable = isinstance(error, LaneDied | PermitExpired | Overloaded | InferenceFailed)
        if not replayable or job.replays >= self._table.policy.recovery.max_replays:
            self._fail_or_blame(job, error)
            return
        with self._lock:
            ran = not isinstance(error, PermitExpired)  # else nothing was begun that could be replayed
            job.replays += ran
            job.last_error = error
            job.tried.add(route.accelerator)
            self.counters["replayed"] += ran
        self._attempt(job)

    def _wait_or_refuse(self, job: Job, model: ModelRoutes, candidates: list[routing.Route]) -> None:
        """Wait while a placement is expected back; a full queue everywhere is refused at once."""
        full = any(c.usable and c.capacity_share > 0 and c.accelerator not in job.tried for c in candidates)
        if full:
            self._fail(job, Overloaded("every lane's queue is full (admission.max_queue_per_lane)", self._service_s))
            return
        waits = isinstance(job.last_error, LaneDied) or (
            isinstance(job.last_error, PermitExpired)
            and self._clock.monotonic_s() - self.heard_s < self._table.policy.recovery.permit_s
        )  # a supervisor that has stopped renews no permit
        if job.last_error is not None and not waits:
            self._fail_or_blame(job, job.last_error)
            return
        if model.expects(job.request.placement):
            with self._lock:
                job.tried.clear()
                self._waiting.append(job)
            return
        reason = model.why_not(job.request.placement)
        self._fail(job, Overloaded(f"model {job.request.model!r}: {reason}", model.retry_s))

    # ------------------------------------------------------------------ outcomes

    def _made(self, job: Job, route: RouteEntry, reply: LaneReply) -> None:
        """An answer is there; where the policy wants it verified, every lane that made it must pass a canary first."""
        if job.scale > 1.0:
            self.sizes.ended(job, reply.execute_s if reply.call_s is None else reply.call_s)
        if self._held is None or self._table.policy.recovery.release == "at_once":
            self._answer(job, route, reply)
            return
        self._verify(job, route, reply, parts_of(route, route.name or job.request.model))

    def _verify(self, job: Job, route: RouteEntry, reply: LaneReply, parts: list[Part]) -> None:
        assert self._held is not None  # noqa: S101  (the caller checked)
        if not parts:
            self._answer(job, route, reply)
            return
        (accelerator, lane, model), *rest = parts

        def redo(cause: str) -> None:
            job.progress = None
            self._attempt_failed(job, route, LaneDied(f"{accelerator}: {cause}"), accelerator)

        self._held.hold(accelerator, lane, model, Held(lambda: self._verify(job, route, reply, rest), redo))

    def _answer(self, job: Job, route: RouteEntry, reply: LaneReply) -> None:
        energy_j, provenance = reply.energy_j, reply.energy_provenance
        if energy_j is None:
            energy_j = route.modelled_energy_j(reply.execute_s, job.scale)
            provenance = "unknown" if energy_j is None else "modelled"
        answer = InferenceAnswer(
            outputs=reply.outputs, model=job.request.model, version=self._table.version(job.request.model),
            placement=route.accelerator, provider=route.provider,
            accelerated_fraction=route.report.accelerated_fraction, execute_s=reply.execute_s, energy_j=energy_j,
            provenance=provenance, policy_digest=job.table.policy_digest, replays=job.replays, together=reply.together,
        )  # fmt: skip
        self.costly.answered(job)
        if not self._settle(job, answer):
            return
        total_s = self._clock.monotonic_s() - job.started_s
        self.meters[job.request.model].answered(
            route.accelerator, total_s, reply.execute_s, energy_j, provenance, job.replays, reply.call_s
        )
        self._service_s += 0.1 * (total_s - self._service_s)
        _log.info(
            "request", id=job.request.request_id, model=job.request.model, status="ok", placement=route.accelerator,
            ms=round(total_s * 1e3, 3), execute_ms=round(reply.execute_s * 1e3, 3), replays=job.replays,
            energy_j=energy_j, provenance=provenance,
        )  # fmt: skip

    def _fail_or_blame(self, job: Job, error: QeilError) -> None:
        """Fail, but where a runtime refused an input, first ask its lane whether the input or the lane is to blame."""
        if self._held is None or not isinstance(error, InferenceFailed) or job.accused is None:
            self._fail(job, error)
            return
        accelerator, lane, model = job.accused
        if not self._held.can_ask(accelerator, model):
            self._fail(job, error)
            return

        def redo(cause: str) -> None:
            job.last_error = LaneDied(f"{accelerator}: {cause}")
            with self._lock:  # until the lane has been ended: now it would take the request once more
                job.tried.clear()
                self._waiting.append(job)

        def cleared() -> None:
            if job.asked_again:
                self._fail(job, Unprocessable(error.message))
                return
            job.asked_again, job.last_error = True, None  # a device may have been away for that one call
            job.tried.clear()
            self._attempt(job)

        self._held.hold(accelerator, lane, model, Held(cleared, redo))

    def _fail(self, job: Job, error: QeilError) -> None:
        model = self._table.models.get(job.request.model)
        refused_s = self.costly.failed(job, error, self._clock.monotonic_s())
        error = request_checks.lost(error, max(refused_s, 1.0 if model is None else model.retry_s))
        if isinstance(error, DeadlineExceeded):
            self.counters["expired"] += 1
        if job.replays:
            error.context["replays"] = job.replays  # for the request's line in the log, which whoever asked writes
        if self._settle(job, error):
            self.meters[job.request.model].failed()

    def _settle(self, job: Job, outcome: InferenceAnswer | QeilError) -> bool:
        """Set the outcome unless the client cancelled or it is already set; says which."""
        self._forget(job)
        job.future.key = job.give_up = None  # else the answer would live until the next collection
        try:
            if isinstance(outcome, QeilError):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
        except InvalidStateError:
            return False
        return True

    def _dropped(self, job: Job) -> None:
        """The client gave up."""
        self._forget(job)
        if job.give_up is not None:
            job.give_up()

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._in_flight.discard(job)

    # ------------------------------------------------------------------ supervisor's side

    def replace(self, table: RoutingTable) -> None:
        """Route by a new table from now on, and let waiting requests try again."""
        self._table, self.heard_s = table, self._clock.monotonic_s()
        self.batches.due(self.heard_s)
        self.costly.routed(table, self.heard_s)
        if not self._waiting:
            return
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for job in waiting:
            if not job.future.done():
                self._attempt(job)

    def in_flight(self) -> int:
        """Requests accepted and not answered."""
        return len(self._in_flight)

    def energies_j(self) -> dict[str, float]:
        """Energy of all answers so far, per model; unknown energies count as nothing and are labelled so elsewhere."""
        return {name: meter.read().total_energy_j for name, meter in list(self.meters.items())}

    def waiting(self) -> int:
        """Requests without a usable placement."""
        return len(self._waiting)

    def fail_all(self, error: BackendError | Overloaded) -> None:
        """Answer everything in flight with an error (last act of a shutdown)."""
        with self._lock:
            jobs = list(self._in_flight)
        for job in jobs:
            self._fail(job, error)
