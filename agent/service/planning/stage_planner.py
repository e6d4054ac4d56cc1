"""Stage planner: the best placement stage by stage after a change, searched from the placement that runs.

Runs on the planner's thread within a bounded time. What it finds is told with the plan; the fronts it keeps, one for
each model, are where the next re-plan begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.errors import PlacementError
from agent.placement.selection import Constraints, Incumbent, select
from agent.placement.state import State
from agent.placement.tables import Tables, make_tables
from agent.placement.warm import replan, thin, without
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.workload import Workload
from agent.service.planning.plan import StagePlacement

BUDGET_S = 0.15
"""Longest search for one model; a first placement that fits is there within milliseconds."""
MAX_FRONTS = 64
"""Models whose front is kept."""


@record(frozen=True, eq=False)
class _Known:
    """The front of a model: names of the accelerators, and the assignments [n, L]."""

    workload: Workload
    accelerators: tuple[str, ...]
    rows: NDArray[np.int8]


class StagePlanner:
    """Owned by one thread."""

    def __init__(self, profile: DeviceProfile, clock: Callable[[], float], budget_s: float = BUDGET_S) -> None:
        self._profile = profile
        self._clock = clock
        self._budget_s = budget_s
        self._known: dict[str, _Known] = {}

    def replan(self, workload: Workload, policy: Policy, state: State, running: Sequence[str]) -> StagePlacement | None:
        """Placement of the stages as the board is now; None where there is none.

        running: accelerators that run the whole model at present, in order of preference: where the search starts as
        long as no front of the model is known. The placement chosen before stays unless another is worth the change.
        """
        begun_s = self._clock()
        try:
            tables = make_tables(workload, self._profile, policy, state=replace(state, lost=frozenset()))
            lost = [name for name in tables.problem.accelerators if name in state.lost]
            problem = without(tables.problem, lost)
            warm = self._warm(workload, tables, running)
            result = replan(problem, warm, budget_s=self._budget_s, clock=self._clock)
        except PlacementError:
            self._known.pop(workload.model, None)
            return None
        rows = result.assignments()
        self._keep(workload, tables, rows)
        index = _choose(tables, result.points(), rows, warm[:1], policy)
        if index is None:
            return None
        energy_j, latency_s, _ = result.front[index].objectives
        names = tuple(problem.accelerators[i] for i in result.front[index].assignment)
        return StagePlacement(
            tuple(zip(problem.stages, names, strict=True)), energy_j, latency_s, result.exact, self._clock() - begun_s
        )

    def _warm(self, workload: Workload, tables: Tables, running: Sequence[str]) -> NDArray[np.int8]:
        """Placements to start from, the one in force first."""
        names, stages = tables.problem.accelerators, tables.problem.stage_count
        same = np.array([[names.index(n)] * stages for n in running if n in names], np.int8).reshape(-1, stages)
        known = self._known.get(workload.model)
        if known is None or known.workload.digest != workload.digest or known.accelerators != names:
            return same
        return np.concatenate([same, known.rows])

    def _keep(self, workload: Workload, tables: Tables, rows: NDArray[np.int8]) -> None:
        self._known.pop(workload.model, None)
        if len(self._known) >= MAX_FRONTS:
            self._known.pop(next(iter(self._known)))
        self._known[workload.model] = _Known(workload, tables.problem.accelerators, thin(rows))


def _choose(
    tables: Tables, points: NDArray[np.float64], rows: NDArray[np.int8], running: NDArray[np.int8], policy: Policy
) -> int | None:
    """Index of the wanted point; None where the placement in force is better than a change or no limit is kept."""
    limits = Constraints(deadline_s=policy.admission.default_deadline_s, power_cap_w=policy.power_cap_w)
    request_s = points[:, 1].copy()
    if policy.objective.goal == "throughput":
        points[:, 1] = tables.pace.period_s(rows)
    at = np.flatnonzero((rows == running).all(axis=1)) if len(running) else np.zeros(0, np.intp)
    stays = None if not len(at) else int(at[0])
    force = None if stays is None else Incumbent(tuple(points[stays].tolist()))
    try:
        choice = select(points, policy.objective, limits, force, request_s=request_s)
    except PlacementError:
        return None
    return stays if choice.index is None else choice.index
