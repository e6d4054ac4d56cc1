"""Planner: from models, profile and policy to a plan – which accelerators may run each model, in which order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agent.control.model_guard import ModelFacts
from agent.errors import ModelLoadFailed, PlacementError
from agent.placement import candidates as placement
from agent.placement.candidates import whole_models
from agent.placement.limits import Constraints
from agent.placement.ranking import objectives
from agent.placement.selection import Incumbent, select
from agent.placement.state import State
from agent.placement.variants import Chosen, below_floor, best_per_accelerator
from agent.ports import LoadSpec, Simulation
from agent.records import record
from agent.schema.device import Runtime
from agent.schema.policy import Policy
from agent.schema.settings import ModelEntry
from agent.schema.workload import Workload
from agent.service.board import Board, host_runtime
from agent.service.planning.holdings import Holdings
from agent.service.planning.kept import APART_BYTES, workload_bytes
from agent.service.planning.plan import Candidate, ModelPlan, Plan
from agent.service.planning.stage_planner import StagePlanner
from agent.service.serving.admitted import Admitted, Weights, stamp_of, weights_of
from agent.service.serving.artifacts import Artifact, check_guard, facts_of, open_artifact, read_once, workload_of
from agent.service.serving.weights_apart import WeightsApart

SIMULATED_RESISTANCE_K_PER_W = 4.0
SIMULATED_CAPACITY_J_PER_K = 30.0
SIMULATED_AMBIENT_C = 25.0
CPU_PROVIDER = "CPUExecutionProvider"
RANDOM = frozenset({
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
    "RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL",
})  # fmt: skip
"""Operators of ONNX and TFLite graphs that draw."""


@record(frozen=True)
class _File:
    """One file of a model, read."""

    artifact: Artifact
    workload: Workload
    quality: float | None
    admitted: Admitted | None = None


class Planner:
    """Reads the model files again by digest at every call; keeps the fronts of its re-plans. One thread at a time."""

    def __init__(
        self, board: Board, cache_dir: Path | None, clock: Callable[[], float] = time.monotonic,
        apart_bytes: int = APART_BYTES,
    ) -> None:  # fmt: skip
        """`clock` gives monotonic seconds; apart_bytes: disk for weights kept apart from their files."""
        self._board = board
        self._cache_dir = cache_dir
        self._apart = WeightsApart(cache_dir.parent / "apart", apart_bytes) if cache_dir is not None else None
        self._stages = StagePlanner(board.profile, clock)
        self._weights: dict[Path, Weights] = {}

    def plan(
        self,
        policy: Policy,
        digest: str,
        models: Sequence[ModelEntry],
        state: State | None = None,
        running: Plan | None = None,
    ) -> Plan:
        """A plan for all models; a model that cannot be read or placed is in it with its reason.

        Models are planned in turn, those that run first, each against the memory that the others leave.

        state: the board now; accelerators that are lost stand behind all others, so that a model is loaded elsewhere
        and is at home again when they are back. running: the plan in force, from which a re-plan starts: what serves a
        model goes on doing so unless another placement is worth the change.
        """
        now = state or State()
        made = self._in_turn(policy, models, now, running)
        if now.free_bytes and any(not m.candidates and m.workload is not None for m in made):
            idle = self._in_turn(policy, models, replace(now, free_bytes={}), running)
            pairs = zip(made, idle, strict=True)
            made = tuple(replace(m, awaits_room=not m.candidates and bool(i.candidates)) for m, i in pairs)
        plan = Plan(digest, made)
        if self._apart is not None:
            inside = [*plan.models, *(running.models if running else ())]
            loaded = [c.load.path.parent.name for m in inside for c in m.candidates]
            self._apart.keep_only([*(m.digest for m in inside), *loaded])
        return plan

    def _in_turn(
        self, policy: Policy, models: Sequence[ModelEntry], state: State, running: Plan | None
    ) -> tuple[ModelPlan, ...]:
        holdings = Holdings(self._board.profile, policy, state)
        made: dict[int, ModelPlan] = {}
        for at in sorted(range(len(models)), key=lambda at: not _runs(models[at], running)):
            entry = models[at]
            model = self.plan_model(policy, entry, holdings.left, running)
            if not model.candidates and model.workload is not None and holdings.beside():
                alone = self.plan_model(policy, entry, state, running)
                if alone.candidates:
                    model = replace(model, reason=f"no room beside {holdings.beside()}: {model.reason}")
            holdings.take(model)
            made[at] = model
        return holdings.settled([made[at] for at in range(len(models))])

    def plan_model(self, policy: Policy, entry: ModelEntry, state: State, running: Plan | None = None) -> ModelPlan:
        """One model. Of its variants, each accelerator gets the best one that the policy's quality floor admits."""
        try:
            own = self._read(policy, entry.name, entry.path, entry.quality)
            artifact, workload = own.artifact, own.workload
        except ModelLoadFailed as error:
            return ModelPlan(entry.name, entry.version, "", None, (), (), error.message)
        before = running.model(entry.name) if running is not None else None
        files, unusable = self._files(policy, entry, own)
        try:
            found, rejected = self._found(files, policy, state, before)
        except PlacementError as error:
            return ModelPlan(entry.name, entry.version, artifact.digest, workload, (), (), error.message)
        names = {c.accelerator.name: variant for variant, c in found}
        times_s = {a: s for (digest, a), s in state.times_s.items() if digest == artifact.digest and not names.get(a)}
        order = ordered([c for _, c in found], policy, state, before, times_s)
        candidates = [self._candidate(c, files[names[c.accelerator.name]], names, entry.name, before) for c in order]
        reason = None if candidates else "; ".join(f"{name}: {why}" for name, why in rejected)
        stages = None
        if before is not None and candidates:
            labels = [c.accelerator for c in (*before.candidates, *candidates)]
            stages = self._stages.replan(workload, policy, state, list(dict.fromkeys(labels)))
        rejected = [*rejected, *((f"variant {name}", why) for name, why in unusable.items())]
        return ModelPlan(
            entry.name, entry.version, artifact.digest, workload, tuple(candidates), tuple(rejected), reason, stages
        )

    def _read(self, policy: Policy, model: str, path: Path, quality: float | None) -> _File:
        """ModelLoadFailed with the reason where a file cannot be read or the policy's guard refuses it."""
        artifact = open_artifact(path)
        if self._cache_dir is not None and self._apart is not None:
            read_once(artifact, self._cache_dir, self._apart.folder_for(artifact))
        check_guard(artifact, policy.guard.models, self._cache_dir)
        workload = workload_of(artifact, model, self._cache_dir)
        if artifact.stamp is None:
            return _File(artifact, workload, quality)
        facts = None if self._cache_dir is None else facts_of(artifact, self._cache_dir)
        weights = weights_of(path, (name for name, _ in facts.beside), self._weights) if facts is not None else ()
        if stamp_of(path) != artifact.stamp:
            raise ModelLoadFailed(f"{path} changed while it was read; again with qeil models load {model}")
        draws = "" if facts is None else _draws(facts)
        return _File(artifact, workload, quality, Admitted(path, artifact.digest, artifact.stamp, draws, weights))

    def _files(self, policy: Policy, entry: ModelEntry, own: _File) -> tuple[dict[str, _File], dict[str, str]]:
        """The files that may serve, by variant, and why the others may not."""
        files = {"": own}
        qualities = {"": entry.quality, **{v.name: v.quality for v in entry.variants}}
        unusable = below_floor(qualities, policy.quality_floor)
        for variant in entry.variants:
            if variant.name in unusable:
                continue
            try:
                file = self._read(policy, entry.name, variant.path, variant.quality)
            except ModelLoadFailed as error:
                unusable[variant.name] = error.message
                continue
            differs = _differs(own.workload, file.workload)
            if differs is not None:
                unusable[variant.name] = differs
            else:
                files[variant.name] = file
        return files, unusable

    def _found(
        self, files: Mapping[str, _File], policy: Policy, state: State, before: ModelPlan | None
    ) -> tuple[list[Chosen], list[tuple[str, str]]]:
        """Variant and placement on each accelerator that may run one, best first; why the others may not."""
        profile, whole = self._board.profile, replace(state, lost=frozenset())
        found: dict[str, list[placement.Candidate]] = {}
        reasons: dict[str, str] = {}
        for name, file in files.items():
            found[name], refused = whole_models(file.workload, profile, policy, whole)
            if not found[name] and before is not None and before.candidates:
                # It holds its memory already; what others took since is no reason to stop it.
                found[name], refused = whole_models(file.workload, profile, policy, replace(whole, free_bytes={}))
            reasons = dict(refused) | reasons  # what is said of the model file comes first
        held = {c.accelerator: c.variant for c in before.candidates} if before is not None else {}
        chosen = best_per_accelerator(found, policy, held) if len(files) > 1 else [("", c) for c in found[""]]
        names = {c.accelerator.name for _, c in chosen}
        return chosen, [(name, why) for name, why in reasons.items() if name not in names]

    def _candidate(
        self, chosen: placement.Candidate, file: _File, variants: Mapping[str, str], model: str,
        before: ModelPlan | None,
    ) -> Candidate:  # fmt: skip
        accelerator, runtime, cost, artifact = chosen.accelerator, chosen.runtime, chosen.cost, file.artifact
        variant = variants[accelerator.name]
        name = f"{model}@{artifact.digest[:12]}" if variant else lane_name(model, artifact.digest, before)
        simulation = None
        if accelerator.name in self._board.simulated:
            runtime = host_runtime(artifact.format)
            simulation = Simulation(
                cost.time_s, cost.energy_j or 0.0, cost.static_w or 0.0, SIMULATED_RESISTANCE_K_PER_W,
                SIMULATED_CAPACITY_J_PER_K, SIMULATED_AMBIENT_C,
            )  # fmt: skip
        load = LoadSpec(
            model=name, path=self._path(artifact, runtime), format=artifact.format, runtime=runtime,
            threads=runtime.threads or self._board.threads(accelerator), simulation=simulation, source=artifact.path,
        )  # fmt: skip
        return Candidate(
            accelerator.name, load, cost.time_s, cost.switching_j, cost.static_w, variant=variant, quality=file.quality,
            held_bytes=workload_bytes(file.workload) if variant else None, admitted=file.admitted,
        )  # fmt: skip

    def _path(self, artifact: Artifact, runtime: Runtime) -> Path:
        """What is loaded: the runtime's own CPU provider maps weights that lie apart, of others nobody knows."""
        if self._apart is None or runtime.provider != CPU_PROVIDER:
            return artifact.path
        return self._apart.path_of(artifact.digest, artifact.path)


