"""Planner: from models, profile and policy to a plan – which accelerators may run each model, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.errors import ModelLoadFailed, PlacementError
from agent.placement import candidates as placement
from agent.placement.candidates import whole_models
from agent.placement.state import State
from agent.ports import LoadSpec, Simulation
from agent.schema.policy import Policy
from agent.schema.settings import ModelEntry
from agent.service.artifacts import open_artifact, workload_of
from agent.service.board import HOST_RUNTIME, Board
from agent.service.plan import Candidate, ModelPlan, Plan

SIMULATED_RESISTANCE_K_PER_W = 4.0
SIMULATED_CAPACITY_J_PER_K = 30.0
SIMULATED_AMBIENT_C = 25.0


class Planner:
    """Stateless but for the cache folder; every call reads the model files again by digest."""

    def __init__(self, board: Board, cache_dir: Path | None) -> None:
        self._board = board
        self._cache_dir = cache_dir

    def plan(
        self,
        policy: Policy,
        digest: str,
        models: Sequence[ModelEntry],
        temperatures_c: Mapping[str, float] | None = None,
    ) -> Plan:
        """A plan for all models; a model that cannot be read or placed is in it with its reason."""
        return Plan(digest, tuple(self.plan_model(policy, entry, temperatures_c or {}) for entry in models))

    def plan_model(self, policy: Policy, entry: ModelEntry, temperatures_c: Mapping[str, float]) -> ModelPlan:
        """One model."""
        try:
            artifact = open_artifact(entry.path)
            workload = workload_of(artifact, entry.name, self._cache_dir)
        except ModelLoadFailed as error:
            return ModelPlan(entry.name, entry.version, "", None, (), (), error.message)
        try:
            found, rejected = whole_models(workload, self._board.profile, policy, State(temperatures_c=temperatures_c))
        except PlacementError as error:
            return ModelPlan(entry.name, entry.version, artifact.digest, workload, (), (), error.message)
        candidates = [self._candidate(c, entry, artifact.format) for c in found]
        reason = None if candidates else "; ".join(f"{name}: {why}" for name, why in rejected)
        return ModelPlan(
            entry.name, entry.version, artifact.digest, workload, tuple(candidates), tuple(rejected), reason
        )

    def _candidate(self, chosen: placement.Candidate, entry: ModelEntry, format_: str) -> Candidate:
        accelerator, runtime, cost = chosen.accelerator, chosen.runtime, chosen.cost
        simulation = None
        if accelerator.name in self._board.simulated:
            runtime = HOST_RUNTIME["onnx" if format_ == "onnx" else "litert"]
            simulation = Simulation(
                cost.time_s, cost.energy_j or 0.0, cost.static_w or 0.0, SIMULATED_RESISTANCE_K_PER_W,
                SIMULATED_CAPACITY_J_PER_K, SIMULATED_AMBIENT_C,
            )  # fmt: skip
        load = LoadSpec(
            model=entry.name, path=entry.path, format="onnx" if format_ == "onnx" else "tflite", runtime=runtime,
            threads=runtime.threads or self._board.threads(accelerator), simulation=simulation,
        )  # fmt: skip
        return Candidate(accelerator.name, load, cost.time_s, cost.switching_j, cost.static_w)
