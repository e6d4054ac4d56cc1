"""Routing table: the immutable view the dispatcher routes by, replaced whole by the supervisor."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from agent.ports import Lane, LoadReport, ModelMetadata
from agent.schema.policy import Policy
from agent.schema.snapshot import Mode
from agent.service.planning.plan import StageCandidate


@dataclass(frozen=True)
class StageRoute:
    """One stage of a split model on its lane, where it goes by the name `stage.load.model`."""

    stage: StageCandidate
    lane: Lane

    def modelled_energy_j(self, execute_s: float) -> float | None:
        """As of a whole model."""
        return _energy_j(self.stage.dynamic_j, self.stage.static_w, execute_s)


def _energy_j(dynamic_j: float | None, static_w: float | None, execute_s: float) -> float | None:
    return None if dynamic_j is None or static_w is None else dynamic_j + static_w * execute_s


@dataclass(frozen=True)
class RouteEntry:
    """One placement a request may take."""

    accelerator: str
    lane: Lane
    report: LoadReport
    usable: bool
    capacity_share: float
    """Share of the requests that are routed here first: below 1 while the lane ramps up or is hotter than others."""
    derate_share: float
    """Share of the admitted concurrency while the board is derated."""
    predicted_s: float | None
    dynamic_j: float | None
    static_w: float | None
    stages: tuple[StageRoute, ...] = ()
    """Of a split model, in order; `lane` is then that of the first."""
    split: str = ""
    name: str = ""
    """What the lane calls the model: its own name, or one with the file's digest where another version was there."""

    def modelled_energy_j(self, execute_s: float) -> float | None:
        """Switching energy of the model plus static power over the time it really took; None where unknown."""
        return _energy_j(self.dynamic_j, self.static_w, execute_s)

    def alive(self) -> bool:
        """Whether every lane it needs accepts calls."""
        return all(s.lane.alive() for s in self.stages) if self.stages else self.lane.alive()

    def takes_all(self, max_queue: int) -> bool:
        """Whether any request may go there now: `routing.choose` takes such a placement if it is the first."""
        return self.usable and self.capacity_share >= 1.0 and self.queue_length() < max_queue and self.alive()

    def queue_length(self) -> int:
        """Calls that wait on the fullest lane it needs."""
        return max(s.lane.queue_length() for s in self.stages) if self.stages else self.lane.queue_length()


@dataclass(frozen=True)
class ModelRoutes:
    """All placements of one model in the planner's order."""

    metadata: ModelMetadata
    routes: tuple[RouteEntry, ...]
    hopeful: bool
    """A placement may run now or is expected back shortly (its lane restarts); requests may wait for it."""

    @cached_property
    def derate_share(self) -> float:
        """Share of the admitted concurrency: the largest of the placements that may run."""
        return max((r.derate_share for r in self.routes if r.usable), default=1.0 if self.hopeful else 0.0)


@dataclass(frozen=True)
class RoutingTable:
    """What the dispatcher knows."""

    mode: Mode
    policy: Policy
    policy_digest: str
    models: dict[str, ModelRoutes] = field(default_factory=dict)
