"""Plan: for every model the candidate placements in the planner's order, with predictions. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from agent.ports import LoadSpec
from agent.schema.workload import Workload


@dataclass(frozen=True)
class Candidate:
    """One placement of a whole model on one accelerator. Energies are modelled; None where a coefficient is unknown."""

    accelerator: str
    load: LoadSpec
    predicted_s: float | None
    dynamic_j: float | None
    static_w: float | None

    @property
    def predicted_energy_j(self) -> float | None:
        """Joules of one inference at the predicted time."""
        if self.predicted_s is None or self.dynamic_j is None or self.static_w is None:
            return None
        return self.dynamic_j + self.static_w * self.predicted_s


@dataclass(frozen=True)
class ModelPlan:
    """One model. `candidates` is empty when nothing can run it; `reason` then says why."""

    name: str
    version: str
    digest: str
    workload: Workload | None
    candidates: tuple[Candidate, ...]
    rejected: tuple[tuple[str, str], ...] = ()
    """(accelerator, why it is no candidate)."""
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """All models under one policy."""

    policy_digest: str
    models: tuple[ModelPlan, ...]

    def model(self, name: str) -> ModelPlan | None:
        """The plan of that model, if there is one."""
        return next((m for m in self.models if m.name == name), None)
