"""Says why nothing fits: a feasible assignment, or proof that there is none, what binds, and the smallest relaxation.

Only memory can make a problem infeasible once every stage has an allowed accelerator. Partial assignments are
vectors of memory used by domain; of two, the one that uses nowhere more stays.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from agent.errors import PlacementError
from agent.placement.limits import outward
from agent.placement.pareto import nondominated
from agent.placement.problem import Floats, Problem
from agent.records import record

_WIDTH = 2000
"""Partial assignments kept after each stage; when more survive, the search is no longer a proof."""
_NARROW = 32
"""Kept in the first attempt, which takes milliseconds and nearly always succeeds where anything fits."""
_FIT_WORK = 100_000_000
_DIAGNOSIS_WORK = 5_000_000
"""Bounds on comparisons in looking for a fit, and in each of the many fits of a diagnosis; they narrow the search."""
_DIGITS = 9
_HALVINGS = 30
_UNPROVEN_HALVINGS = 10


@record(frozen=True)
class Diagnosis:
    """Why nothing fits. `relaxation_bytes` more in `domain` would do; None when no single domain can mend it.

    `capacity_factor` is by how much all capacities together would have to grow. `proven`: of the relaxation where there
    is one, else of the factor; false when the search was too large to be exhaustive, so that a smaller one may exist.
    """

    domain: int | None
    accelerators: tuple[str, ...]
    relaxation_bytes: float | None
    capacity_factor: float
    proven: bool

    def error(self) -> PlacementError:
        """The one sentence a user sees, as the error to raise."""
        known = "" if self.proven else " (or less: the search was cut short)"
        factor = outward(self.capacity_factor, _DIGITS)
        more = None if self.relaxation_bytes is None else outward(self.relaxation_bytes, _DIGITS)
        if self.domain is None or more is None:
            text = "no placement fits: memory is short in several domains at once; " + (
                f"all capacities × {factor:.{_DIGITS}g} would do{known}"
                if math.isfinite(factor)
                else "no common factor would do, because one of them is 0"
            )
        else:
            text = (
                f"no placement fits: memory of {', '.join(self.accelerators)} (domain {self.domain}) binds; "
                f"{more:.{_DIGITS}g} bytes more there would do{known}"
            )
        return PlacementError(
            text,
            domain=self.domain,
            relaxation_bytes=more,
            capacity_factor=factor,
            proven=self.proven,
        )


def feasible_assignment(problem: Problem) -> NDArray[np.int8] | None:
    """An assignment [L] that fits every memory domain, or None when none was found."""
    row = _first_fit(problem)
    if row is not None:
        return row
    row, sure = _fit(problem, problem.capacity, width=_width(problem, _DIAGNOSIS_WORK, _NARROW))
    return row if sure or row is not None else _fit(problem, problem.capacity, width=_width(problem, _FIT_WORK))[0]


def found_fit(problem: Problem) -> tuple[bool, bool]:
    """Whether something fits, and whether that is known for sure; in the bounded work of a diagnosis."""
    if _first_fit(problem) is not None:
        return True, True
    row, sure = _fit(problem, problem.capacity, _width(problem, _DIAGNOSIS_WORK))
    return row is not None, sure or row is not None


def least_used(problem: Problem, domain: int) -> tuple[float | None, bool]:
    """Bytes that must at least be used in a domain if only the others had their capacity, and whether that is proven.

    None where the others are too small even then.
    """
    lifted = problem.capacity.copy()
    lifted[domain] = np.inf
    row, sure = _fit(problem, lifted, _width(problem, _DIAGNOSIS_WORK), least=domain)
    if row is None:
        return None, sure
    used = float(problem.memory_used(row)[0, domain])
    needed = np.where(problem.allowed, problem.memory, np.inf).min(axis=1).sum()
    return used, sure or bool(used <= needed * (1.0 + 1e-9) - np.delete(problem.capacity, domain).sum())


def diagnose(problem: Problem) -> Diagnosis:
    """What binds in a problem for which `feasible_assignment` found nothing."""
    width = _width(problem, _DIAGNOSIS_WORK)
    proven = True
    needs: list[tuple[float, int]] = []
    for domain in range(len(problem.capacity)):
        used, sure = least_used(problem, domain)
        proven &= sure
        if used is not None:
            needs.append((used - float(problem.capacity[domain]), domain))
    factor, sure = _common_factor(problem, width)
    if not needs:
        return Diagnosis(None, problem.accelerators, None, factor, proven and sure)
    short, domain = min(needs)
    names = tuple(problem.accelerators[d] for d in np.flatnonzero(problem.domain == domain))
    return Diagnosis(domain, names, short, factor, proven)


def _common_factor(problem: Problem, width: int) -> tuple[float, bool]:
    """Smallest factor on all capacities that lets something fit, and whether that is proven; infinite where it is 0.

    To nine digits when proven, else to three.
    """
    low, high, proven = 1.0, 2.0, True
    while (found := _fit(problem, problem.capacity * high, width))[0] is None:
        proven &= found[1]
        low, high = high, high * 2.0
        if high > 2.0**40:
            return float("inf"), proven
    halvings = 0
    while halvings < (_HALVINGS if proven else _UNPROVEN_HALVINGS):
        halvings += 1
        middle = 0.5 * (low + high)
        row, sure = _fit(problem, problem.capacity * middle, width)
        if row is None:
            proven &= sure
            low = middle
        else:
            high = middle
    return high, proven


def _width(problem: Problem, work: int, most: int = _WIDTH) -> int:
    """Partial assignments that may be kept so that all stages together take about so many comparisons."""
    each = problem.latency.size * len(problem.capacity)
    return max(min(int((work / each) ** 0.5), most), 1)


def _first_fit(problem: Problem) -> NDArray[np.int8] | None:
    """Big stages first, each where it takes the smallest share of the room left; None when that ends nowhere."""
    room = problem.capacity.copy()
    row = np.zeros(problem.stage_count, dtype=np.int8)
    for stage in _largest_first(problem):
        free = room[problem.domain]
        memory = problem.memory[stage]
        fits = np.flatnonzero(problem.allowed[stage] & (memory <= free))
        if not len(fits):
            return None
        best = fits[((memory[fits] + 1.0) / (free[fits] + 1.0)).argmin()]
        row[stage] = best
        room[problem.domain[best]] -= memory[best]
    return row


def _largest_first(problem: Problem) -> NDArray[np.intp]:
    """What cannot fit shows early, and small stages fill the gaps."""
    order: NDArray[np.intp] = np.argsort(-np.where(problem.allowed, problem.memory, 0.0).max(axis=1), kind="stable")
    return order


def _fit(
    problem: Problem, capacity: Floats, width: int, least: int | None = None
) -> tuple[NDArray[np.int8] | None, bool]:
    """An assignment that fits (the one that uses `least` least), and whether the search was exhaustive."""
    domains = len(capacity)
    used = np.zeros((1, domains))
    history: list[tuple[NDArray[np.intp], NDArray[np.int8]]] = []
    exhaustive = True
    order = _largest_first(problem)
    smallest = np.where(problem.allowed, problem.memory, np.inf).min(axis=1)[order]
    ahead = np.concatenate([np.cumsum(smallest[:0:-1])[::-1], [0.0]])
    for at, stage in enumerate(order):
        choices = np.flatnonzero(problem.allowed[stage])
        grown = np.repeat(used, len(choices), axis=0)
        parent = np.repeat(np.arange(len(used)), len(choices))
        choice = np.tile(choices, len(used))
        grown[np.arange(len(grown)), problem.domain[choice]] += problem.memory[stage, choice]
        fits = np.flatnonzero((grown <= capacity).all(axis=1) & (grown.sum(axis=1) + ahead[at] <= capacity.sum()))
        grown, parent, choice = grown[fits], parent[fits], choice[fits]
        kept = nondominated(grown)
        if len(kept) > width:
            exhaustive = False
            kept = kept[_most_promising(grown[kept], capacity, ahead[at], least)[:width]]
        if not len(kept):
            return None, exhaustive
        used = grown[kept]
        history.append((parent[kept], choice[kept].astype(np.int8)))
    chosen_at = 0 if least is None else int(used[:, least].argmin())
    row = np.zeros(problem.stage_count, dtype=np.int8)
    for stage, (parents, chosen) in zip(order[::-1], history[::-1], strict=True):
        row[stage] = chosen[chosen_at]
        chosen_at = int(parents[chosen_at])
    return row, exhaustive


def _most_promising(used: Floats, capacity: Floats, ahead: float, least: int | None) -> NDArray[np.intp]:
    """Order of partial assignments: by what `least` must hold in the end, then by how full their fullest domain is."""
    limited = np.isfinite(capacity)
    fullest = (used[:, limited] / np.maximum(capacity[limited], 1e-300)).max(axis=1, initial=0.0)
    if least is None:
        return np.argsort(fullest, kind="stable")
    others = np.arange(len(capacity)) != least
    left = capacity[others].sum() - used[:, others].sum(axis=1)
    return np.lexsort((fullest, used[:, least] + np.maximum(ahead - left, 0.0)))
