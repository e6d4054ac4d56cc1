"""The one entry point of the optimiser: tables, method and budget in, Pareto front out.

Method `pgsam` searches, then tries to certify: the exact search, pruned by what was found, runs while it is cheap.
When it finishes, its front is returned and `exact` is true; when it does not, the search takes the rest of the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from agent.errors import PlacementError
from agent.placement.baselines import random_search, single
from agent.placement.bounds import MOST_CELLS
from agent.placement.exact import ExactFront, exact_front
from agent.placement.greedy import greedy
from agent.placement.infeasible import diagnose, feasible_assignment
from agent.placement.pareto import beyond_rounding
from agent.placement.pgsam import Search
from agent.placement.problem import Floats, Problem
from agent.placement.tuning import Ablation, Tuning
from agent.records import record

METHODS = ("pgsam", "exact", "greedy", "random", "single:NAME")
DEFAULT_EFFORT = 120_000_000
"""Budget when none is given: a count, not a time, so that equal seeds give equal bytes; about 0.6 s of one core."""
DEFAULT_RANDOM = 200_000
EXACT_LABELS = 400_000
EXACT_COMPARISONS = 5_000_000_000
EXACT_EVALUATIONS = 100_000_000
LEAN = Tuning(chains=2, guided=8, cuts=12, exchanged=25)
"""Small turns, for budgets of less than `LEAN_EVALUATIONS`: large ones are faster, but learn less from each."""
LEAN_EVALUATIONS = 400_000
_FIRST_SHARE = 0.25
_SEED_SHARE = 0.5
_CERTIFICATE_SHARE = 0.6
_CERTIFICATE_LABELS = 60_000
_CERTIFICATE_LINKS = 30_000
"""Most stages × accelerators²; only bounding the labels of more takes as long as a search does."""
_CERTIFICATE_MEMBERS = 10_000
"""Most members × stages; larger fronts take more labels than the bound allows."""
_CERTIFICATES = ((0.03, 2_000_000), (0.25, 60_000_000))
"""Attempts: after which share of the budget, and how many comparisons each may take."""


@record(frozen=True)
class Point:
    """One placement: energy [J], latency [s], under-utilisation [0..1], and the accelerator of each stage."""

    objectives: tuple[float, float, float]
    assignment: tuple[int, ...]


class Front(Sequence[Point]):
    """Placements in lexicographic order of their objectives; each is made when it is asked for.

    Thousands of objects that live at once would make the collector walk through all of them, while every other thread
    waits.
    """

    def __init__(self, objectives: Floats, assignments: NDArray[np.int8]) -> None:
        self.objectives = objectives
        self.assignments = assignments

    def __len__(self) -> int:
        return len(self.objectives)

    @overload
    def __getitem__(self, at: int) -> Point: ...

    @overload
    def __getitem__(self, at: slice) -> Front: ...

    def __getitem__(self, at: int | slice) -> Point | Front:
        if isinstance(at, slice):
            return Front(self.objectives[at], self.assignments[at])
        energy_j, latency_s, under = self.objectives[at].tolist()
        return Point((energy_j, latency_s, under), tuple(self.assignments[at].tolist()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Front):
            return NotImplemented
        same = np.array_equal(self.objectives, other.objectives)
        return same and np.array_equal(self.assignments, other.assignments)

    def __hash__(self) -> int:
        return hash((self.objectives.tobytes(), self.assignments.tobytes()))


@record(frozen=True)
class Result:
    """A front in lexicographic order of its objectives.

    `exact`: every non-dominated objective vector is there, proven, but those that another one beats within the rounding
    of sums (ten digits); otherwise these are the best known.
    """

    method: str
    seed: int
    evaluations: int
    exact: bool
    front: Front

    def points(self) -> Floats:
        """Objectives [n, 3]."""
        return self.front.objectives

    def assignments(self) -> NDArray[np.int8]:
        """Assignments [n, L]."""
        return self.front.assignments


class _Budget:
    """How much of the budget is used: of the time, of the evaluations, or, where neither is limited, of the effort."""

    def __init__(
        self, evaluations: int | None, budget_s: float | None, clock: Callable[[], float] | None,
        interrupted: Callable[[], bool] | None,
    ) -> None:  # fmt: skip
        self._interrupted = interrupted
        self._evaluations = evaluations
        self._budget_s = budget_s
        self._clock = clock
        self._begun_s = clock() if clock is not None else 0.0

    def used(self, evaluations: int, effort: int) -> float:
        """Share used, 1 and above when nothing is left."""
        shares = [self.time_used()]
        if self._evaluations is not None:
            shares.append(evaluations / self._evaluations)
        elif self._budget_s is None:
            shares.append(effort / DEFAULT_EFFORT)
        return max(shares)

    def seeds_end(self) -> bool:
        """Whether starting points have taken their share of the time."""
        return self.time_used() > _SEED_SHARE

    def time_used(self) -> float:
        """Share of the time budget used; 0 without one, all of it after an interruption."""
        if self._interrupted is not None and self._interrupted():
            return 1.0
        if self._clock is None or self._budget_s is None:
            return 0.0
        return (self._clock() - self._begun_s) / max(self._budget_s, 1e-9)

    def left(self, evaluations: int, most: int) -> int:
        """Evaluations left, at most `most`."""
        return most if self._evaluations is None else min(max(self._evaluations - evaluations, 0), most)


def solve(
    problem: Problem,
    method: str = "pgsam",
    seed: int = 0,
    evaluations: int | None = None,
    budget_s: float | None = None,
    clock: Callable[[], float] | None = None,
    warm: Sequence[Sequence[int]] | NDArray[np.int8] = (),
    ablation: Ablation | None = None,
    tuning: Tuning | None = None,
    certify: bool = True,
    interrupted: Callable[[], bool] | None = None,
) -> Result:
    """Pareto front of energy, latency and under-utilisation.

    Args:
        problem: the cost tables.
        method: pgsam, exact, greedy, random, or single:NAME with the name (or index) of an accelerator.
        seed: of the search; the same seed and count budget give the same bytes.
        evaluations: assignments (or partial ones) to score, rounded up to a whole turn of the search; None takes a
            default effort that is about 0.6 s of one core.
        budget_s: seconds by `clock` instead; then equal seeds need not give equal bytes.
        clock: monotonic seconds, needed with `budget_s`.
        warm: assignments to start from, for method pgsam; those that use a forbidden pair are left out.
        ablation: ingredients of pgsam to switch off.
        tuning: sizes of pgsam.
        certify: whether pgsam may spend part of its budget on the certificate.
        interrupted: asked several times a second; once it says yes, the best found so far is the result.

    Raises:
        PlacementError: nothing fits (the message names what binds and the smallest relaxation), or the exact search
            hit its bound.
        ValueError: unknown method, or a time budget without a clock.
    """
    if budget_s is not None and (clock is None or budget_s <= 0.0):
        raise ValueError(f"budget_s is {budget_s:g}, expected seconds above 0 and a clock to measure them")
    if evaluations is not None and evaluations < 1:
        raise ValueError(f"evaluations is {evaluations}, expected at least 1")
    budget = _Budget(evaluations, budget_s, clock, interrupted)
    if method == "pgsam":
        lean = LEAN if evaluations is not None and evaluations < LEAN_EVALUATIONS else None
        stop = None if budget_s is None else budget.seeds_end
        search = Search(problem, seed, ablation, tuning or lean, _usable(problem, warm), stop)
        return _pgsam(problem, seed, budget, search, certify)
    if method == "exact":
        return _exact(problem, seed, budget)
    if method == "random":
        return _random(problem, seed, budget)
    if method == "greedy":
        row = greedy(problem)[None, :]
        return _result(problem, method, seed, 1, problem.objectives(row), row)
    if method.startswith("single:"):
        row = single(problem, method.removeprefix("single:"))[None, :]
        return _result(problem, method, seed, 1, problem.objectives(row), row)
    raise ValueError(f"unknown method {method!r}, expected one of {', '.join(METHODS)}")


def _usable(problem: Problem, warm: Sequence[Sequence[int]] | NDArray[np.int8]) -> NDArray[np.int8]:
    rows = np.asarray(warm, dtype=np.int64).reshape(-1, problem.stage_count)
    known = ((rows >= 0) & (rows < problem.accelerator_count)).all(axis=1)
    rows = rows[known]
    return rows[problem.allowed[np.arange(problem.stage_count), rows].all(axis=1)].astype(np.int8)


def _pgsam(problem: Problem, seed: int, budget: _Budget, search: Search, certify: bool) -> Result:
    archive = search.archive
    if not len(archive):
        search.offer(_some_feasible(problem)[None, :])
    spent = 0
    size = problem.latency.size * problem.accelerator_count
    for share, comparisons in _CERTIFICATES if certify and size <= _CERTIFICATE_LINKS else ():
        _advance(search, budget, share, spent)
        if budget.used(search.evaluations + spent, search.effort) >= 1.0:
            break
        if len(archive) * problem.stage_count > _CERTIFICATE_MEMBERS:
            continue
        proof = _certificate(problem, search, budget, spent, comparisons)
        spent += proof.evaluations
        if proof.complete:
            return _result(
                problem, "pgsam", seed, search.evaluations + spent, proof.points, proof.assignments, exact=True
            )
    _advance(search, budget, 1.0, spent)
    return _result(problem, "pgsam", seed, search.evaluations + spent, archive.points, archive.assignments)


def _advance(search: Search, budget: _Budget, share: float, spent: int) -> None:
    while (used := budget.used(search.evaluations + spent, search.effort)) < share:
        search.step(min(used, 1.0))


def _certificate(problem: Problem, search: Search, budget: _Budget, spent: int, comparisons: int) -> ExactFront:
    return exact_front(
        problem,
        label_limit=_CERTIFICATE_LABELS,
        comparison_limit=comparisons,
        evaluation_limit=budget.left(search.evaluations + spent, EXACT_EVALUATIONS),
        known=(search.archive.points, search.archive.assignments),
        stop=lambda: budget.time_used() > _CERTIFICATE_SHARE,
        paced=True,
    )


def _exact(problem: Problem, seed: int, budget: _Budget) -> Result:
    """A short search first: what it finds prunes most labels."""
    if problem.latency.size > MOST_CELLS:
        raise PlacementError(
            f"the exact front is only tried up to {MOST_CELLS} pairs, {problem.stage_count} stages × "
            f"{problem.accelerator_count} accelerators are more; use method pgsam"
        )
    search = Search(problem, seed, stop=budget.seeds_end)
    if not len(search.archive):
        search.offer(_some_feasible(problem)[None, :])
    while search.effort < DEFAULT_EFFORT * _FIRST_SHARE and budget.used(search.evaluations, 0) < _FIRST_SHARE:
        search.step(search.effort / DEFAULT_EFFORT)
    proof = exact_front(
        problem,
        label_limit=EXACT_LABELS,
        comparison_limit=EXACT_COMPARISONS,
        evaluation_limit=budget.left(search.evaluations, EXACT_EVALUATIONS),
        known=(search.archive.points, search.archive.assignments),
        stop=lambda: budget.time_used() >= 1.0,
    )
    if not proof.complete:
        raise PlacementError(
            f"the exact front takes more than its bound ({proof.labels} labels, {proof.comparisons} comparisons); "
            "use method pgsam, which certifies its front where that is cheap",
            labels=proof.labels,
        )
    total = search.evaluations + proof.evaluations
    return _result(problem, "exact", seed, total, proof.points, proof.assignments, exact=True)


def _random(problem: Problem, seed: int, budget: _Budget) -> Result:
    rng = np.random.default_rng(seed)
    archive, drawn = random_search(problem, rng, budget.left(0, DEFAULT_RANDOM), stop=lambda: budget.time_used() >= 1.0)
    if not len(archive):
        row = _some_feasible(problem)[None, :]
        archive.merge(problem.objectives(row), row)
    return _result(problem, "random", seed, drawn, archive.points, archive.assignments)


def _some_feasible(problem: Problem) -> NDArray[np.int8]:
    """An assignment that fits in memory; PlacementError with the diagnosis when there is none."""
    row = feasible_assignment(problem)
    if row is None:
        raise diagnose(problem).error()
    return row


def _result(
    problem: Problem,
    method: str,
    seed: int,
    evaluations: int,
    points: Floats,
    assignments: NDArray[np.int8],
    exact: bool = False,
) -> Result:
    if not problem.feasible(assignments).all():
        raise PlacementError("costs span so many powers of ten that sums overflow; scale them to a common unit")
    kept = beyond_rounding(points)
    return Result(method, seed, evaluations, exact, Front(points[kept], assignments[kept]))
