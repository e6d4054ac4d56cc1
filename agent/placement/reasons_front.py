"""Reasons for a point of a front: why this placement of one's own cost tables, what binds, and what would change that.

Weights and limits are tried on the placements that are known. Tables and memory change which placements there are, so
for those the front is searched again at nine tenths of each stated change; what that finds joins the known ones, and
only a change that survives is stated. `certain` is true where that search was a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.errors import PlacementError
from agent.placement.asked import Asked, name_of
from agent.placement.capped import under_cap
from agent.placement.choice import mark, pool, undominated
from agent.placement.flips import Flip, Turn, nearest
from agent.placement.limits import Constraints, kept_by_all, limits_on
from agent.placement.problem import Floats, Problem
from agent.placement.ranking import Option
from agent.placement.selection import select
from agent.placement.solve import solve
from agent.placement.wishes import Binding, Pair, Setting, binds, bound, price, stated, tightened, tolerance, weights
from agent.records import record
from agent.schema.policy import Objective

Rows = NDArray[np.int8]

FACTOR = 2.0
MOST_TABLES = 6
"""Tables whose flips are searched again and stated, nearest first."""
_ROUNDS = 4
_RESTARTS = 8
_EVALUATIONS = 60_000
_WARM = 256
_SLIGHTLY_LESS = 0.999
"""Of the choice's power: a cap there is broken by it, and what keeps that need not be on the front."""
_TABLES = ("energy", "latency")


@record(frozen=True)
class Part:
    """What one accelerator, or the transfers, contribute to a placement."""

    name: str
    stages: int
    energy_j: float
    latency_s: float


@record(frozen=True)
class WhyPoint:
    """The choice among the points of a front."""

    chosen: Option
    assignment: tuple[int, ...]
    runner_up: Option | None
    rule: str
    parts: tuple[Part, ...]
    binding: tuple[Binding, ...]
    flips: tuple[Flip, ...]
    improved: bool


class _Better(Exception):
    """A search for something else met a placement that is better as things are."""


class _Known:
    """All placements met so far, with what each takes; chosen among again and again."""

    def __init__(self, problem: Problem, rows: Rows, objective: Objective, limits: Constraints, seed: int) -> None:
        self.problem, self.objective, self.limits, self.seed = problem, objective, limits, seed
        marked = mark(problem, rows, objective, limits)
        self.rows = pool(problem, rows, limits)
        self.own = np.array(marked.assignment, dtype=np.int8)
        self.runner_up, self.rule = marked.runner_up, marked.why
        self.name = name_of(problem, self.own)
        self._measure()

    def _measure(self) -> None:
        self.points = self.problem.objectives(self.rows)
        self.used = self.problem.memory_used(self.rows)
        self.at = int(np.flatnonzero((self.rows == self.own).all(axis=1))[0])

    def same(self, pair: Pair) -> bool:
        return pair[0] is not None and pair[0].name == self.name

    def option(self, index: int, points: Floats | None = None) -> Option:
        """A placement with its costs."""
        energy_j, latency_s, unused = (self.points if points is None else points)[index].tolist()
        return Option(name_of(self.problem, self.rows[index]), energy_j, latency_s, unused)

    def pick(
        self, points: Floats | None = None, capacity: Floats | None = None, objective: Objective | None = None,
        limits: Constraints | None = None,
    ) -> Pair:  # fmt: skip
        """Who is chosen under other costs, capacities or wishes, and what the present choice costs then."""
        shown = self.points if points is None else points
        kept = np.flatnonzero((self.used <= (self.problem.capacity if capacity is None else capacity)).all(axis=1))
        wish, bounds, stays = objective or self.objective, limits or self.limits, self.option(self.at, shown)
        if wish.method == "knee":
            kept = kept[undominated(shown[kept], bounds)]
        try:
            index = select(shown[kept], wish, bounds).index or 0
        except PlacementError:
            return None, stays
        return self.option(int(kept[index]), shown), stays

    def search(self, problem: Problem) -> bool:
        """Let the front of changed tables join the known placements; whether that front is proven."""
        distance = (self.rows != self.own).sum(axis=1)
        near = self.rows[np.argsort(distance, kind="stable")[:_WARM]]
        result = solve(problem, "pgsam", self.seed, evaluations=_EVALUATIONS, warm=near)
        self.learn(pool(problem, result.assignments(), self.limits))
        return result.exact

    def learn(self, rows: Rows) -> None:
        """Placements more to choose among."""
        self.rows = np.unique(np.concatenate([self.rows, rows]), axis=0)
        self._measure()
        if not self.same(self.pick()):
            raise _Better

    def power_w(self) -> float:
        """Mean power of the choice."""
        return float(self.points[self.at, 0] / max(self.points[self.at, 1], 1e-300))

    def settled(
        self, choose: Callable[[float], Pair], made: Callable[[float], Problem], now: float, limit: float
    ) -> tuple[Turn[Pair], bool] | None:
        """The nearest turn that a search of the changed tables does not undercut, and whether that is proven."""
        turn = nearest(choose, self.same, now, limit)
        for _ in range(_ROUNDS):
            if turn is None:
                return None
            proven = self.search(made(turn.holds))
            if self.same(choose(turn.holds)):
                self.search(made(turn.at))
                then = choose(turn.at)
                if not self.same(then) and self.same(choose(turn.holds)):
                    return Turn(turn.at, turn.holds, then), proven
            turn = nearest(choose, self.same, now, limit)
        return None


