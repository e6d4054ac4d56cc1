"""Plan: for every model the candidate placements in the planner's order, with predictions. Data only."""

from __future__ import annotations

from agent.ports import LoadSpec
from agent.records import record
from agent.schema.workload import Workload
from agent.service.serving.admitted import Admitted


@record(frozen=True)
class Candidate:
    """One placement of a model. Energies are modelled; None where a coefficient is unknown.

    `stages` is empty for a whole model on one accelerator. A model that is split over several has one entry per stage;
    `accelerator` then is their names joined by +, and `split` says which cut of which file it is.
    """

    accelerator: str
    load: LoadSpec
    predicted_s: float | None
    dynamic_j: float | None
    static_w: float | None
    stages: tuple[StageCandidate, ...] = ()
    split: str = ""
    kept: bool = False
    """Loaded whatever the policy's standby: the settings name it."""
    variant: str = ""
    """Which file of the model; empty: the model file itself."""
    quality: float | None = None
    held_bytes: float | None = None
    """Memory that it takes; None: as the model's workload says."""
    admitted: Admitted | None = None
    """The model file, or the stage's, as the plan was made for it; None where nobody read it."""

    @property
    def pieces(self) -> tuple[Candidate, ...]:
        """What is loaded on lanes: the model itself, or each of its stages."""
        return self.stages or (self,)

    @property
    def timed_as(self) -> str:
        """Its name among measured times: another cut of the same accelerators has its own."""
        return f"{self.accelerator}/{self.split}" if self.stages else self.accelerator

    @property
    def predicted_energy_j(self) -> float | None:
        """Joules of one inference at the predicted time."""
        if self.predicted_s is None or self.dynamic_j is None or self.static_w is None:
            return None
        return self.dynamic_j + self.static_w * self.predicted_s


@record(frozen=True)
class StageCandidate(Candidate):
    """One stage of a split model. `given` and `answers` are the model's own inputs and outputs.

    receives: tensors of earlier stages; sends: tensors that later ones read; handover_s, crossing_bytes: predicted time
    and size of what arrives from the stage before, None where nobody knows.
    """

    given: tuple[str, ...] = ()
    receives: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    handover_s: float | None = None
    crossing_bytes: float | None = None


@record(frozen=True)
class StagePlacement:
    """The best placement of a model stage by stage, modelled: (stage, accelerator) in order, J, s.

    exact: proven to be on the front; planning_s: how long it took to find.
    """

    stages: tuple[tuple[str, str], ...]
    energy_j: float
    latency_s: float
    exact: bool
    planning_s: float


@record(frozen=True)
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
    stage_placement: StagePlacement | None = None
    """After a change: what would be best stage by stage, whatever the agent serves."""
    awaits_room: bool = False
    """It has no candidate because others hold the board's memory now, and would have one without them."""
    splits_refused: tuple[tuple[str, str], ...] = ()
    """(split that the settings name, why it is no candidate); those that are still to be cut are not among them."""


@record(frozen=True)
class Plan:
    """All models under one policy."""

    policy_digest: str
    models: tuple[ModelPlan, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(m.name for m in self.models)

    def model(self, name: str) -> ModelPlan | None:
        """The plan of that model, if there is one."""
        return next((m for m in self.models if m.name == name), None)
