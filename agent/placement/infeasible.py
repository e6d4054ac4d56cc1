"""Says why nothing fits: a feasible assignment, or proof that there is none, what binds, and the smallest relaxation.

Only memory can make a problem infeasible once every stage has an allowed accelerator. Partial assignments are
vectors of memory used by domain; of two, the one that uses nowhere more stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.errors import PlacementError
from agent.placement.pareto import nondominated
from agent.placement.problem import Floats, Problem

_WIDTH = 2000
"""Partial assignments kept after each stage; when more survive, the search is no longer a proof."""
_NARROW = 32
"""Kept in the first attempt, which takes milliseconds and nearly always succeeds where anything fits."""
_HALVINGS = 30


@dataclass(frozen=True)
class Diagnosis:
    """Why nothing fits. `relaxation_bytes` more in `domain` would do; None when no single domain can mend it.

    `capacity_factor` is by how much all capacities together would have to grow. `proven` is false when the search
    was too large to be exhaustive: then a smaller relaxation may exist.
    """

    domain: int | None
    accelerators: tuple[str, ...]
    relaxation_bytes: float | None
    capacity_factor: float
    proven: bool

    def error(self) -> PlacementError:
        """The one sentence a user sees, as the error to raise."""
        known = "" if self.proven else " (or less: the search was cut short)"
        if self.domain is None or self.relaxation_bytes is None:
            text = (
                "no placement fits: memory is short in several domains at once; "
                f"all capacities × {self.capacity_factor:.4g} would do{known}"
            )
        else:
            text = (
                f"no placement fits: memory of {', '.join(self.accelerators)} (domain {self.domain}) binds; "
                f"{self.relaxation_bytes:.6g} bytes more there would do{known}"
            )
        return PlacementError(
            text,
            domain=self.domain,
            relaxation_bytes=self.relaxation_bytes,
            capacity_factor=self.capacity_factor,
            proven=self.proven,
        )


def feasible_assignment(problem: Problem) -> NDArray[np.int8] | None:
    """An assignment [L] that fits every memory domain, or None when none was found."""
    row, _ = _fit(problem, problem.capacity, width=_NARROW)
    return row if row is not None else _fit(problem, problem.capacity)[0]


def diagnose(problem: Problem) -> Diagnosis:
    """What binds in a problem for which `feasible_assignment` found nothing."""
    proven = True
    needs: list[tuple[float, int]] = []
    for domain in range(len(problem.capacity)):
        lifted = problem.capacity.copy()
        lifted[domain] = np.inf
        row, sure = _fit(problem, lifted, least=domain)
        proven &= sure
        if row is not None:
            needs.append((float(problem.memory_used(row)[0, domain] - problem.capacity[domain]), domain))
    factor = _common_factor(problem)
    if not needs:
        return Diagnosis(None, problem.accelerators, None, factor, proven)
    short, domain = min(needs)
    names = tuple(problem.accelerators[d] for d in np.flatnonzero(problem.domain == domain))
    return Diagnosis(domain, names, short, factor, proven)


def _common_factor(problem: Problem) -> float:
    """Smallest factor on all capacities that lets something fit, to nine digits; infinite where capacity is 0."""
    low, high = 1.0, 2.0
    while _fit(problem, problem.capacity * high)[0] is None:
        low, high = high, high * 2.0
        if high > 2.0**40:
            return float("inf")
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if _fit(problem, problem.capacity * middle)[0] is None:
            low = middle
        else:
            high = middle
    return high


def _fit(
    problem: Problem, capacity: Floats, least: int | None = None, width: int | None = None
) -> tuple[NDArray[np.int8] | None, bool]:
    """An assignment that fits (the one that uses `least` least), and whether the search was exhaustive."""
    domains = len(capacity)
    used = np.zeros((1, domains))
    history: list[tuple[NDArray[np.intp], NDArray[np.int8]]] = []
    exhaustive, most = True, width or _WIDTH
    # Big stages first: what cannot fit shows early, and small ones fill the gaps.
    order = np.argsort(-np.where(problem.allowed, problem.memory, 0.0).max(axis=1), kind="stable")
    for stage in order:
        choices = np.flatnonzero(problem.allowed[stage])
        grown = np.repeat(used, len(choices), axis=0)
        parent = np.repeat(np.arange(len(used)), len(choices))
        choice = np.tile(choices, len(used))
        grown[np.arange(len(grown)), problem.domain[choice]] += problem.memory[stage, choice]
        fits = np.flatnonzero((grown <= capacity).all(axis=1))
        grown, parent, choice = grown[fits], parent[fits], choice[fits]
        kept = nondominated(grown)
        if len(kept) > most:
            exhaustive = False
            fullest = (grown[kept] / np.maximum(capacity, 1e-300)).max(axis=1)
            kept = kept[np.argsort(fullest, kind="stable")[:most]]
        if not len(kept):
            return None, exhaustive
        used = grown[kept]
        history.append((parent[kept], choice[kept].astype(np.int8)))
    at = 0 if least is None else int(used[:, least].argmin())
    row = np.zeros(problem.stage_count, dtype=np.int8)
    for stage, (parents, chosen) in zip(order[::-1], history[::-1], strict=True):
        row[stage] = chosen[at]
        at = int(parents[at])
    return row, exhaustive