def why_point(problem: Problem, front: ArrayLike, objective: Objective, limits: Constraints, seed: int = 0) -> WhyPoint:
    """Why that one of `front` (assignments [n, L]) is chosen. Raises PlacementError where nothing keeps the limits.

    Where the front is not proven, a search made for a statement may meet a better placement; then that one is explained
    instead, and `improved` is true.
    """
    rows = np.asarray(front, dtype=np.int8)
    for attempt in range(_RESTARTS):
        known = _Known(problem, rows, objective, limits, seed)
        try:
            return _why(known, rows, attempt > 0)
        except _Better:
            rows = known.rows[problem.feasible(known.rows)]  # of what was met under more memory, what fits now
    raise PlacementError("the front is too incomplete to explain; search it with a larger budget first")


def _why(known: _Known, rows: Rows, improved: bool) -> WhyPoint:
    problem, objective, limits = known.problem, known.objective, known.limits
    # Searches first: what they find is there for every other statement.
    bindings = list(_memory(known))
    flips = _tables(known)
    _learn_caps(known)
    kept = kept_by_all(limits_on(known.points, limits), len(known.rows))
    fits = (known.used <= problem.capacity).all(axis=1)
    admitted = [known.option(int(i)) for i in np.flatnonzero(kept & fits)]
    found = [
        *weights(objective, lambda wanted: known.pick(objective=wanted), known.same),
        *tolerance(objective, lambda wanted: known.pick(objective=wanted), known.same),
        *price(objective, known.option(known.at), admitted, known.same),
        *(made for setting in _settings(known) for made in tightened(setting, known.same)),
    ]
    asked = Asked(problem, rows, objective, limits, known.name)
    found = list(asked.flips(found))
    bindings += asked.bindings(made for setting in _settings(known) for made in binds(setting, known.same))
    second = None
    if known.runner_up is not None:
        second = known.option(int(np.flatnonzero((known.rows == np.array(known.runner_up)).all(axis=1))[0]))
    return WhyPoint(
        known.option(known.at), tuple(known.own.tolist()), second, known.rule, parts_of(problem, known.own),
        tuple(bindings), (*found, *flips), improved,
    )  # fmt: skip


def parts_of(problem: Problem, row: Rows) -> tuple[Part, ...]:
    """Joules and seconds of a placement by accelerator, and of its transfers; they add up to its objectives."""
    parts = []
    stage = np.arange(problem.stage_count)
    for index, name in enumerate(problem.accelerators):
        mine = stage[row == index]
        if len(mine):
            joules, seconds = float(problem.energy[mine, index].sum()), float(problem.latency[mine, index].sum())
            parts.append(Part(name, len(mine), joules, seconds))
    source, target, link = row[:-1], row[1:], stage[:-1]
    moved = int((source != target).sum())
    joules = float(problem.transfer_energy[link, source, target].sum())
    seconds = float(problem.transfer_latency[link, source, target].sum())
    return (*parts, Part("transfers", moved, joules, seconds))


def _settings(known: _Known) -> Iterator[Setting]:
    limits, points = known.limits, known.points
    power_w = points[:, 0] / np.maximum(points[:, 1], 1e-300)
    for name, unit, now, values in (
        ("power_cap_w", "W", limits.power_cap_w, power_w),
        ("deadline_s", "s", limits.deadline_s, points[:, 1]),
        ("energy_cap_j", "J", limits.energy_cap_j, points[:, 0]),
    ):
        least, most = float(values.min()), float(values.max())

        def choose(value: float, name: str = name) -> Pair:
            return known.pick(limits=replace(limits, **{name: value}))

        yield Setting("constraint", name, unit, now, max(most, now or 0.0) * 1.01 + 1e-12, least, choose)


