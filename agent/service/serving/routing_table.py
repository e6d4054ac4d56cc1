"""Routing table: the immutable view the dispatcher routes by, replaced whole by the supervisor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from math import prod

from agent.ports import Lane, LoadReport, ModelMetadata, Tensors
from agent.records import record
from agent.schema.policy import Policy
from agent.schema.snapshot import Mode
from agent.service.planning.plan import StageCandidate


@record(frozen=True)
class StageRoute:
    """One stage of a split model on its lane, where it goes by the name `stage.load.model`."""

    stage: StageCandidate
    lane: Lane

    def modelled_energy_j(self, execute_s: float, scale: float = 1.0) -> float | None:
        """As of a whole model."""
        return _energy_j(self.stage.dynamic_j, self.stage.static_w, execute_s, scale)


def _energy_j(dynamic_j: float | None, static_w: float | None, execute_s: float, scale: float) -> float | None:
    return None if dynamic_j is None or static_w is None else dynamic_j * scale + static_w * execute_s


@record(frozen=True)
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

    @cached_property
    def provider(self) -> str:
        """Of the runtime, as it says itself; of a split model, those of its stages."""
        return ", ".join(self.report.actual)

    def modelled_energy_j(self, execute_s: float, scale: float = 1.0) -> float | None:
        """Switching energy of the model plus static power over the time it really took; None where unknown.

        `scale`: the request's elements in units of the planned ones; the switching energy is taken to grow as they do.
        """
        if self.dynamic_j is None:
            return None
        return _energy_j(self.dynamic_j, self.static_w, execute_s, scale)

    def alive(self) -> bool:
        """Whether every lane it needs accepts calls."""
        return all(s.lane.alive() for s in self.stages) if self.stages else self.lane.alive()

    def takes_all(self, max_queue: int, left_s: float, waiting: int = 0) -> bool:
        """Whether a request with so much time may go there now, as `routing.choose` says where it is the first.

        `waiting`: requests on their way there that its lane does not count yet.
        """
        if not self.usable or self.capacity_share < 1.0:
            return False
        queue = self.queue_length() + waiting
        return queue < max_queue and self.waits_s(queue) < left_s and self.alive()

    def waits_s(self, queue: int) -> float:
        """Predicted time until so many calls are done there; 0 where nobody knows how long one takes."""
        return queue * (self.predicted_s or 0.0)

    def queue_length(self) -> int:
        """Calls that wait on the fullest lane it needs."""
        return max(s.lane.queue_length() for s in self.stages) if self.stages else self.lane.queue_length()


@record(frozen=True)
class ModelRoutes:
    """All placements of one model in the planner's order."""

    metadata: ModelMetadata
    routes: tuple[RouteEntry, ...]
    hopeful: bool
    """A placement may run now or is expected back shortly (its lane restarts); requests may wait for it."""
    away: Mapping[str, str] = field(default_factory=dict)
    """Placements that run nothing for a while, and why: nobody waits for them."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Placements that the model could have and is not loaded on, and why."""
    back_s: float = 0.0
    """Time until a placement is expected to serve; 0 while one does, or where none comes back by itself."""
    planned: int | None = None
    """Elements of the inputs with open dimensions that the predictions are for; None: one per open dimension."""

    @property
    def retry_s(self) -> float:
        """When it is worth coming back after a loss: at once where another placement serves."""
        return max(1.0, self.back_s)

    def expects(self, placement: str | None) -> bool:
        """Whether a request, perhaps for one placement only, may wait for one to come back."""
        return self.hopeful and placement not in self.away

    def why_not(self, placement: str | None) -> str:
        """Why nothing runs such a request now."""
        away = self.away.get(placement or "")
        if away is not None:
            return f"{placement}: {away}"
        return self.metadata.reason or "no accelerator may run it at the moment"

    @cached_property
    def _open(self) -> dict[str, int]:
        """Inputs with open dimensions, and the elements of each with one for every open dimension."""
        return {
            spec.name: prod(size for size in spec.shape if size >= 0)
            for spec in self.metadata.inputs
            if -1 in spec.shape
        }

    def scale(self, inputs: Tensors) -> float:
        """Elements of the inputs with open dimensions in units of the planned ones; 1 where none is open."""
        least = self._open
        if not least:
            return 1.0
        elements = 0
        for name in least:
            elements += inputs[name].size
        return elements / max(1, self.planned or sum(least.values()))

    @cached_property
    def derate_share(self) -> float:
        """Share of the admitted concurrency: the largest of the placements that may run."""
        return max((r.derate_share for r in self.routes if r.usable), default=1.0 if self.hopeful else 0.0)


@record(frozen=True)
class RoutingTable:
    """What the dispatcher knows."""

    mode: Mode
    policy: Policy
    policy_digest: str
    models: dict[str, ModelRoutes] = field(default_factory=dict)

    def version(self, model: str) -> str:
        """Of a model that is served; 1 where it was removed meanwhile."""
        return self.models[model].metadata.versions[-1] if model in self.models else "1"
