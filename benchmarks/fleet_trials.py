"""Whole rollouts over simulated boards: one that breaks some of them, a good one, and one that costs more joules.

`python benchmarks/fleet_trials.py [--boards 1000] [--cases broken,good,worse] [--seed 1] [--json FILE] [--quick]`: for
each case a mosquitto, a PostgreSQL and two controllers of its own (`qeil fleet serve`), boards with the agent's outbox
and link (`qeil fleet simulate`), and the default plan with a shorter pause between rings. broken: 3 % of the boards
revert whatever they are given; worse: the bundle costs 8 % more joules per inference. Judged: the broken one ends in
the first ring, each board that broke has reverted by itself and none is left with an offer or a trial; the good one
reaches every board; the worse one ends before a quarter of the boards have it.

Ends with 0 where all of it came, 1 where something did not. `--quick` takes 60 boards and judges only what is left.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.needed import needed

with needed():
    from tests.broker import Broker
    from tests.fleet.databases import Postgres
    from tests.integration.fleet_kills import AGENT, Controllers, offer, wait


@dataclass(frozen=True)
class Case:
    """What the boards make of the bundle, and what is wanted of the rollout."""

    broken: float
    change: float
    status: str
    most_reached: float
    first_ring: bool


CASES = {
    "broken": Case(0.03, 0.0, "aborted", 0.2, True),
    "good": Case(0.0, 0.0, "done", 1.0, False),
    "worse": Case(0.0, 0.08, "aborted", 0.25, False),
}
UNDER_WAY = {"offered", "withdrawing", "silent"}
SOAK_S = 5.0


def run(name: str, boards: int, seed: int, folder: Path) -> dict[str, Any]:
    """One rollout from its start until nothing of it is under way."""
    case = CASES[name]
    broker = Broker(folder, "max_queued_messages 100000")
    server = Postgres(folder)
    controllers = Controllers(folder, broker, server.url)
    simulated = subprocess.Popen(
        [*AGENT, "simulate", "--boards", str(boards), "--port", str(broker.port), "--period", "10", "--memory",
         "--for", "3600", "--json", "--seed", str(seed), "--broken-share", str(case.broken),
         "--energy-change", str(case.change)], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait(lambda: len(controllers.ask("GET", "/v1/boards")) == boards, 300)
        wait(lambda: all(b["status"] == "online" for b in controllers.ask("GET", "/v1/boards")), 120)
        begun_s = time.monotonic()
        key = controllers.ask("POST", "/v1/rollouts", {"offer": offer()["offer"], "plan": {"soak_s": SOAK_S}})["id"]

        def found() -> dict[str, Any]:
            return dict(controllers.ask("GET", f"/v1/rollouts/{key}"))

        wait(lambda: found()["status"] != "running", 1200)
        decided_s = time.monotonic() - begun_s
        wait(lambda: not UNDER_WAY & set(found()["boards"]), 300)
        end, told = found(), controllers.ask("GET", "/v1/boards")
    finally:
        simulated.kill()
        simulated.wait(10)
        controllers.stop()
        server.stop()
        broker.stop()
    by_status = dict(end["boards"])
    reached = sum(count for status, count in by_status.items() if status not in {"pending", "withdrawn"})
    return {
        "case": name, "boards": boards, "seed": seed, "status": end["status"], "reason": end["reason"],
        "ring": end["ring"], "ended": by_status, "reached_share": reached / boards, "decided_after_s": round(decided_s),
        "in_trial_at_the_end": sum(b["bundle_status"] == "trial" for b in told),
        "reverted_but_in_force": sum(b["bundle_status"] == "reverted" and b["bundle_ver"] == 1 for b in told),
        "load": os.getloadavg()[0],
    }  # fmt: skip


def lacks(found: dict[str, Any], judge_share: bool) -> list[str]:
    """What did not come of what is wanted of this case."""
    case = CASES[found["case"]]
    wrong = []
    if found["in_trial_at_the_end"]:
        wrong.append(f"{found['in_trial_at_the_end']} boards are left in a trial")
    if found["reverted_but_in_force"]:
        wrong.append(f"{found['reverted_but_in_force']} boards reverted and have it in force")
    if not judge_share:
        return wrong
    if found["status"] != case.status:
        wrong.append(f"it is {found['status']}, not {case.status}")
    if found["reached_share"] > case.most_reached:
        wrong.append(f"it reached {found['reached_share']:.1%} of the boards, {case.most_reached:.0%} are allowed")
    if case.first_ring and found["ring"] != 0:
        wrong.append(f"it ended in ring {found['ring'] + 1}, not in the first")
    if case.broken and not found["ended"].get("reverted"):
        wrong.append("no board reverted")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=1000)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="60 boards; only that none is left in a trial is judged")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    names = [name.strip() for name in given.cases.split(",") if name.strip()]
    for name in names:
        if name not in CASES:
            parser.error(f"no case is called '{name}'; known: {', '.join(CASES)}")
    ends, failed = [], False
    for name in names:
        with tempfile.TemporaryDirectory(prefix="qeil-fleet-trials-") as folder:
            found = run(name, 60 if given.quick else given.boards, given.seed, Path(folder))
        ends.append(found)
        wrong = lacks(found, not given.quick)
        failed = failed or bool(wrong)
        print(json.dumps(found), flush=True)
        print(f"{'NOT MET: ' + '; '.join(wrong) if wrong else 'met'}  {name}", flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(ends, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
