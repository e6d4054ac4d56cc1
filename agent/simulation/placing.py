"""Placing: the assignment of stages to accelerators that each named placement means, for one pass on one board."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.errors import PlacementError
from agent.placement.baselines import single
from agent.placement.choice import mark
from agent.placement.greedy import greedy
from agent.placement.limits import Constraints
from agent.placement.problem import Problem
from agent.placement.solve import solve
from agent.placement.tables import Tables, make_tables
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.scenario import SINGLE
from agent.schema.workload import Workload

Rows = NDArray[np.int8]


@record(frozen=True, eq=False)
class Placed:
    """A pass on a board. `rows`: placement → accelerator index of each stage; `why`: placement → why it has none.

    `tables` and `front` [n, stages] are None where nothing can run or fit; `exact`: the front is proven.
    """

    workload: Workload
    tables: Tables | None
    front: Rows | None
    exact: bool
    rows: dict[str, Rows]
    why: dict[str, str]


def place(
    workload: Workload, profile: DeviceProfile, policy: Policy, placements: Sequence[str], seed: int,
    evaluations: int | None,
) -> Placed:  # fmt: skip
    """Search the pass's front and read every named placement off it. Raises nothing: reasons are in `why`."""
    try:
        tables = make_tables(workload, profile, policy)
    except PlacementError as error:
        why = {name: absent(name, profile) or error.message for name in placements}
        return Placed(workload, None, None, False, {}, why)
    try:
        result = solve(tables.problem, "pgsam", seed, evaluations=evaluations)
    except PlacementError as error:
        reason = _memory_reason(error)
        why = {name: _unusable(name, profile, tables) or reason for name in placements}
        return Placed(workload, tables, None, False, {}, why)
    front = result.assignments()
    found = {name: _row_or_reason(name, tables, front, profile, policy) for name in placements}
    rows = {name: row for name, row in found.items() if not isinstance(row, str)}
    why = {name: reason for name, reason in found.items() if isinstance(reason, str)}
    return Placed(workload, tables, front, result.exact, rows, why)


def _row_or_reason(placement: str, tables: Tables, front: Rows, profile: DeviceProfile, policy: Policy) -> Rows | str:
    try:
        return row_of(placement, tables, front, profile, policy)
    except PlacementError as error:
        return error.message


def row_of(placement: str, tables: Tables, front: Rows, profile: DeviceProfile, policy: Policy) -> Rows:
    """The assignment that a placement means. Raises PlacementError with the reason where there is none."""
    problem = tables.problem
    if placement.startswith(SINGLE):
        reason = _unusable(placement, profile, tables)
        if reason is not None:
            raise PlacementError(reason)
        return _single(problem, placement.removeprefix(SINGLE))
    if placement == "greedy":
        return greedy(problem)
    points = problem.objectives(front)
    if placement == "least-energy":
        index = int(np.lexsort((points[:, 1], points[:, 0]))[0])
    elif placement == "least-latency":
        index = int(np.lexsort((points[:, 0], points[:, 1]))[0])
    else:
        limits = Constraints(deadline_s=policy.admission.default_deadline_s, power_cap_w=policy.power_cap_w)
        return np.array(mark(problem, front, policy.objective, limits).assignment, dtype=np.int8)
    row: Rows = front[index]
    return row


def absent(placement: str, profile: DeviceProfile) -> str | None:
    """Why a single-accelerator placement has no meaning on the board; None where it has."""
    name = placement.removeprefix(SINGLE)
    if name == placement or name in {a.name for a in profile.accelerators}:
        return None
    return f"this board has no {name}"


def _unusable(placement: str, profile: DeviceProfile, tables: Tables) -> str | None:
    return absent(placement, profile) or dict(tables.excluded).get(placement.removeprefix(SINGLE))


def _single(problem: Problem, accelerator: str) -> Rows:
    try:
        return single(problem, accelerator)
    except PlacementError as error:
        at = problem.accelerators.index(accelerator)
        short = float(problem.memory[:, at].sum() - problem.capacity[problem.domain[at]])
        raise PlacementError(_short(short)) from error


def _memory_reason(error: PlacementError) -> str:
    short = error.context.get("relaxation_bytes")
    return error.message if short is None else _short(float(short))


def _short(missing_bytes: float) -> str:
    return f"does not fit: {missing_bytes / 1e9:.3g} GB of memory short"
