"""Uncertainty: how far a modelled cost may be off, as far as the profile says how far its coefficients are.

First order: each coefficient is moved by its standard deviation alone, with the placements as they are, and the
effects add in squares (coefficients of different origin are taken as independent). What states no deviation counts as
exact, and the number of those is reported.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import numpy as np

from agent.placement.tables import Tables, make_tables
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.simulation.coefficients import Coefficient, coefficients, shifted, without_others
from agent.simulation.comparison import REQUEST, BoardResult, CaseResult, Key
from agent.simulation.placing import Rows
from agent.simulation.request import Cost, pass_cost, request_cost

_SPEEDS = frozenset({"peak_flops_per_s", "bandwidth_bytes_per_s", "bandwidth_efficiency", "share"})


@record(frozen=True)
class Spread:
    """One standard deviation: of energy and latency as shares of them, of the changes as a difference of shares.

    None is unknown: what it rests on states no deviation, or for latencies not all of it does.
    """

    energy: float | None
    latency: float | None
    energy_change: float | None
    latency_change: float | None


@record(frozen=True, eq=False)
class BoardSpread:
    """Spreads by case and (phase or request, placement); how many coefficients state a deviation and how many none."""

    spreads: tuple[dict[Key, Spread], ...]
    mean_changes: dict[str, tuple[float | None, float | None]]
    stated: int
    unstated: int
    assumed: int


def board_spread(
    board: BoardResult, policy: Policy, baseline: str, progress: Callable[[Coefficient], None]
) -> BoardSpread:
    """Spreads of everything on one board. `mean_changes`: placement → spread of the mean energy and latency change."""
    used = {
        name for case in board.cases for phase, placement in case.costs for name in case.accelerators(phase, placement)
    }
    known = coefficients(board.profile, used)
    stated = [c for c in known if c.rel_uncertainty]
    sums: list[dict[Key, list[float]]] = [defaultdict(lambda: [0.0] * 4) for _ in board.cases]
    means: dict[str, list[float]] = defaultdict(lambda: [0.0] * 2)
    alone = without_others(board.profile, used) if used else board.profile
    for coefficient in stated:
        progress(coefficient)
        moved = shifted(alone, coefficient, 1.0 + (coefficient.rel_uncertainty or 0.0))
        effects = [_effects(case, moved, policy, baseline) for case in board.cases]
        for total, effect in zip(sums, effects, strict=True):
            for key, values in effect.items():
                total[key] = [t + v * v for t, v in zip(total[key], values, strict=True)]
        _add_means(means, board.cases, effects, baseline)
    timed = _speeds_known(board.profile, used, known)
    spreads = tuple({key: _spread(total[key], timed) for key in total} for total in sums)
    return BoardSpread(
        spreads, {name: (_root(e), _root(t) if timed else None) for name, (e, t) in means.items()}, len(stated),
        len(known) - len(stated), sum(c.provenance == "assumed" for c in known),
    )  # fmt: skip


def _speeds_known(profile: DeviceProfile, used: Collection[str], known: Sequence[Coefficient]) -> bool:
    """Whether all speeds state a deviation: with one that does not, the spread of a latency would be a pretence."""
    for accelerator in profile.accelerators:
        for runtime in accelerator.runtimes if accelerator.name in used else ():
            if runtime.bandwidth_efficiency is None or not runtime.compute_efficiency:
                return False
    return all(c.rel_uncertainty is not None for c in known if c.key in _SPEEDS)


def _spread(squares: Sequence[float], timed: bool) -> Spread:
    energy, latency, energy_change, latency_change = (_root(square) for square in squares)
    return Spread(energy, latency if timed else None, energy_change, latency_change if timed else None)


def _root(square: float) -> float | None:
    return math.sqrt(square) or None


def costs_under(case: CaseResult, profile: DeviceProfile, policy: Policy) -> dict[Key, Cost]:
    """The case's placements, unchanged, priced with another profile that has all accelerators they use."""
    tables: list[Tables] = []
    rows: list[dict[str, Rows]] = []
    costs: dict[Key, Cost] = {}
    for placed in case.placed:
        if placed.tables is None or not placed.rows:
            continue
        tables.append(make_tables(placed.workload, profile, policy))
        rows.append({name: _renumbered(row, placed.tables, tables[-1]) for name, row in placed.rows.items()})
        costs |= {(placed.workload.phase, name): pass_cost(tables[-1], row) for name, row in rows[-1].items()}
    for phase, name in case.costs:
        if phase == REQUEST:
            costs[phase, name] = request_cost(case.case, profile, policy, tables, [chosen[name] for chosen in rows])
    return costs


def _renumbered(row: Rows, before: Tables, after: Tables) -> Rows:
    """The same accelerators by their places in other tables."""
    found: Rows = np.array(
        [after.problem.accelerators.index(before.problem.accelerators[a]) for a in row.tolist()], dtype=np.int8
    )
    return found


def _effects(case: CaseResult, moved: DeviceProfile, policy: Policy, baseline: str) -> dict[Key, list[float]]:
    costs = costs_under(case, moved, policy)
    effects = {}
    for key, cost in costs.items():
        now = case.costs[key]
        effects[key] = [cost.energy_j / now.energy_j - 1.0, cost.latency_s / now.latency_s - 1.0, 0.0, 0.0]
        before, after = case.costs.get((key[0], baseline)), costs.get((key[0], baseline))
        if before is not None and after is not None:
            effects[key][2] = cost.energy_j / after.energy_j - now.energy_j / before.energy_j
            effects[key][3] = cost.latency_s / after.latency_s - now.latency_s / before.latency_s
    return effects


def _add_means(
    means: dict[str, list[float]], cases: Sequence[CaseResult], effects: Sequence[dict[Key, list[float]]], baseline: str
) -> None:
    shifts: dict[str, list[list[float]]] = defaultdict(list)
    for case, effect in zip(cases, effects, strict=True):
        for (phase, placement), values in effect.items():
            if phase == REQUEST and (REQUEST, baseline) in case.costs:
                shifts[placement].append(values[2:])
    for placement, found in shifts.items():
        for i in range(2):
            means[placement][i] += (sum(v[i] for v in found) / len(found)) ** 2
