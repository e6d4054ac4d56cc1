"""Asked: what a statement about a choice says is asked again by the way that marks a placement, before it is made.

An explanation knows more placements than the front has, from searches for something else. Under a power cap, where what
is chosen need not lie on the front, a choice among those can differ from the one that is really marked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.errors import PlacementError
from agent.placement.choice import mark
from agent.placement.flips import Flip
from agent.placement.limits import Constraints
from agent.placement.problem import Problem
from agent.placement.ranking import Option
from agent.placement.wishes import Binding
from agent.schema.policy import Objective, Weights

Rows = NDArray[np.int8]


class Asked:
    """The placement that is marked under other wishes, among the same front [n, L]."""

    def __init__(
        self, problem: Problem, front: Rows, objective: Objective, limits: Constraints, chosen: str
    ) -> None:  # fmt: skip
        self._problem, self._front = problem, front
        self._objective, self._limits, self._chosen = objective, limits, chosen

    def flips(self, flips: Iterable[Flip]) -> Iterator[Flip]:
        """Those that change what is marked, with what is marked then; weights and limits only are asked about."""
        for flip in flips:
            capped = self._limits.power_cap_w is not None or flip.what == "power_cap_w"
            told = self._told(flip) if capped and flip.kind in ("weight", "tolerance", "constraint") else flip
            if told is not None:
                yield told

    def bindings(self, bindings: Iterable[Binding]) -> Iterator[Binding]:
        """Limits without which another placement is marked, with that one."""
        for binding in bindings:
            then = self._marked(self._objective, replace(self._limits, **{binding.limit: None}))
            if then is None or then.name == self._chosen:
                continue
            now = self._now()
            least = None if binding.least is None else self._told(binding.least)
            yield replace(
                binding,
                then=then.name,
                energy_j=_less(then, now),
                latency_s=then.latency_s - now.latency_s,
                least=least,
            )

    def _told(self, flip: Flip) -> Flip | None:
        holds = self._at(flip, flip.holds)
        if holds is None or holds.name != self._chosen:
            return None
        then = self._at(flip, flip.at)
        if then is None:
            return replace(flip, then=None, energy_j=None, latency_s=None) if flip.then is None else None
        if then.name == self._chosen:
            return None
        now = self._now()
        return replace(flip, then=then.name, energy_j=_less(then, now), latency_s=then.latency_s - now.latency_s)

    def _at(self, flip: Flip, value: float) -> Option | None:
        if flip.kind == "constraint":
            return self._marked(self._objective, replace(self._limits, **{flip.what: value}))
        if flip.kind == "tolerance":
            return self._marked(self._objective.model_copy(update={"tolerance": value}), self._limits)
        weights = self._objective.weights
        now = {} if weights is None else weights.model_dump()
        made = Weights.model_construct(**(now | {flip.what.rpartition(".")[2]: value}))
        return self._marked(self._objective.model_copy(update={"weights": made}), self._limits)

    def _marked(self, objective: Objective, limits: Constraints) -> Option | None:
        try:
            found = mark(self._problem, self._front, objective, limits)
        except PlacementError:
            return None
        energy_j, latency_s, unused = found.objectives
        return Option(name_of(self._problem, np.array(found.assignment, dtype=np.int8)), energy_j, latency_s, unused)

    def _now(self) -> Option:
        now = self._marked(self._objective, self._limits)
        if now is None:
            raise ValueError("nothing is marked under the present limits")
        return now


def _less(then: Option, now: Option) -> float | None:
    return None if then.energy_j is None or now.energy_j is None else then.energy_j - now.energy_j


def name_of(problem: Problem, row: Rows) -> str:
    """Runs of stages on one accelerator, as `gpu×3 → npu×9`; one accelerator alone is its name."""
    cuts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
    runs = [(problem.accelerators[int(row[a])], b - a) for a, b in itertools.pairwise(cuts)]
    return runs[0][0] if len(runs) == 1 else " → ".join(f"{name}×{count}" for name, count in runs)
