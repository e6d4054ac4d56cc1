"""Split planner: adds to a plan the best split of each model where it is worth more than any whole placement.

Also those that the settings name. What a split's hand-overs really took replaces what was predicted of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.errors import ModelLoadFailed, PlacementError, StorageError
from agent.placement import split_points
from agent.placement.candidates import Candidate as Whole
from agent.placement.candidates import candidates as possible
from agent.placement.split_points import Part, SplitPoint, Timed
from agent.placement.state import State
from agent.placement.tables import Tables, make_tables
from agent.ports import LoadSpec, Simulation
from agent.schema.policy import Policy
from agent.schema.settings import ModelEntry
from agent.schema.workload import Workload
from agent.service.board import Board, host_runtime
from agent.service.planning.kept import APART_BYTES
from agent.service.planning.plan import Candidate, ModelPlan, Plan, StageCandidate
from agent.service.planning.planner import (
    SIMULATED_AMBIENT_C,
    SIMULATED_CAPACITY_J_PER_K,
    SIMULATED_RESISTANCE_K_PER_W,
    Planner,
)
from agent.service.planning.split_store import LATER, SplitStore, Stored
from agent.service.serving.artifacts import Artifact
from agent.service.serving.split_meter import Handover

MAX_TRIED = 3
"""Split points of one label that are cut until one keeps the bits."""
MAX_LOOKED_AT = 24
"""Split points of the front, of every label."""
MAX_OFFERED = 2
"""Labels, the best by prediction, that are loaded to be timed where the policy keeps every placement loaded."""

Handovers = Callable[[], Mapping[tuple[str, str], Handover]]


class SplitPlanner:
    """Owned by the planner's thread."""

    def __init__(self, board: Board, store: SplitStore, handovers: Handovers) -> None:
        """`handovers()` is what was measured between accelerators so far."""
        self._board = board
        self.store = store
        self._handovers = handovers

    def offer(
        self, model: ModelPlan, entry: ModelEntry, policy: Policy, state: State, before: ModelPlan | None
    ) -> ModelPlan:
        """The plan of the model with its split placements, where there are any."""
        workload = model.workload
        if workload is None or workload.format != "onnx" or len(workload.stages) < 2:
            return _refused(model, entry.splits, "a model of this kind is one stage")
        units = {a.silicon or a.name for a in self._board.profile.accelerators}
        if not entry.splits and len(units) < 2:
            return model  # within one piece of silicon only its owner may ask for one: no table need be made
        try:
            tables = self._corrected(make_tables(workload, self._board.profile, policy, state=state))
        except PlacementError as error:
            return _refused(model, entry.splits, error.message)
        case = _Case(self._board, self.store, model, entry, policy, workload, tables, state)
        if len(tables.problem.accelerators) < 2:
            return case.named(model)
        return case.as_timed(case.chosen(case.named(model), before), before)

    def prune(self, plan: Plan) -> None:
        """Forget stage models that no plan has used for long, as far as space is short."""
        used = [p.load.path for m in plan.models for c in m.candidates for p in c.stages]
        self.store.prune(used)

    def _corrected(self, tables: Tables) -> Tables:
        """The tables with hand-overs as they were measured: the difference to what was predicted then is added."""
        measured = self._handovers()
        problem = tables.problem
        names = problem.accelerators
        change = np.zeros((len(names), len(names)))
        for (source, target), seen in measured.items():
            if source in names and target in names:
                change[names.index(source), names.index(target)] = seen.measured_s - seen.predicted_s
        if not change.any():
            return tables
        transfer = np.maximum(0.0, problem.transfer_latency + change[None, :, :])
        return replace(tables, problem=replace(problem, transfer_latency=transfer))


