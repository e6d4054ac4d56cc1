"""Sensitivity: how the mean change of a placement moves when one assumption moves and the placement is chosen anew.

The new choice is made among the placements of the front found before, everything on one accelerator, and greedy v1
under the new costs, not by a new search: a lower bound of what a new search would find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from statistics import fmean

import numpy as np

from agent.errors import PlacementError
from agent.placement.baselines import single
from agent.placement.costing import REFERENCE_TEMPERATURE_C
from agent.placement.greedy import greedy
from agent.placement.pareto import nondominated
from agent.placement.problem import Problem
from agent.placement.tables import Tables, make_tables
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.scenario import Assumption
from agent.simulation.coefficients import pulled
from agent.simulation.comparison import REQUEST, BoardResult, CaseResult, Key, change_of
from agent.simulation.placing import Placed, Rows, row_of
from agent.simulation.request import Cost, request_cost


@record(frozen=True)
class Swing:
    """Mean relative changes of energy and latency at the low and the high value of one assumption.

    `unaffected`: why it changes nothing on this board, None where it does.
    """

    assumption: Assumption
    energy: tuple[float, float]
    latency: tuple[float, float]
    unaffected: str | None

    @property
    def width(self) -> float:
        """How far the energy change moves, then the latency change: what the list is sorted by."""
        return abs(self.energy[1] - self.energy[0])


def swings(
    board: BoardResult, policy: Policy, assumptions: Sequence[Assumption], placement: str, baseline: str,
    progress: Callable[[Assumption], None],
) -> tuple[Swing, ...]:  # fmt: skip
    """All assumptions on one board, the widest first; empty where no case has both placements."""
    cases = [c for c in board.cases if c.change((REQUEST, placement), baseline, "energy") is not None]
    if not cases:
        return ()
    found = []
    for assumption in assumptions:
        progress(assumption)
        unaffected = pulled(board.profile, assumption.vary, assumption.low)[1]
        if unaffected is None:
            low, high = (
                _mean_changes(cases, board.profile, policy, assumption, value, placement, baseline)
                for value in (assumption.low, assumption.high)
            )
        else:
            low = high = _means([case.costs for case in cases], placement, baseline)
        found.append(Swing(assumption, (low[0], high[0]), (low[1], high[1]), unaffected))
    return tuple(sorted(found, key=lambda s: (-s.width, s.assumption.vary)))


def _mean_changes(
    cases: Sequence[CaseResult], profile: DeviceProfile, policy: Policy, assumption: Assumption, value: float,
    placement: str, baseline: str,
) -> tuple[float, float]:  # fmt: skip
    moved, _ = pulled(profile, assumption.vary, value)
    temperature_c = value if assumption.vary == "temperature_c" else REFERENCE_TEMPERATURE_C
    longer = value if assumption.vary == "generated_tokens_factor" else 1.0
    costs = [_costs(_longer(c, longer), moved, policy, temperature_c, (placement, baseline)) for c in cases]
    return _means(costs, placement, baseline)


def _means(costs: Sequence[Mapping[Key, Cost]], placement: str, baseline: str) -> tuple[float, float]:
    """Mean changes of energy and latency over cases that all have both placements."""
    energy, latency = (
        [change_of(c, (REQUEST, placement), baseline, quantity) or 0.0 for c in costs]
        for quantity in ("energy", "latency")
    )
    return fmean(energy), fmean(latency)


def _costs(
    case: CaseResult, profile: DeviceProfile, policy: Policy, temperature_c: float, placements: Sequence[str]
) -> dict[Key, Cost]:
    temperatures = {a.name: temperature_c for a in profile.accelerators}
    tables = [make_tables(p.workload, profile, policy, temperatures) for p in case.placed]
    fronts = [_front(p, t) for p, t in zip(case.placed, tables, strict=True)]
    costs = {}
    for name in placements:
        rows = [row_of(name, t, f, profile, policy) for t, f in zip(tables, fronts, strict=True)]
        costs[REQUEST, name] = request_cost(case.case, profile, policy, tables, rows)
    return costs


def _longer(result: CaseResult, factor: float) -> CaseResult:
    """The case with answers so many times as long; what a token costs stays that of the middle of the old answer."""
    asked = result.case.asked
    tokens = max(1, round((asked.generated_tokens or 1) * factor))
    return replace(result, case=replace(result.case, asked=asked.model_copy(update={"generated_tokens": tokens})))


def _front(placed: Placed, tables: Tables) -> Rows:
    """The known placements that no other known one beats under the new costs."""
    problem = tables.problem
    rows = np.concatenate([_known(placed), _simple(problem)])
    rows = rows[problem.feasible(rows)]
    front: Rows = rows[nondominated(problem.objectives(rows))]
    return front


def _known(placed: Placed) -> Rows:
    assert placed.front is not None  # noqa: S101 - a case with a cost has a front in each phase
    return placed.front


def _simple(problem: Problem) -> Rows:
    rows: list[Rows] = []
    methods: list[Callable[[Problem], Rows]] = [partial(single, accelerator=name) for name in problem.accelerators]
    for method in (*methods, greedy):
        with suppress(PlacementError):  # does not fit
            rows.append(method(problem))
    return np.array(rows, dtype=np.int8).reshape(-1, problem.stage_count)
