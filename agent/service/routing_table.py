"""Routing table: the immutable view the dispatcher routes by, replaced whole by the supervisor."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.ports import Lane, LoadReport, ModelMetadata
from agent.schema.policy import Policy
from agent.schema.snapshot import Mode


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

    def modelled_energy_j(self, execute_s: float) -> float | None:
        """Switching energy of the model plus static power over the time it really took; None where unknown."""
        if self.dynamic_j is None or self.static_w is None:
            return None
        return self.dynamic_j + self.static_w * execute_s


@dataclass(frozen=True)
class ModelRoutes:
    """All placements of one model in the planner's order."""

    metadata: ModelMetadata
    routes: tuple[RouteEntry, ...]
    hopeful: bool
    """A placement may run now or is expected back shortly (its lane restarts); requests may wait for it."""


@dataclass(frozen=True)
class RoutingTable:
    """What the dispatcher knows."""

    mode: Mode
    policy: Policy
    policy_digest: str
    models: dict[str, ModelRoutes] = field(default_factory=dict)