def _draws(facts: ModelFacts) -> str:
    return min((name for _, name in facts.operators if name in RANDOM), default="")


def lane_name(model: str, digest: str, before: ModelPlan | None) -> str:
    """What lanes call this version of a model: another file gets another name, so that it is loaded beside the old."""
    if before is None or not before.candidates:
        return model
    own = next((c for c in before.candidates if not c.variant), None)
    if before.digest == digest:
        return own.load.model if own is not None else model
    return f"{model}@{digest.rpartition(':')[2][:12]}"


def _differs(own: Workload, other: Workload) -> str | None:
    """What keeps a file from standing in for the model file: other inputs or outputs."""
    for what, ours, theirs in (("input", own.inputs, other.inputs), ("output", own.outputs, other.outputs)):
        if {(s.name, s.datatype) for s in ours} != {(s.name, s.datatype) for s in theirs}:
            return f"its {what}s are not those of the model file"
    return None


def _runs(entry: ModelEntry, running: Plan | None) -> bool:
    before = running.model(entry.name) if running is not None else None
    return before is not None and bool(before.candidates)


def ordered(
    found: Sequence[placement.Candidate], policy: Policy, state: State, before: ModelPlan | None,
    times_s: Mapping[str, float] | None = None,
) -> list[placement.Candidate]:  # fmt: skip
    """Best first, whoever is lost behind all others; the first one before stays first where that costs little.

    times_s: what a call takes on an accelerator as measured; it decides instead of what is predicted.
    """
    predicted = {c.accelerator.name: c for c in found}
    best_first = placement.as_measured(found, times_s or {}, policy)
    alive = [c for c in best_first if c.accelerator.name not in state.lost]
    lost = [c for c in best_first if c.accelerator.name in state.lost]
    serving = before.candidates[0].accelerator if before is not None and before.candidates else None
    at = next((i for i, c in enumerate(alive) if c.accelerator.name == serving), None)
    if at and _stays(alive[at], alive[0], policy):
        alive.insert(0, alive.pop(at))
    return [predicted[c.accelerator.name] for c in alive + lost]


def _stays(serving: placement.Candidate, best: placement.Candidate, policy: Policy) -> bool:
    rows = objectives(placement.options([best, serving]))
    first, own = rows[0].tolist(), rows[1].tolist()
    deadline_s = policy.admission.default_deadline_s
    # Where even the best one is late, a deadline separates nothing.
    limits = Constraints(deadline_s=deadline_s) if first[1] <= deadline_s else None
    return select([first], policy.objective, limits, Incumbent((own[0], own[1], own[2]))).index is None