class _Case:
    """One model under one policy on the board as it is."""

    def __init__(
        self, board: Board, store: SplitStore, model: ModelPlan, entry: ModelEntry, policy: Policy, workload: Workload,
        tables: Tables, state: State,
    ) -> None:  # fmt: skip
        self._board = board
        self._store = store
        self._entry = entry
        self._policy = policy
        self._tables = tables
        self._artifact = Artifact(entry.path, "onnx", model.digest)
        self._sizes = [s.output_bytes for s in workload.stages]
        found, rejected = possible(workload, board.profile, policy, state)
        self._why_not = dict(rejected)
        self._units: dict[str, Whole] = {c.accelerator.name: c for c in found}
        self._times_s = {name: s for (digest, name), s in state.times_s.items() if digest == model.digest}
        self._points: dict[str, SplitPoint] = {}

    def named(self, model: ModelPlan) -> ModelPlan:
        """With the splits that the settings name, behind what the planner prefers."""
        for label in self._entry.splits:
            names = tuple(label.split("+"))
            away = next((name for name in names if name in self._why_not), None)
            if away is not None:
                model = _refused(model, (label,), f"{away!r} does not run it: {self._why_not[away]}")
                continue
            try:
                points = split_points.along(self._tables, names, self._policy.objective, self._sizes, MAX_TRIED)
            except ValueError as error:
                model = _refused(model, (label,), str(error))
                continue
            if not points:
                model = _refused(model, (label,), "no way to cut it fits in memory")
                continue
            made, model = self._first(model, points)
            if made is not None:
                model = _with(model, replace(made, kept=True), first=False)
        return model

    def chosen(self, model: ModelPlan, before: ModelPlan | None) -> ModelPlan:
        """With the best split of the front: first where it is worth it, last where all placements are kept loaded."""
        policy = self._policy
        deadline_s = policy.admission.default_deadline_s
        try:
            points = split_points.best(self._tables, policy.objective, self._sizes, MAX_LOOKED_AT, deadline_s)
        except PlacementError:
            return model
        running = before.candidates[0].accelerator if before is not None and before.candidates else None
        wholes = [c.accelerator for c in model.candidates if not c.stages]
        first = [p for p in points if not wholes or self._beats(p, wholes[0], running)]
        if first:
            made, model = self._first(model, first[:MAX_TRIED])
            model = model if made is None else _with(model, made, first=True)
        if policy.standby != "all":
            return model
        there = {c.accelerator for c in model.candidates}
        labels = [label for label in dict.fromkeys(point.label for point in points) if label not in there]
        for label in labels[:MAX_OFFERED]:
            made, model = self._first(model, [p for p in points if p.label == label][:MAX_TRIED])
            model = model if made is None else _with(model, made, first=False)
        return model

    def as_timed(self, model: ModelPlan, before: ModelPlan | None) -> ModelPlan:
        """By measured times, where the best whole model and a split have one: who serves, whatever was predicted.

        Of goal throughput nothing is known: a time of one call is no period.
        """
        wholes = [c for c in model.candidates if not c.stages]
        whole_s = self._times_s.get(wholes[0].timed_as) if wholes else None
        splits = {c.accelerator: c for c in model.candidates if c.stages and c.timed_as in self._times_s}
        if whole_s is None or not splits or self._policy.objective.goal == "throughput":
            return model
        serving = before.candidates[0].accelerator if before is not None and before.candidates else None
        most_s = max(whole_s, self._policy.admission.default_deadline_s)
        timed = [
            Timed(self._points[c.timed_as], s) for c in splits.values() if (s := self._times_s[c.timed_as]) <= most_s
        ]
        static_w = {name: unit.cost.static_w or 0.0 for name, unit in self._units.items()}
        best = split_points.fastest_as_measured(
            wholes[0].accelerator, whole_s, timed, self._tables, static_w, self._policy.objective, serving
        )
        first = splits.get(best, wholes[0])
        behind = [c for c in splits.values() if c is not first and (c.kept or self._policy.standby == "all")]
        others = (c for c in model.candidates if c is not first and splits.get(c.accelerator) is not c)
        return replace(model, candidates=(first, *others, *behind))

    def _beats(self, point: SplitPoint, whole: str, running: str | None) -> bool:
        return split_points.beats(point, self._tables, whole, self._policy.objective, point.label == running)

    def _first(self, model: ModelPlan, points: Sequence[SplitPoint]) -> tuple[Candidate | None, ModelPlan]:
        """The first point whose cut keeps the bits, and the model with the reasons of those before it."""
        for point in points:
            try:
                after = tuple(part.end - 1 for part in point.parts[:-1])
                stored = self._store.get(self._artifact, 1, after=after)
            except (ModelLoadFailed, StorageError) as error:
                model = _refused(model, (point.label,), error.message)
                continue
            made = self._candidate(point, stored)
            self._points[made.timed_as] = point
            return made, model
        return None, model

    def _candidate(self, point: SplitPoint, stored: Stored) -> Candidate:
        files, count = stored.split.stages, len(point.parts)
        stages = []
        for index, (part, file) in enumerate(zip(point.parts, files, strict=True), 1):
            name = f"{self._entry.name}/{index}of{count}-{stored.key}"
            load = self._load(name, file.path, part)
            crossing = stored.split.checked.crossing_bytes if stored.split.checked is not None else ()
            static_w = self._units[part.accelerator].cost.static_w or 0.0
            stages.append(
                StageCandidate(
                    part.accelerator, load, part.time_s, max(0.0, part.energy_j - static_w * part.time_s), static_w,
                    given=file.given, receives=file.receives, sends=file.sends, answers=file.answers,
                    handover_s=part.handover_s if index > 1 else None,
                    crossing_bytes=float(crossing[index - 2]) if index > 1 and crossing else None,
                    admitted=stored.files[index - 1] if stored.files else None,
                )
            )  # fmt: skip
        whole = replace(stages[0].load, model=self._entry.name, path=self._entry.path, simulation=None)
        total_s = sum(part.time_s + part.handover_s for part in point.parts)
        total_j = sum(part.energy_j + part.handover_j for part in point.parts)
        return Candidate(point.label, whole, total_s, total_j, 0.0, tuple(stages), stored.key)

    def _load(self, name: str, path: Path, part: Part) -> LoadSpec:
        unit = self._units[part.accelerator]
        runtime, simulation = unit.runtime, None
        if part.accelerator in self._board.simulated:
            runtime = host_runtime("onnx")
            simulation = Simulation(
                part.time_s, part.energy_j, unit.cost.static_w or 0.0, SIMULATED_RESISTANCE_K_PER_W,
                SIMULATED_CAPACITY_J_PER_K, SIMULATED_AMBIENT_C,
            )  # fmt: skip
        threads = runtime.threads or self._board.threads(unit.accelerator)
        return LoadSpec(model=name, path=path, format="onnx", runtime=runtime, threads=threads, simulation=simulation)


