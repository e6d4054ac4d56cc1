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
import contextlib
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
    from agent.fleet.simulation import chance
    from tests.broker import Broker
    from tests.fleet.databases import Postgres
    from tests.integration.fleet_kills import AGENT, Controllers, offer, wait


@dataclass(frozen=True)
class Case:
    """What the boards make of the bundle, and what is wanted of the rollout."""

    broken: float
    change: float
    status: str
    reason: str
    """Words of the reason that an abort has to give."""
    least_reached: float
    most_reached: float
    last_ring: int


CASES = {
    "broken": Case(0.03, 0.0, "aborted", "failed", 0.001, 0.2, 0),
    "good": Case(0.0, 0.0, "done", "", 1.0, 1.0, 2),
    "worse": Case(0.0, 0.08, "aborted", "joules per inference", 0.001, 0.25, 2),
}
UNDER_WAY = {"offered", "withdrawing"}
SOAK_S = 5.0


def run(name: str, boards: int, seed: int, folder: Path) -> dict[str, Any]:
    """One rollout from its start until nothing of it is under way."""
    case = CASES[name]
    with contextlib.ExitStack() as running:
        broker = Broker(folder, "max_queued_messages 100000")
        running.callback(broker.stop)
        server = Postgres(folder)
        running.callback(server.stop)
        controllers = Controllers(folder, broker, server.url)
        running.callback(controllers.stop)
        command = [*AGENT, "simulate", "--boards", str(boards), "--port", str(broker.port), "--period", "10",
                   "--memory", "--for", "3600", "--json", "--seed", str(seed), "--broken-share", str(case.broken),
                   "--energy-change", str(case.change)]  # fmt: skip
        simulated = running.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        running.callback(simulated.kill)
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
    by_status = dict(end["boards"])
    broken = {f"sim-{n:06d}" for n in range(boards) if chance(seed, n).random() < case.broken}
    has = {b["board"]: b["bundle_status"] for b in told}
    return {
        "case": name, "boards": boards, "seed": seed, "status": end["status"], "reason": end["reason"],
        "ring": end["ring"], "ended": by_status,
        "reached_share": sum(n for status, n in by_status.items() if status not in {"pending", "withdrawn"}) / boards,
        "decided_after_s": round(decided_s), "in_trial_at_the_end": sum(status == "trial" for status in has.values()),
        "broken_that_kept_it": sum(has[board] == "kept" for board in broken),
        "sound_that_reverted": sum(has[board] == "reverted" for board in has.keys() - broken),
        "reverted_but_in_force": sum(b["bundle_status"] == "reverted" and b["bundle_ver"] == 1 for b in told),
        "load": os.getloadavg()[0],
    }  # fmt: skip


def lacks(found: dict[str, Any], judge_share: bool) -> list[str]:
    """What did not come of what is wanted of this case."""
    case, ended = CASES[found["case"]], found["ended"]
    wrong = [
        f"{found[key]} boards: {key.replace('_', ' ')}"
        for key in ("in_trial_at_the_end", "broken_that_kept_it", "sound_that_reverted", "reverted_but_in_force")
        if found[key]
    ]
    wrong += [
        f"{ended[status]} boards are left {status}"
        for status in ("offered", "withdrawing", "silent")
        if ended.get(status)
    ]
    if not judge_share:
        return wrong
    if found["status"] != case.status or case.reason not in (found["reason"] or ""):
        wrong.append(f"it is {found['status']} ({found['reason']}), not {case.status} {case.reason}")
    if not case.least_reached <= found["reached_share"] <= case.most_reached:
        wanted = f"{case.least_reached:.1%} to {case.most_reached:.0%} are wanted"
        wrong.append(f"it reached {found['reached_share']:.1%} of the boards, {wanted}")
    if found["ring"] > case.last_ring:
        wrong.append(f"it ended in ring {found['ring'] + 1}, not by ring {case.last_ring + 1}")
    if case.status == "done" and ended != {"kept": found["boards"]}:
        wrong.append(f"boards ended as {ended}")
    if case.broken and not ended.get("reverted"):
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
    if not names:
        parser.error(f"--cases names none; known: {', '.join(CASES)}")
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
