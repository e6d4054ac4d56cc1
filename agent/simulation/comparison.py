"""Comparison: every placement of every case on every board, pass by pass and for a whole request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agent.errors import PlacementError
from agent.placement.tables import Tables
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.scenario import Scenario
from agent.schema.workload import Workload
from agent.simulation.cases import Case
from agent.simulation.placing import Placed, Rows, place
from agent.simulation.references import Resolved
from agent.simulation.request import Cost, pass_cost, request_cost

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the step and the number of steps."""

REQUEST = "request"
"""Stands beside the phases for all of them together."""

Key = tuple[str, str]
"""(phase or `request`, placement)."""


@record(frozen=True, eq=False)
class CaseResult:
    """One case on one board. `costs` and `why` by (phase or request, placement)."""

    case: Case
    placed: tuple[Placed, ...]
    costs: dict[Key, Cost]
    why: dict[Key, str]

    def change(self, key: Key, baseline: str, quantity: str) -> float | None:
        """Relative change against the baseline; None where either is missing."""
        return change_of(self.costs, key, baseline, quantity)

    def accelerators(self, phase: str, placement: str) -> tuple[str, ...]:
        """Accelerators a placement uses in a phase (or the whole request), those with most stages first."""
        counts: dict[str, int] = {}
        for placed in self.placed:
            if phase in (REQUEST, placed.workload.phase) and placed.tables and placement in placed.rows:
                for a in placed.rows[placement].tolist():
                    name = placed.tables.problem.accelerators[a]
                    counts[name] = counts.get(name, 0) + 1
        return tuple(sorted(counts, key=lambda name: (-counts[name], name)))


@record(frozen=True, eq=False)
class BoardResult:
    """All cases on one board."""

    profile: DeviceProfile
    cases: tuple[CaseResult, ...]

    def changes(self, phase: str, placement: str, baseline: str, quantity: str) -> list[float]:
        """Relative changes of all cases that have both placements."""
        found = [c.change((phase, placement), baseline, quantity) for c in self.cases]
        return [change for change in found if change is not None]


def change_of(costs: Mapping[Key, Cost], key: Key, baseline: str, quantity: str) -> float | None:
    """Relative change of `energy` or `latency` of one placement against another in the same phase."""
    mine, other = costs.get(key), costs.get((key[0], baseline))
    if mine is None or other is None:
        return None
    if quantity == "energy":
        return mine.energy_j / other.energy_j - 1.0
    return mine.latency_s / other.latency_s - 1.0


def compare(resolved: Resolved, progress: Progress) -> tuple[BoardResult, ...]:
    """Every board of a scenario, those that are only set beside the others last."""
    effort = dict.fromkeys((p.name for p in resolved.profiles), resolved.scenario.search_evaluations)
    effort |= {p.name: beside_effort(resolved.scenario) for p in resolved.beside}
    profiles = (*resolved.profiles, *resolved.beside)
    steps = len(profiles) * sum(len(case.passes) for case in resolved.cases)
    done = 0
    boards = []
    for profile in profiles:
        results = []
        for case in resolved.cases:
            placed: list[Placed] = []
            for workload in case.passes:
                progress(f"{profile.name}: {case.label}, {workload.phase}", done, steps)
                placed.append(_place(workload, profile, resolved, effort[profile.name]))
                done += 1
            results.append(case_result(case, placed, profile, resolved))
        boards.append(BoardResult(profile, tuple(results)))
    return tuple(boards)


def wanted(scenario: Scenario) -> tuple[str, ...]:
    """The placements to compute: those asked for, and the front's ends, which bound what any placement could do."""
    return tuple(dict.fromkeys((*scenario.placements, "least-energy", "least-latency")))


def beside_effort(scenario: Scenario) -> int | None:
    """The smaller of both budgets: they are asked for a look, not for a proof."""
    asked = scenario.beside.search_evaluations if scenario.beside else None
    budgets = [b for b in (asked, scenario.search_evaluations) if b is not None]
    return min(budgets, default=None)


def _place(workload: Workload, profile: DeviceProfile, resolved: Resolved, evaluations: int | None) -> Placed:
    scenario = resolved.scenario
    return place(workload, profile, resolved.policy, wanted(scenario), scenario.seed, evaluations)


def case_result(case: Case, placed: Sequence[Placed], profile: DeviceProfile, resolved: Resolved) -> CaseResult:
    """Costs of every placement from what each pass found."""
    why: dict[Key, str] = {(p.workload.phase, name): reason for p in placed for name, reason in p.why.items()}
    rows = {
        name: tuple(p.rows[name] for p in placed)
        for name in wanted(resolved.scenario)
        if all(name in p.rows for p in placed)
    }
    costs: dict[Key, Cost] = {}
    for p in placed:
        if p.tables is not None:
            costs |= {(p.workload.phase, name): pass_cost(p.tables, row) for name, row in p.rows.items()}
    tables = [p.tables for p in placed if p.tables is not None]
    if len(tables) == len(placed):
        requests, reasons = request_costs(case, profile, resolved.policy, tables, rows)
        costs |= requests
        why |= reasons
    for name in wanted(resolved.scenario):
        if (REQUEST, name) not in costs and (REQUEST, name) not in why:
            phase = next(p.workload.phase for p in placed if name in p.why)
            why[REQUEST, name] = f"{phase}: {why[phase, name]}"
    return CaseResult(case, tuple(placed), costs, why)


def request_costs(
    case: Case, profile: DeviceProfile, policy: Policy, tables: Sequence[Tables],
    rows: Mapping[str, Sequence[Rows]],
) -> tuple[dict[Key, Cost], dict[Key, str]]:  # fmt: skip
    """Cost of a request under each placement that every pass has, and why not where the passes do not go together."""
    costs: dict[Key, Cost] = {}
    why: dict[Key, str] = {}
    for name, chosen in rows.items():
        found = _request_or_reason(case, profile, policy, tables, chosen)
        if isinstance(found, str):
            why[REQUEST, name] = found
        else:
            costs[REQUEST, name] = found
    return costs, why


def _request_or_reason(
    case: Case, profile: DeviceProfile, policy: Policy, tables: Sequence[Tables], rows: Sequence[Rows]
) -> Cost | str:
    try:
        return request_cost(case, profile, policy, tables, rows)
    except PlacementError as error:
        return error.message
