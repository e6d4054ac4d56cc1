"""Serving state: the plan in force, the plan being brought up, and what both mean for routing and status.

Owned by the supervisor's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import zip_longest
from typing import Any

from agent.control import fallback, lane_health
from agent.control.routing import LAST_RESORT
from agent.ports import LoadReport, ModelMetadata
from agent.records import record
from agent.runtimes import registry
from agent.runtimes.shipped import LITERT
from agent.schema.policy import Policy
from agent.schema.snapshot import Mode, ModelStatus, PlacementStatus
from agent.schema.workload import Workload
from agent.service.planning.kept import KEPT
from agent.service.planning.placed import Placed, placed, stage_statuses
from agent.service.planning.plan import Candidate, ModelPlan, Plan
from agent.service.serving.dispatcher import Dispatcher
from agent.service.serving.lane_keeper import LaneKeeper
from agent.service.serving.meter import MeterReading
from agent.service.serving.routing_table import ModelRoutes, RouteEntry, RoutingTable, StageRoute


@record(frozen=True)
class InForce:
    """A policy and the plan made under it."""

    policy: Policy
    digest: str
    plan: Plan


class ServingState:
    """See module."""

    def __init__(self, current: InForce, keepers: Mapping[str, LaneKeeper]) -> None:
        self.current = current
        self.pending: InForce | None = None
        self._has_rest = False
        self.others: Callable[[], tuple[ModelStatus, ...]] = tuple
        """Models that are placed and run elsewhere."""
        self.times_s: Callable[[], Mapping[tuple[str, str], float]] = dict
        """Time trials by model file and placement."""
        self._keepers = keepers
        self.place(current)

    # ------------------------------------------------------------------ bringing a plan up

    def place(self, wanted: InForce) -> None:
        """Load what the plan keeps loaded, what serves first. A refused candidate's place is taken by the next one."""
        kept = [self._kept(model, wanted.policy) for model in wanted.plan.models]
        for rank in zip_longest(*kept):
            for piece in (piece for candidate in rank if candidate is not None for piece in candidate.pieces):
                self._keepers[piece.accelerator].place(piece, wanted.policy.recovery)

    def _kept(self, model: ModelPlan, policy: Policy) -> tuple[Candidate, ...]:
        alive = [c for c in model.candidates if not self._refused(c)]
        most = KEPT[policy.standby]
        return (*alive[:most], *(c for c in alive[most:] if c.kept))

    def _refused(self, candidate: Candidate) -> bool:
        loaded = self._loaded(candidate)
        return loaded is not None and loaded.state == "refused"

    def _loaded(self, candidate: Candidate, workload: Workload | None = None) -> Placed | None:
        return placed(candidate, self._keepers, workload)

    def propose(self, wanted: InForce) -> None:
        """Begin to bring up a plan beside the current one; what only a plan that it overtakes wanted goes first."""
        overtaken, self.pending = self.pending, wanted
        if overtaken is not None:
            self._unload_all_but(self.current, wanted)
        for piece in (p for m in wanted.plan.models for c in m.candidates for p in c.pieces):
            self._keepers[piece.accelerator].readmit(piece)
        self.place(wanted)

    def commit_if_ready(self) -> InForce | None:
        """Swap to the pending plan once everything it keeps is loaded or refused; returns what was replaced.

        What only the replaced plan wanted stays loaded until `unload_rest`: requests are still routed by its table.
        """
        pending = self.pending
        if pending is None:
            return None
        self.place(pending)
        for model in pending.plan.models:
            for candidate in self._kept(model, pending.policy):
                loaded = self._loaded(candidate)
                if loaded is not None and loaded.state == "loading" and self._awaited(model, candidate):
                    return None
        previous, self.current, self.pending = self.current, pending, None
        self._has_rest = True
        return previous

    def _awaited(self, model: ModelPlan, candidate: Candidate) -> bool:
        """Whether a swap waits for that load: not on a lane that is down, unless the model would be without a home."""
        down = {"open", "stopped"}
        if not any(self._keepers[p.accelerator].health.phase in down for p in candidate.pieces):
            return True
        current = self.current.plan.model(model.name)
        return current is not None and self._served(current) and not self._served(model)

    def lost_models(self, wanted: InForce) -> list[str]:
        """Models that are served now and would not be under the wanted plan."""
        lost = []
        for model in self.current.plan.models:
            served = any(self._ready(c) for c in model.candidates)
            new = wanted.plan.model(model.name)
            if served and new is not None and all(self._refused(c) for c in new.candidates):
                lost.append(model.name)
        return lost

    def abandon(self) -> None:
        """Give the pending plan up; what only it wanted goes with `unload_rest`."""
        self.pending = None
        self._has_rest = True

    def unload_rest(self) -> None:
        """Unload what the plan in force does not want; call it once requests are routed by this state.

        Not while another plan is coming up: that one may want some of it.
        """
        if not self._has_rest or self.pending is not None:
            return
        self._has_rest = False
        self._unload_all_but(self.current)

    def _unload_all_but(self, *wanted: InForce) -> None:
        candidates = [c for w in wanted for m in w.plan.models for c in m.candidates]
        kept = {(p.accelerator, p.load.model) for c in candidates for p in c.pieces}
        for keeper in self._keepers.values():
            for name in list(keeper.models):
                if (keeper.name, name) not in kept:
                    keeper.remove(name)

    # ------------------------------------------------------------------ loads

    def loaded(self, keeper: LaneKeeper, model: str, report: LoadReport) -> fallback.FallbackVerdict:
        """Judge what the runtime reports against the policy; a refused one is unloaded again."""
        entry = keeper.models[model]
        policy = (self.pending or self.current).policy
        assignment = fallback.Assignment(report.requested, report.actual, report.accelerated_fraction)
        verdict = fallback.judge(assignment, policy.fallback)
        if verdict.outcome == "refuse":
            entry.state, entry.reason = "refused", verdict.sentence
            keeper.unload(model)
        else:
            entry.state, entry.report, entry.deaths_while_loading = "ready", report, 0
            entry.reason = verdict.sentence if verdict.outcome == "warn" else None
        return verdict

    def _ready(self, candidate: Candidate) -> bool:
        loaded = self._loaded(candidate)
        return loaded is not None and loaded.state == "ready"

    def total_models(self) -> int:
        """Models of the current plan, and those served elsewhere."""
        return len(self.current.plan.models) + len(self.others())

    def pending_models(self) -> int:
        """Models without a ready placement that still load somewhere."""
        pending = sum(1 for m in self.current.plan.models if not self._served(m) and self._loading(m))
        return pending + sum(m.state == "loading" for m in self.others())

    def unserved_models(self) -> int:
        """Models that nothing runs and nothing loads."""
        unserved = sum(1 for m in self.current.plan.models if not self._served(m) and not self._loading(m))
        return unserved + sum(m.state not in {"ready", "loading"} for m in self.others())

    def _served(self, model: ModelPlan) -> bool:
        return any(self._ready(c) for c in model.candidates)

    def _loading(self, model: ModelPlan) -> bool:
        states = [self._loaded(c) for c in model.candidates]
        return any(s is not None and s.state == "loading" for s in states)

    def longest_prediction_s(self, keeper: LaneKeeper) -> float | None:
        """Longest predicted call of the models on a lane, for its hang deadline."""
        known = [m.candidate.predicted_s for m in keeper.models.values() if m.candidate.predicted_s is not None]
        return max(known) if known else None

    # ------------------------------------------------------------------ views

    def table(self, mode: Mode, now_s: float) -> RoutingTable:
        """The routing table of this moment."""
        policy = self.current.policy
        best_share = max((k.verdict.capacity_share for k in self._keepers.values()), default=1.0) or 1.0
        late = {
            k.name for k in self._keepers.values() if k.overdue(policy.recovery, now_s, self.longest_prediction_s(k))
        }
        models = {m.name: self._routes(m, policy, best_share, late, now_s) for m in self.current.plan.models}
        return RoutingTable(mode, policy, self.current.digest, models)

    def _routes(
        self, model: ModelPlan, policy: Policy, best_share: float, late: Collection[str], now_s: float
    ) -> ModelRoutes:
        """`late`: accelerators whose call in progress takes far longer than those before."""
        routes = []
        hopeful = False
        away, absent = {}, dict(model.rejected)
        for candidate in model.candidates:
            keepers = [self._keepers[piece.accelerator] for piece in candidate.pieces]
            loaded = self._loaded(candidate, model.workload)
            permitted = all(k.verdict.permit for k in keepers)
            expected = loaded is not None and loaded.state != "refused" and permitted
            down = next((why for why in map(_away, keepers) if why), None)
            hopeful = hopeful or (expected and down is None)
            if down is not None and loaded is not None and loaded.state != "refused":
                away[candidate.accelerator] = down
            elif loaded is None or loaded.report is None:
                absent[candidate.accelerator] = _absent(loaded)
            lanes = [k.lane for k in keepers if k.lane is not None]
            if loaded is None or loaded.report is None or len(lanes) < len(keepers):
                continue
            ramps = [lane_health.capacity_share(k.health, policy.recovery, now_s) for k in keepers]
            shares = [k.verdict.capacity_share for k in keepers]
            routes.append(
                RouteEntry(
                    candidate.accelerator, lanes[0], loaded.report,
                    loaded.state == "ready" and min(ramps) > 0 and permitted,
                    LAST_RESORT if any(k.name in late for k in keepers)
                    else min(ramp * share for ramp, share in zip(ramps, shares, strict=True)) / best_share,
                    min(shares),
                    candidate.predicted_s, candidate.dynamic_j, candidate.static_w,
                    tuple(StageRoute(s, lane) for s, lane in zip(candidate.stages, lanes, strict=False)),
                    candidate.split, candidate.load.model,
                )
            )  # fmt: skip
        metadata = self._metadata(model, any(r.usable for r in routes))
        planned = None if model.workload is None else model.workload.open_elements
        back_s = 0.0 if any(r.usable for r in routes) else self._back_s(model, now_s)
        return ModelRoutes(metadata, tuple(routes), hopeful, away, absent, back_s, planned)

    def _back_s(self, model: ModelPlan, now_s: float) -> float:
        """When the first placement that was not refused has all its lanes back; 0 where none comes back by itself."""
        known = []
        for candidate in model.candidates:
            waits = [self._keepers[piece.accelerator].back_in_s(now_s) for piece in candidate.pieces]
            if not self._refused(candidate) and self._loaded(candidate) is not None:
                known += [max(found)] if len(found := [s for s in waits if s is not None]) == len(waits) else []
        return min(known, default=0.0)

    def _metadata(self, model: ModelPlan, ready: bool) -> ModelMetadata:
        everywhere = [self._loaded(c, model.workload) for c in model.candidates]
        reports = [s.report for s in everywhere if s is not None and s.report is not None]
        backend = next((b for c in model.candidates if (b := registry.of_format(c.load.format))), LITERT)
        inputs, outputs = (reports[0].inputs, reports[0].outputs) if reports else ((), ())
        return ModelMetadata(model.name, (model.version,), backend.platform, inputs, outputs, ready, self.reason(model))

    def reason(self, model: ModelPlan) -> str | None:
        """Why the model is not served, in one line; None while it is."""
        if self._served(model):
            return None
        if model.reason is not None:
            return model.reason
        if self._loading(model):
            return "still loading"
        reasons = [f"{c.accelerator}: {s.reason}" for c in model.candidates if (s := self._loaded(c)) and s.reason]
        return "; ".join(reasons) or "no placement is loaded"

    def model_statuses(self, dispatcher: Dispatcher, table: RoutingTable) -> tuple[ModelStatus, ...]:
        """What status shows of the models."""
        return (*(self._status(m, table.models[m.name], dispatcher) for m in self.current.plan.models), *self.others())

    def _status(self, model: ModelPlan, routes: ModelRoutes, dispatcher: Dispatcher) -> ModelStatus:
        meter = dispatcher.meters.get(model.name)
        reading = meter.read() if meter else MeterReading(0, 0, 0, None, None, None, "unknown", 0.0, {})
        chosen = next((r for r in routes.routes if r.usable), None)
        if chosen is not None:
            state = "ready"
        elif self._loading(model):
            state = "loading"
        else:
            state = "recovering" if routes.hopeful else "unavailable"
        return ModelStatus(
            name=model.name, state=state, requested=chosen.report.requested if chosen else "",
            actual=", ".join(chosen.report.actual) if chosen else "",
            accelerated_fraction=chosen.report.accelerated_fraction if chosen else None,
            placement=chosen.accelerator if chosen else None,
            p50_ms=_ms(reading.p50_s), p99_ms=_ms(reading.p99_s), energy_j=reading.energy_j,
            provenance=reading.provenance, requests=reading.requests, failed=reading.failed,
            replayed=reading.replayed, candidates=self._placements(model, reading, dispatcher),
            reason=self.reason(model) if chosen is None else None,
            variant=next((c.variant for c in model.candidates if chosen and c.accelerator == chosen.accelerator), ""),
        )  # fmt: skip

    def _placements(
        self, model: ModelPlan, reading: MeterReading, dispatcher: Dispatcher
    ) -> tuple[PlacementStatus, ...]:
        rows = []
        timed = self.times_s()
        for candidate in model.candidates:
            loaded = self._loaded(candidate)
            report = loaded.report if loaded else None
            measured = reading.by_accelerator.get(candidate.accelerator)
            rows.append(
                PlacementStatus(
                    accelerator=candidate.accelerator, state=loaded.state if loaded else "not loaded",
                    requested=", ".join(dict.fromkeys(p.load.runtime.provider for p in candidate.pieces)),
                    actual=", ".join(report.actual) if report else "",
                    accelerated_fraction=report.accelerated_fraction if report else None,
                    predicted_ms=_ms(candidate.predicted_s), predicted_energy_j=candidate.predicted_energy_j,
                    measured_p50_ms=_ms(measured[1]) if measured else None,
                    reason=loaded.reason if loaded else None, variant=candidate.variant, quality=candidate.quality,
                    **self._load_under_way(candidate),
                    timed_ms=None if candidate.variant else _ms(timed.get((model.digest, candidate.timed_as))),
                    stages=stage_statuses(
                        candidate, self._keepers, dispatcher.split_meter.stages(model.name, candidate.accelerator)
                    ),
                )
            )  # fmt: skip
        rows += [PlacementStatus(name, "rejected", "", "", None, None, None, None, why) for name, why in model.rejected]
        return tuple(rows)

    def _load_under_way(self, candidate: Candidate) -> dict[str, Any]:
        """Elapsed and expected time of the load that its pieces wait for longest."""
        found = [self._keepers[p.accelerator].progress(p.load.model) for p in candidate.pieces]
        loads = [load for load in found if load is not None]
        if not loads:
            return {}
        elapsed_s, told = max(loads, key=lambda load: load[0])
        return {
            "loading_s": elapsed_s, "expected_load_s": told.expected_s, "expected_load_provenance": told.provenance,
        }  # fmt: skip


def _away(keeper: LaneKeeper) -> str | None:
    """Why a lane runs nothing for a while; None where it runs or is expected back shortly."""
    if keeper.health.phase == "open":
        return f"quarantined ({keeper.health.last_fault or 'it failed again and again'})"
    if keeper.health.phase == "stopped":
        return "stopped"
    return None if keeper.verdict.permit else keeper.verdict.cause or "it holds no run permit"


def _absent(loaded: Placed | None) -> str:
    """Why a candidate has no route."""
    if loaded is None:
        return "the policy's standby keeps fewer placements loaded (standby: all keeps every one)"
    return loaded.reason or "still loading"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
