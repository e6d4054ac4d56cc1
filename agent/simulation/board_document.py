"""Board document: a day on simulated boards as plain data, the one source of what is printed, drawn and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.errors import ConfigError
from agent.records import record
from agent.schema.board_scenario import BoardScenario
from agent.schema.policy import Policy
from agent.schema.simulated_board import SimulatedBoard
from agent.simulation.board_run import Moment, Result, run_board
from agent.storage import share, yaml_files
from agent.storage.problem import Problem, config_error, problems_of
from agent.storage.yaml_text import Document

PROVENANCE = "modelled"
Progress = Callable[[str, int, int], None]


@record(frozen=True)
class BoardDays:
    """A board scenario with everything that it names."""

    scenario: BoardScenario
    boards: tuple[SimulatedBoard, ...]
    policy: Policy


def load(path: Path) -> BoardDays:
    """Read a board scenario and all that it names, relative to its folder. Raises ConfigError with every problem."""
    document = yaml_files.read_document(path)
    scenario = yaml_files.validate(document, BoardScenario, str(path))
    found: list[Problem] = []
    boards: list[SimulatedBoard] = []
    for index, name in enumerate(scenario.boards):
        board, wrong = _board(path, document, name, index)
        found += wrong if board is None else _missing(path, document, scenario, board)
        boards += [] if board is None else [board]
    policy = None
    try:
        policy = yaml_files.load_policy(share.find_policy(_placed(path, scenario.policy)))
    except ConfigError as error:
        found += _located(path, document, ("policy",), error)
    if found or policy is None:
        raise config_error(found)
    return BoardDays(scenario, tuple(boards), policy)


def problems(path: Path) -> tuple[Problem, ...]:
    """Everything wrong with a board scenario and what it names."""
    try:
        load(path)
    except ConfigError as error:
        return problems_of(error)
    return ()


def _board(path: Path, document: Document, name: str, index: int) -> tuple[SimulatedBoard | None, list[Problem]]:
    try:
        return yaml_files.load_simulated_board(share.find_simulated_board(_placed(path, name))), []
    except ConfigError as error:
        return None, _located(path, document, ("boards", index), error)


def _placed(path: Path, name: str) -> str:
    return str(path.parent / name) if yaml_files.names_a_file(name) else name


def _located(path: Path, document: Document, key: tuple[str | int, ...], error: ConfigError) -> list[Problem]:
    """Problems inside another file stay there; a name that is not found is one of this file."""
    inside = [problem for problem in problems_of(error) if problem.file]
    if inside:
        return list(inside)
    text = ".".join(str(part) for part in key)
    return [Problem(str(path), document.line(key), text, error.message)]


def _missing(path: Path, document: Document, scenario: BoardScenario, board: SimulatedBoard) -> list[Problem]:
    """Zones and accelerators are numbered in the board's order; a lossy zone or fault that it lacks is said."""
    found = []
    for index, loss in enumerate(scenario.sensors.losses):
        if loss.zone > len(board.zones):
            key = ("sensors", "losses", index, "zone")
            message = f"board {board.name} has {len(board.zones)} zones; found {loss.zone}"
            found.append(Problem(str(path), document.line(key), f"sensors.losses.{index}.zone", message))
    for index, fault in enumerate(scenario.faults):
        if fault.accelerator > len(board.accelerators):
            where = ("faults", index, "accelerator")
            message = f"board {board.name} has {len(board.accelerators)} accelerators; found {fault.accelerator}"
            found.append(Problem(str(path), document.line(where), f"faults.{index}.accelerator", message))
    return found


def simulate(days: BoardDays, progress: Progress) -> dict[str, Any]:
    """Every board under every governor. The same scenario and seed give the same document."""
    scenario = days.scenario
    runs: list[dict[str, Any]] = []
    count = len(days.boards) * len(scenario.governors)
    for board in days.boards:
        for kind in scenario.governors:
            progress(f"{board.name}: {kind}", len(runs), count)
            runs.append(_row(scenario, board, run_board(scenario, board, days.policy, kind)))
    return {
        "scenario": scenario.name, "title": scenario.title, "kind": scenario.kind, "policy": days.policy.name,
        "seed": scenario.seed, "hours": scenario.hours, "provenance": PROVENANCE, "runs": runs,
    }  # fmt: skip


def _row(scenario: BoardScenario, board: SimulatedBoard, result: Result) -> dict[str, Any]:
    tally, seconds = result.tally, scenario.hours * 3600.0
    return {
        "board": board.name, "title": board.title, "source": board.source, "governor": result.governor,
        "served_share": tally.done / tally.asked if tally.asked else 1.0, "trips": result.trips,
        "throttled_s": result.throttled_s, "shutdowns": result.shutdowns, "peak_c": tally.peak_c,
        "over_limit_c": tally.over_c, "over_limit_s": tally.over_s,
        "halted_s": tally.halted_s, "limited_s": tally.derated_s, "mean_power_w": tally.energy_j / seconds,
        "energy_wh": tally.energy_j / 3600.0, "lane_deaths": tally.lane_deaths,
        "battery_empty_h": tally.battery_empty_h,
        "zones": [{"name": z.name, "trip_c": z.trip_c} for z in board.zones],
        "accelerators": [a.name for a in board.accelerators], "trace": [_point(m) for m in result.trace],
    }  # fmt: skip


def _point(moment: Moment) -> dict[str, Any]:
    return {
        "at_h": round(moment.at_h, 4), "ambient_c": round(moment.ambient_c, 3),
        "zones_c": [round(c, 3) for c in moment.zones_c], "pace": [round(p, 3) for p in moment.pace],
        "fan": round(moment.fan, 3), "asked": round(moment.asked, 4), "done": round(moment.done, 4),
    }  # fmt: skip
