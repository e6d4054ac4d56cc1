"""Governors on simulated boards: trips, throttled seconds and work done, of the agent's and of what it is held against.

    python benchmarks/thermal.py [--quick] [--hours 24] [--from-hour 0] [--boards A,B] [--days A,B] [--seed N]
        [--governors A,B] [--jobs 2] [--store FOLDER] [--for-s SECONDS] [--table] [--json FILE]

Every board of scenarios/boards goes through every day of scenarios/ under: no governor, the thresholds alone, steps
up and down as thermald makes them, the agent's predictive governor, the same with resistances and time constants that
are 15 % wrong and noisier sensors, and an oracle that knows the true network, air and load. All are held to the same
limits of the policy. Every number is modelled; the boards are not the model that the governor learns.

Ends with 0 where every goal is met, 1 where one is not, 3 where pieces are left to run (again, with the same --store).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.schema.board_scenario import BoardScenario, Knowledge
from agent.simulation import board_document
from agent.simulation.board_run import run_board

ROOT = Path(__file__).resolve().parent.parent
DAYS = ("sealed-box-summer", "fan-failure", "sensor-loss", "driver-resets", "burst-load", "battery-evening")
KINDS = ("none", "thresholds", "stepping", "predictive", "wrong model", "oracle")
WRONG = (0.15, -0.15)
FIRST = ("oracle", "predictive", "wrong model")
"""Run before the others: what is promised, and what it is held against."""
GUESSED_S = {"none": 4.0, "thresholds": 5.0, "stepping": 4.0, "predictive": 60.0, "wrong model": 60.0, "oracle": 90.0}
"""Seconds of a day under each governor, until one has been seen."""
UNFINISHED = 3
QUICK_BOARDS = ["pi-5-bare", "rk3588-fanless"]


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
    over_c: float | None = None
    """Most that a zone was above its limit (the policy's hard_c or its trip); None: kept by an older program."""
    over_s: float | None = None


def wrong(scenario: BoardScenario, sign: float) -> BoardScenario:
    sensors = scenario.sensors.model_copy(update={"noise_c": max(0.8, scenario.sensors.noise_c)})
    knowledge = Knowledge(resistance_error=sign, time_constant_error=-sign)
    return scenario.model_copy(update={"sensors": sensors, "knowledge": knowledge})


@dataclass(frozen=True)
class Piece:
    """One board, one day, one governor: what one process does at a time."""

    day: str
    board: str
    kind: str
    number: int
    hours: float
    from_hour: float
    seed: int | None = None
    """None: the scenario's own."""

    @property
    def name(self) -> str:
        seed = "" if self.seed is None else f".seed-{self.seed}"
        return f"{self.day}.{self.board}.{self.kind.replace(' ', '-')}.{self.hours:g}h.{self.from_hour:g}{seed}"


def run_piece(piece: Piece) -> Row:
    loaded = board_document.load(ROOT / f"scenarios/{piece.day}.yaml")
    seed = loaded.scenario.seed if piece.seed is None else piece.seed
    scenario = loaded.scenario.model_copy(update={"hours": piece.hours, "from_h": piece.from_hour, "seed": seed})
    board = next(b for b in loaded.boards if b.name == piece.board)
    mine = wrong(scenario, WRONG[piece.number % 2]) if piece.kind == "wrong model" else scenario
    began = time.monotonic()
    result = run_board(mine, board, loaded.policy, "predictive" if piece.kind == "wrong model" else piece.kind)
    tally = result.tally
    return Row(
        piece.day, board.name, piece.kind, tally.done / tally.asked, result.trips, result.throttled_s,
        result.shutdowns, tally.peak_c, time.monotonic() - began, tally.over_c, tally.over_s,
    )  # fmt: skip


def pieces_of(
    days: list[str], boards: list[str], hours: float, from_hour: float, seed: int | None, kinds: list[str]
) -> list[Piece]:
    """Agent and oracle of every board's day before the rest; every board and day has a turn before one comes again."""
    found: list[tuple[bool, int, Piece]] = []
    for number, day in enumerate(days):
        known = [b.name for b in board_document.load(ROOT / f"scenarios/{day}.yaml").boards]
        for at, board in enumerate(b for b in known if not boards or b in boards):
            turn = (at - number) % len(known)
            for kind in sorted(kinds, key=lambda k: FIRST.index(k) if k in FIRST else len(FIRST)):
                late = kind not in FIRST[:2]
                found.append((late, turn, Piece(day, board, kind, number, hours, from_hour, seed)))
    return [piece for _, _, piece in sorted(found, key=lambda each: each[:2])]


def left_s(waiting: list[Piece], running: list[Piece], seen: dict[str, list[float]], jobs: int) -> float:
    """Seconds until all is done, as far as the pieces done so far tell; what runs counts half."""

    def expected(piece: Piece) -> float:
        times = seen.get(piece.kind)
        return statistics.mean(times) if times else GUESSED_S[piece.kind] * piece.hours / 24.0

    return (sum(map(expected, waiting)) + 0.5 * sum(map(expected, running))) / jobs


def kept_rows(pieces: list[Piece], store: Path | None) -> dict[str, Row]:
    if store is None:
        return {}
    store.mkdir(parents=True, exist_ok=True)
    files = {p.name: store / f"{p.name}.json" for p in pieces}
    return {name: Row(**json.loads(path.read_text())) for name, path in files.items() if path.is_file()}


def run_all(pieces: list[Piece], jobs: int, store: Path | None, until_s: float) -> list[Row]:
    """What is not yet in `store`, in `jobs` processes; no piece is begun after `until_s` of the monotonic clock."""
    rows = kept_rows(pieces, store)
    waiting = [piece for piece in pieces if piece.name not in rows]
    seen: dict[str, list[float]] = {}
    if rows:
        print(f"{len(rows)} of {len(pieces)} pieces are in {store} and are not run again", flush=True)
    with ProcessPoolExecutor(jobs) as pool:
        running: dict[Future[Row], Piece] = {}
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < until_s:
                piece = waiting.pop(0)
                running[pool.submit(run_piece, piece)] = piece
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                piece, row = running.pop(done), done.result()
                rows[piece.name] = row
                seen.setdefault(piece.kind, []).append(row.seconds)
                if store is not None:
                    (store / f"{piece.name}.json").write_text(json.dumps(asdict(row)))
                later_s = left_s(waiting, list(running.values()), seen, jobs)
                print(
                    f"[{len(rows)}/{len(pieces)}, {later_s / 60.0:.0f} min left] "
                    f"{row.day:18} {row.board:16} {row.governor:12} served {row.served:6.1%}  trips {row.trips:5} "
                    f"throttled {row.throttled_s:7.0f} s  off {row.shutdowns:3}  peak {row.peak_c:5.1f} °C  "
                    f"above hard_c {row.over_c or 0.0:4.1f} K at most, {row.over_s or 0.0:5.0f} s "
                    f"({row.seconds:.0f} s)",
                    flush=True,
                )  # fmt: skip
    return [rows[piece.name] for piece in pieces if piece.name in rows]


def table(rows: list[Row]) -> str:
    """Work as a share of the oracle's by board and day, in Markdown; a governor that has not run is a dash."""
    cells = {(r.day, r.board, r.governor): r for r in rows}
    order = ("predictive", "wrong model", "stepping", "thresholds", "none")
    lines = [f"| day, board | {' | '.join(order)} | oracle serves |", "|---" * (len(order) + 2) + "|"]
    for day, board in sorted({(r.day, r.board) for r in rows}):
        oracle = cells.get((day, board, "oracle"))
        shares = []
        for kind in order:
            row = cells.get((day, board, kind))
            shares.append("–" if row is None or oracle is None else f"{row.served / oracle.served:.1%}")
        lines.append(f"| {day}, {board} | {' | '.join(shares)} | {'–' if oracle is None else f'{oracle.served:.1%}'} |")
    return "\n".join(lines)


def report(rows: list[Row], kinds: list[str]) -> bool:
    """Medians and the worst case of each governor; True where every goal that `kinds` allow to judge is met."""
    through: dict[tuple[str, str], int] = Counter((r.day, r.board) for r in rows)
    rows = [r for r in rows if through[r.day, r.board] == len(kinds)]
    best = {(r.day, r.board): r.served for r in rows if r.governor == "oracle"}
    if not rows:
        print("\nno board has been through a day under every governor yet")
        return False
    print(f"\n{len({(r.day, r.board) for r in rows})} board-days that every governor has been through")
    print("governor      trips  throttled s  off  above hard_c s  K at most   of the oracle: median  worst   (case)")
    ratios: dict[str, list[float]] = {}
    for kind in kinds:
        mine = [r for r in rows if r.governor == kind]
        share = {(r.day, r.board): r.served / best[r.day, r.board] for r in mine if (r.day, r.board) in best}
        ratios[kind] = list(share.values())
        case = min(share, key=lambda key: share[key]) if share else None
        of_oracle = (
            f"{statistics.median(share.values()):21.1%} {share[case]:6.1%}   ({case[1]}, {case[0]})" if case else ""
        )
        print(
            f"{kind:12} {sum(r.trips for r in mine):6} {sum(r.throttled_s for r in mine):12.0f} "
            f"{sum(r.shutdowns for r in mine):4} {sum(r.over_s or 0.0 for r in mine):15.0f} "
            f"{max(r.over_c or 0.0 for r in mine):10.2f}   {of_oracle}"
        )
    goals = goals_of(rows, ratios, kinds)
    print()
    for goal, met in goals.items():
        print(f"{'met    ' if met else 'NOT MET'}  {goal}")
    return all(goals.values())


def goals_of(rows: list[Row], ratios: dict[str, list[float]], kinds: list[str]) -> dict[str, bool]:
    """What was aimed at and came, as far as the governors that were run can tell."""
    clean = {k: not any(r.trips or r.throttled_s for r in rows if r.governor == k) for k in kinds}
    goals = {}
    if "predictive" in kinds:
        goals["0 trips and 0 s throttled"] = clean["predictive"]
    if "wrong model" in kinds:
        goals["0 trips with a network that is 15 % wrong and noisy sensors"] = clean["wrong model"]
    if "none" in kinds:
        goals["ungoverned boards trip"] = not clean["none"]
    if {"predictive", "oracle"} <= set(kinds):
        goals["at least 95 % of the oracle's work in every case"] = min(ratios["predictive"]) >= 0.95
    if {"predictive", "oracle", "thresholds", "stepping"} <= set(kinds):
        mean = {k: statistics.mean(v) for k, v in ratios.items()}
        most = max(mean["thresholds"], mean["stepping"])
        goals["more work than thresholds and steps"] = mean["predictive"] > most
    return goals


def listed(text: str, known: Sequence[str], what: str, parser: argparse.ArgumentParser) -> list[str]:
    """The names in `text`, all of them known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"no {what} is called '{name}'; known: {', '.join(known)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two days, two boards, half an hour each; not judged")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--from-hour", type=float, default=0.0)
    parser.add_argument("--boards", default="", help="of scenarios/boards; all, if none is named")
    parser.add_argument("--days", "--scenarios", default=",".join(DAYS), help="of scenarios/")
    parser.add_argument("--governors", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, help="of noise, arrivals and faults; the scenario's own, if none is given")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--store", type=Path, help="folder that keeps every finished piece; what is there is not run")
    parser.add_argument("--for-s", type=float, default=float("inf"), help="begin no piece after so many seconds")
    parser.add_argument("--table", action="store_true", help="every board-day as well, in Markdown")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    until_s = time.monotonic() + given.for_s
    known = [path.stem for path in sorted((ROOT / "scenarios/boards").glob("*.yaml"))]
    boards = listed(given.boards, known, "board", parser)
    days = listed(given.days, DAYS, "day", parser)
    kinds = listed(given.governors, KINDS, "governor", parser)
    if given.quick:
        pieces = pieces_of(["sealed-box-summer", "burst-load"], QUICK_BOARDS, 0.5, 12.5, given.seed, list(KINDS))
        report(run_all(pieces, given.jobs, None, until_s), list(KINDS))
        return 0
    pieces = pieces_of(days, boards, given.hours, given.from_hour, given.seed, kinds)
    rows = run_all(pieces, given.jobs, given.store, until_s)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if given.table:
        print("\n" + table(rows))
    met = report(rows, kinds)
    if len(rows) < len(pieces):
        print(f"{len(rows)} of {len(pieces)} pieces are done; run it again with the same --store")
        return UNFINISHED
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
