"""Endurance: a scenario's requests one after another on a simulated board – does its firmware throttle?

What a placement draws from each accelerator comes from the cost model, heat paths, fan and trips from the simulated
board, and the governor is the agent's own. The requests never pause, so every accelerator heats with its mean power
over all models in turn; a governor that slows one of them slows the share of the time that a request spends there.
"""

from __future__ import annotations

from typing import Any

from agent.schema.board_scenario import AirPoint, Arrivals, BoardScenario, Governor
from agent.schema.policy import Policy
from agent.schema.scenario import Endurance, Scenario
from agent.schema.simulated_board import SimulatedBoard
from agent.simulation.board_run import run_board
from agent.simulation.comparison import REQUEST, BoardResult, CaseResult
from agent.simulation.references import Resolved

ALWAYS_BUSY = 1.5
"""Requests as a share of what can be served: the queue never runs dry."""

Draw = dict[str, tuple[float, float]]
"""Mean watts and busy share by accelerator."""


def endurance(resolved: Resolved, board: BoardResult) -> list[dict[str, Any]]:
    """The baseline without a governor, the placement without and with one; none without `operation` in the scenario."""
    scenario = resolved.scenario
    if scenario.operation is None:
        return []
    asked = scenario.operation.endurance
    kinds: list[tuple[str, Governor]] = [(asked.placement, "none"), (asked.placement, "predictive")]
    if asked.placement != scenario.baseline:
        kinds.insert(0, (scenario.baseline, "none"))
    truth = resolved.heated.get(board.profile.name)
    return [_row(scenario, asked, resolved.policy, board, truth, placement, kind) for placement, kind in kinds]


def _row(
    scenario: Scenario, asked: Endurance, policy: Policy, board: BoardResult, truth: SimulatedBoard | None,
    placement: str, kind: Governor,
) -> dict[str, Any]:  # fmt: skip
    row: dict[str, Any] = {
        "board": board.profile.name, "simulated_board": truth.name if truth else None, "placement": placement,
        "governor": kind, "hours": asked.hours, "ambient_c": asked.ambient_c, "provenance": "unknown",
    }  # fmt: skip
    if truth is None:
        return row | {"unknown": "no thermal description"}
    draw = mean_draw(board, placement)
    if not draw:
        return row | {"unknown": f"no model runs under {placement} here"}
    missing = sorted(draw.keys() - {a.name for a in truth.accelerators})
    if missing:
        return row | {"unknown": f"{truth.name} describes no {', '.join(missing)}"}
    result = run_board(_day(scenario, asked, truth), loaded(truth, draw), policy, kind)
    return row | {
        "unknown": None, "provenance": "modelled", "trips": result.trips, "throttled_s": result.throttled_s,
        "shutdowns": result.shutdowns, "peak_c": result.tally.peak_c,
        "speed_share": result.tally.done / (asked.hours * 3600.0),
        "power_w": {name: watts for name, (watts, _) in draw.items()},
    }  # fmt: skip


def mean_draw(board: BoardResult, placement: str) -> Draw:
    """Mean watts of each accelerator over one request of each model that runs so, and the share of time it works."""
    cases = [c for c in board.cases if (REQUEST, placement) in c.costs]
    joules: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for case in cases:
        _add(case, placement, joules, seconds)
    total_s = sum(c.costs[REQUEST, placement].latency_s for c in cases)
    return {name: (joules[name] / total_s, seconds[name] / total_s) for name in joules if joules[name] > 0}


def _add(case: CaseResult, placement: str, joules: dict[str, float], seconds: dict[str, float]) -> None:
    """One request's joules and seconds by accelerator; those of transfers go to who works, in proportion."""
    here_j: dict[str, float] = {}
    here_s: dict[str, float] = {}
    for placed in case.placed:
        if placed.tables is None:
            continue
        problem, times = placed.tables.problem, case.case.repeats(placed.workload.phase)
        for stage, at in enumerate(placed.rows[placement].tolist()):
            name = problem.accelerators[at]
            here_j[name] = here_j.get(name, 0.0) + times * float(problem.energy[stage, at])
            here_s[name] = here_s.get(name, 0.0) + times * float(problem.latency[stage, at])
    cost = case.costs[REQUEST, placement]
    more_j, more_s = cost.energy_j / sum(here_j.values()), cost.latency_s / sum(here_s.values())
    for name, own_j in here_j.items():
        joules[name] = joules.get(name, 0.0) + more_j * own_j
        seconds[name] = seconds.get(name, 0.0) + more_s * here_s[name]


def loaded(truth: SimulatedBoard, draw: Draw) -> SimulatedBoard:
    """The board with the accelerators at work only, drawing what the cost model gives them."""
    units = [a for a in truth.accelerators if a.name in draw]
    changed = [a.model_copy(update={"power_w": draw[a.name][0], "requests_per_s": draw[a.name][1]}) for a in units]
    return truth.model_copy(update={"accelerators": tuple(changed)})


def _day(scenario: Scenario, asked: Endurance, truth: SimulatedBoard) -> BoardScenario:
    return BoardScenario(
        version=1, name=scenario.name, title=scenario.title, kind="board-run", boards=(truth.name,),
        policy=scenario.policy, hours=asked.hours, step_s=asked.step_s, seed=scenario.seed,
        air=(AirPoint(at_h=0.0, ambient_c=asked.ambient_c),),
        arrivals=(Arrivals(from_h=0.0, load_share=ALWAYS_BUSY),),
    )  # fmt: skip
