"""Planner: from models, profile and policy to a plan – which accelerators may run each model, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import ModelLoadFailed
from agent.placement import costing
from agent.placement.ranking import Option, rank
from agent.placement.tables import forbidden
from agent.ports import LoadSpec, Simulation
from agent.schema.device import Accelerator, DeviceProfile, Runtime
from agent.schema.policy import Policy
from agent.schema.settings import ModelEntry
from agent.schema.workload import Workload
from agent.service.artifacts import open_artifact, workload_of
from agent.service.board import HOST_RUNTIME, Board
from agent.service.plan import Candidate, ModelPlan, Plan

SIMULATED_RESISTANCE_K_PER_W = 4.0
SIMULATED_CAPACITY_J_PER_K = 30.0
SIMULATED_AMBIENT_C = 25.0


@dataclass(frozen=True)
class _Costed:
    accelerator: Accelerator
    runtime: Runtime
    cost: costing.ModelCost


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
        costed, rejected = self._cost(policy, entry.name, workload, temperatures_c)
        options = [Option(c.accelerator.name, c.cost.energy_j, c.cost.time_s, c.cost.underutilisation) for c in costed]
        by_name = {c.accelerator.name: c for c in costed}
        ranked = rank(options, policy.objective)
        candidates = [self._candidate(by_name[o.name], entry, artifact.format) for o in ranked]
        reason = None if candidates else "; ".join(f"{name}: {why}" for name, why in rejected)
        return ModelPlan(
            entry.name, entry.version, artifact.digest, workload, tuple(candidates), tuple(rejected), reason
        )

    def _cost(
        self, policy: Policy, name: str, workload: Workload, temperatures_c: Mapping[str, float]
    ) -> tuple[list[_Costed], list[tuple[str, str]]]:
        costed: list[_Costed] = []
        rejected: list[tuple[str, str]] = []
        operators = sorted({op for stage in workload.stages for op in stage.operators})
        for accelerator in self._board.profile.accelerators:
            why = forbidden(policy, name, accelerator.name) or costing.cannot_compute(workload, accelerator)
            runtime: Runtime | str = why or costing.choose_runtime(accelerator, workload.format, operators)
            if isinstance(runtime, str):
                rejected.append((accelerator.name, runtime))
                continue
            temperature_c = temperatures_c.get(accelerator.name, costing.REFERENCE_TEMPERATURE_C)
            cost = costing.model_cost(workload, self._board.profile, accelerator, runtime, temperature_c)
            problem = _violates(policy, cost, accelerator, self._board.profile)
            if problem is not None:
                rejected.append((accelerator.name, problem))
            else:
                costed.append(_Costed(accelerator, runtime, cost))
        return costed, rejected

    def _candidate(self, chosen: _Costed, entry: ModelEntry, format_: str) -> Candidate:
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


def _violates(policy: Policy, cost: costing.ModelCost, accelerator: Accelerator, profile: DeviceProfile) -> str | None:
    domain = profile.memory_domain(accelerator.memory_domain)
    ratio = costing.occupancy(cost.held_bytes, domain)
    if ratio > policy.memory.max_cpq:
        return f"needs {ratio:.0%} of {domain.name} (memory.max_cpq allows {policy.memory.max_cpq:.0%})"
    if policy.power_cap_w is not None and cost.energy_j is not None and cost.time_s > 0:
        mean_w = cost.energy_j / cost.time_s
        if mean_w > policy.power_cap_w:
            return f"draws {mean_w:.1f} W modelled (power_cap_w allows {policy.power_cap_w:g} W)"
    return None