class SplittingPlanner(Planner):
    """A planner whose plans may split models."""

    def __init__(
        self, board: Board, state_dir: Path, handovers: Handovers, apart_bytes: int = APART_BYTES
    ) -> None:  # fmt: skip
        """Caches and stage models lie in `state_dir`; apart_bytes: see Planner."""
        super().__init__(board, state_dir / "workloads", apart_bytes=apart_bytes)
        self._splits = SplitPlanner(board, SplitStore(state_dir / "splits"), handovers)

    def plan_uncut(
        self, policy: Policy, digest: str, models: Sequence[ModelEntry], state: State | None = None
    ) -> tuple[Plan, bool]:
        """A plan with the splits that were cut before, at once, and whether another one would have to cut some."""
        self._splits.store.cuts = False
        try:
            plan = self.plan(policy, digest, models, state)
        finally:
            self._splits.store.cuts = True
        return plan, any(why == LATER for model in plan.models for _, why in model.rejected)

    def plan(
        self, policy: Policy, digest: str, models: Sequence[ModelEntry], state: State | None = None,
        running: Plan | None = None,
    ) -> Plan:  # fmt: skip
        """As of Planner; stage models that no plan has used for long are forgotten."""
        plan = super().plan(policy, digest, models, state, running)
        self._splits.prune(plan)
        return plan

    def plan_model(self, policy: Policy, entry: ModelEntry, state: State, running: Plan | None = None) -> ModelPlan:
        """One model with its splits."""
        model = self._with_splits(policy, entry, state, running)
        if not entry.splits or not model.candidates:
            return model
        # No setting mends the loss of an accelerator, which has a condition of its own.
        lost = {label for label in entry.splits if not state.lost.isdisjoint(label.split("+"))}
        lacking = set(entry.splits) - {c.accelerator for c in model.candidates if c.stages} - lost
        refused = {label: why for label, why in model.rejected if label in lacking and why != LATER}
        return replace(model, splits_refused=tuple(refused.items()))

    def _with_splits(self, policy: Policy, entry: ModelEntry, state: State, running: Plan | None) -> ModelPlan:
        model = super().plan_model(policy, entry, state, running)
        if any(c.variant for c in model.candidates):
            return _refused(model, entry.splits, "stages are cut from the model file, and a variant of it serves here")
        before = running.model(entry.name) if running is not None else None
        return self._splits.offer(model, entry, policy, state, before)


def _with(model: ModelPlan, candidate: Candidate, first: bool) -> ModelPlan:
    """With one more candidate; one of the same name makes room where the new one comes first."""
    same = [c for c in model.candidates if c.accelerator == candidate.accelerator]
    if same and not first:
        return model
    others = [c for c in model.candidates if c.accelerator != candidate.accelerator]
    made = replace(candidate, kept=candidate.kept or any(c.kept for c in same))
    return replace(model, candidates=(made, *others) if first else (*others, made), reason=None)


def _refused(model: ModelPlan, labels: Sequence[str], why: str) -> ModelPlan:
    return replace(model, rejected=(*model.rejected, *((label, why) for label in labels)))
