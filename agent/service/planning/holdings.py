"""Holdings: memory that the placements of a plan take, so that models are planned in turn against what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.placement.candidates import room_bytes
from agent.placement.state import State
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.service.planning.kept import KEPT, workload_bytes
from agent.service.planning.plan import Candidate, ModelPlan


class Holdings:
    """What is left of a board's memory while a plan is made. A split counts as the whole model in each of its memories,
    which is more than it takes."""

    def __init__(self, profile: DeviceProfile, policy: Policy, state: State) -> None:
        self._profile = profile
        self._policy = policy
        self.left = state
        self._names: list[str] = []
        self._staying: set[str] = set()

    def take(self, model: ModelPlan) -> None:
        """The placement that the model is served from holds its memory from here on.

        One that does not fit runs already and goes on, with its standby, whatever others took since.
        """
        if model.candidates:
            if not self._fits(model, model.candidates[0]):
                self._staying.add(model.name)
            self._hold(model, model.candidates[0])
            self._names.append(model.name)

    def beside(self) -> str:
        """`a, b`: the models that hold memory; empty where none does."""
        return ", ".join(self._names)

    def settled(self, models: Sequence[ModelPlan]) -> tuple[ModelPlan, ...]:
        """The models with those of their standby placements that still fit beside everything that serves.

        Of the others each has its reason; a placement that is not kept loaded holds nothing and stays.
        """
        return tuple(m if m.name in self._staying else self._with_standby(m) for m in models)

    def _with_standby(self, model: ModelPlan) -> ModelPlan:
        loaded, kept, refused = 1, list(model.candidates[:1]), []
        for candidate in model.candidates[1:]:
            if loaded >= KEPT[self._policy.standby] and not candidate.kept:
                kept.append(candidate)
            elif self._fits(model, candidate):
                self._hold(model, candidate)
                kept.append(candidate)
                loaded += 1
            else:
                why = f"no room to keep it loaded as well, beside what serves {self.beside()}"
                refused.append((candidate.accelerator, why))
        if not refused:
            return model
        return replace(model, candidates=tuple(kept), rejected=(*model.rejected, *refused))

    def _fits(self, model: ModelPlan, candidate: Candidate) -> bool:
        """A lost accelerator loads nothing, so it needs no room now."""
        needed = self._needed(model, candidate)
        return all(bytes_ <= room_bytes(self._profile, d, self._policy, self.left) for d, bytes_ in needed.items())

    def _hold(self, model: ModelPlan, candidate: Candidate) -> None:
        free = dict(self.left.free_bytes)
        for domain, bytes_ in self._needed(model, candidate).items():
            memory = self._profile.memory_domain(domain)
            total = memory.capacity_bytes.value - memory.reserved_bytes.value
            free[domain] = max(0.0, min(total, free.get(domain, total)) - bytes_)
        self.left = replace(self.left, free_bytes=free)

    def _needed(self, model: ModelPlan, candidate: Candidate) -> dict[str, float]:
        held_bytes = candidate.held_bytes
        if held_bytes is None:
            if model.workload is None:
                return {}
            held_bytes = workload_bytes(model.workload)
        alive = [p.accelerator for p in candidate.pieces if p.accelerator not in self.left.lost]
        domains = {self._profile.accelerator(name).memory_domain for name in alive}
        return dict.fromkeys(sorted(domains), held_bytes)