def _learn_caps(known: _Known) -> None:
    """What keeps a cap need not be on the front, so it is sought where a change of the cap would flip the choice."""
    known.learn(under_cap(known.problem, _SLIGHTLY_LESS * known.power_w()))
    for _ in range(_ROUNDS if known.limits.power_cap_w is not None else 0):
        cap = next(_settings(known))
        turn = nearest(cap.choose, known.same, cap.now or 0.0, cap.loosest)
        if turn is None:
            return
        known.learn(under_cap(known.problem, turn.holds))
        if known.same(cap.choose(turn.holds)):
            return


def _memory(known: _Known) -> Iterator[Binding]:
    """Domains whose capacity binds, after a search without it and one just short of the stated relaxation."""
    problem = known.problem
    for domain, now in enumerate(problem.capacity.tolist()):
        inside = problem.domain == domain
        loosest = float(np.where(problem.allowed, problem.memory, 0.0)[:, inside].max(axis=1, initial=0.0).sum())
        if loosest <= now:
            continue
        names = ", ".join(name for name, there in zip(problem.accelerators, inside, strict=True) if there)

        def capacity(value: float, domain: int = domain) -> Floats:
            changed: Floats = problem.capacity.copy()
            changed[domain] = value
            return changed

        def choose(value: float) -> Pair:
            return known.pick(capacity=capacity(value))

        def made(value: float) -> Problem:
            return replace(problem, capacity=capacity(value))

        known.search(made(loosest))
        lifted = choose(loosest)
        if lifted[0] is None or known.same(lifted):
            continue
        found = known.settled(choose, made, now, loosest)
        least = None
        if found is not None:
            least = next(stated("memory", f"memory of {names}", "bytes", now, found[0], found[1]), None)
        yield bound(f"memory of {names}", "bytes", now, choose(loosest), least)


def _tables(known: _Known) -> list[Flip]:
    """Costs of an accelerator, or of all transfers, up and down; the nearest ones are searched again and stated."""
    near: list[tuple[float, str, str, int | None, float]] = []
    for table in _TABLES:
        for index, name in [*enumerate(known.problem.accelerators), (None, "transfers")]:
            for limit in (1.0 / FACTOR, FACTOR):
                turn = nearest(_scaled_costs(known, table, index), known.same, 1.0, limit)
                if turn is not None:
                    near.append((abs(turn.at - 1.0), f"{table} of {name}", table, index, limit))
    flips: list[Flip] = []
    for _, what, table, index, limit in sorted(near, key=lambda row: row[0])[:MOST_TABLES]:
        made = _scaled_tables(known.problem, table, index)
        found = known.settled(_scaled_costs(known, table, index), made, 1.0, limit)
        if found is not None:
            flips += stated("coefficient", what, "", 1.0, found[0], found[1])
    return sorted(flips, key=lambda made: abs(made.relative or 0.0))


def _scaled_costs(known: _Known, table: str, index: int | None) -> Callable[[float], Pair]:
    """The choice with one table's part multiplied, from what that part is of each known placement."""
    column = 0 if table == "energy" else 1
    cached: dict[int, Floats] = {}

    def choose(factor: float) -> Pair:
        rows = known.rows
        if len(rows) not in cached:
            cached[len(rows)] = _component(known.problem, rows, table, index)
        points = known.points.copy()
        points[:, column] += (factor - 1.0) * cached[len(rows)]
        return known.pick(points=points)

    return choose


def _component(problem: Problem, rows: Rows, table: str, index: int | None) -> Floats:
    stage = np.arange(problem.stage_count)
    if index is None:
        moved: Floats = getattr(problem, f"transfer_{table}")[stage[:-1], rows[:, :-1], rows[:, 1:]].sum(axis=1)
        return moved
    own: Floats = np.where(rows == index, getattr(problem, table)[:, index], 0.0).sum(axis=1)
    return own


def _scaled_tables(problem: Problem, table: str, index: int | None) -> Callable[[float], Problem]:
    def made(factor: float) -> Problem:
        name = f"transfer_{table}" if index is None else table
        changed = getattr(problem, name).copy()
        changed[..., slice(None) if index is None else index] *= factor
        return replace(problem, **{name: changed})

    return made
