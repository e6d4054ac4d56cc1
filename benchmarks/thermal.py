"""Governors on simulated boards: trips, throttled seconds and work done, of the agent's and of what it is held against.

    python benchmarks/thermal.py [--quick] [--hours 24] [--from-hour 0] [--boards A,B] [--days A,B] [--json FILE]

Every board of scenarios/boards goes through every day of scenarios/ under: no governor, the thresholds alone, steps
up and down as thermald makes them, the agent's predictive governor, the same with resistances and time constants that
are 15 % wrong and noisier sensors, and an oracle that knows the true network, air and load. All are held to the same
limits of the policy. Every number is modelled; the boards are not the model that the governor learns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.schema.board_scenario import BoardScenario, Knowledge
from agent.simulation import board_document
from agent.simulation.board_run import run_board

ROOT = Path(__file__).resolve().parent.parent
DAYS = ("sealed-box-summer", "fan-failure", "sensor-loss", "driver-resets", "burst-load", "battery-evening")
KINDS = ("none", "thresholds", "stepping", "predictive", "wrong model", "oracle")
WRONG = (0.15, -0.15)


@dataclass(frozen=True)
class Row:
    day: str
    board: str
    governor: str
    served: float
    trips: int
    throttled_s: float
    shutdowns: int
    peak_c: float
    seconds: float


def wrong(scenario: BoardScenario, sign: float) -> BoardScenario:
    sensors = scenario.sensors.model_copy(update={"noise_c": max(0.8, scenario.sensors.noise_c)})
    knowledge = Knowledge(resistance_error=sign, time_constant_error=-sign)
    return scenario.model_copy(update={"sensors": sensors, "knowledge": knowledge})


def run_all(days: list[str], boards: list[str], hours: float, from_hour: float) -> list[Row]:
    rows = []
    for number, day in enumerate(days):
        loaded = board_document.load(ROOT / f"scenarios/{day}.yaml")
        scenario = loaded.scenario.model_copy(update={"hours": hours, "from_h": from_hour})
        for board in loaded.boards:
            if boards and board.name not in boards:
                continue
            for kind in KINDS:
                mine = wrong(scenario, WRONG[number % 2]) if kind == "wrong model" else scenario
                began = time.monotonic()
                result = run_board(mine, board, loaded.policy, "predictive" if kind == "wrong model" else kind)
                tally = result.tally
                row = Row(
                    day, board.name, kind, tally.done / tally.asked, result.trips, result.throttled_s,
                    result.shutdowns, tally.peak_c, time.monotonic() - began,
                )  # fmt: skip
                rows.append(row)
                print(
                    f"{day:18} {board.name:16} {kind:12} served {row.served:6.1%}  trips {row.trips:5} throttled "
                    f"{row.throttled_s:7.0f} s  off {row.shutdowns:3}  peak {row.peak_c:5.1f} °C ({row.seconds:.0f} s)",
                    flush=True,
                )
    return rows


def report(rows: list[Row]) -> bool:
    """Medians and the worst case of each governor; True where every goal is met."""
    best = {(r.day, r.board): r.served for r in rows if r.governor == "oracle"}
    print("\ngovernor      trips  throttled s  off   of the oracle's work: median  worst   (worst case)")
    ratios: dict[str, list[float]] = {}
    for kind in KINDS:
        mine = [r for r in rows if r.governor == kind]
        share = {(r.day, r.board): r.served / best[r.day, r.board] for r in mine}
        ratios[kind] = list(share.values())
        case = min(share, key=lambda key: share[key])
        print(
            f"{kind:12} {sum(r.trips for r in mine):6} {sum(r.throttled_s for r in mine):12.0f} "
            f"{sum(r.shutdowns for r in mine):4}   {statistics.median(share.values()):28.1%} {share[case]:6.1%}   "
            f"({case[1]}, {case[0]})"
        )
    clean = {k: not any(r.trips or r.throttled_s for r in rows if r.governor == k) for k in KINDS}
    mean = {k: statistics.mean(v) for k, v in ratios.items()}
    goals = {
        "0 trips and 0 s throttled": clean["predictive"],
        "0 trips with a network that is 15 % wrong and noisy sensors": clean["wrong model"],
        "ungoverned boards trip": not clean["none"],
        "at least 95 % of the oracle's work in every case": min(ratios["predictive"]) >= 0.95,
        "more work than thresholds and steps": mean["predictive"] > max(mean["thresholds"], mean["stepping"]),
    }
    print()
    for goal, met in goals.items():
        print(f"{'met    ' if met else 'NOT MET'}  {goal}")
    return all(goals.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two days, two boards, half an hour each; not judged")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--from-hour", type=float, default=0.0)
    parser.add_argument("--boards", default="")
    parser.add_argument("--days", default=",".join(DAYS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    boards = [b for b in given.boards.split(",") if b]
    if given.quick:
        rows = run_all(["sealed-box-summer", "burst-load"], ["pi-5-bare", "rk3588-fanless"], 0.5, 12.5)
        report(rows)
        return 0
    rows = run_all(given.days.split(","), boards, given.hours, given.from_hour)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0 if report(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
