"""How often a rollout that changes nothing is aborted, and how many boards one that costs more joules reaches.

`python benchmarks/fleet_rollouts.py [--repeats 200] [--boards 1000] [--change 0.08] [--noise 0.08]`: the rule that
controllers follow, with its default plan, over boards of paper. Each board's excess is its joules per inference after
over before: the change, times noise of its own (a log normal of `--noise`). Boards settle in random order in their
ring, and the rule is asked after every batch of ten. The same for boards of which a share breaks (`--broken`).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from dataclasses import dataclass

from agent.fleet.ring_rule import Progress, cohort, reach, step
from agent.schema.fleet import Plan

BATCH = 10


@dataclass(frozen=True)
class End:
    """How one repeat ended."""

    aborted: bool
    ring: int
    reached: int


def repeat(plan: Plan, boards: int, change: float, noise: float, broken: float, seed: int) -> End:
    rng = random.Random(seed)
    cohorts = sorted((cohort(f"r{seed}", f"board-{i}"), i) for i in range(boards))
    excesses: list[float] = []
    failed = reached = 0
    for ring in range(len(plan.rings)):
        mine = [i for c, i in cohorts[reached:] if c < reach(plan, ring)]
        rng.shuffle(mine)
        for at in range(0, len(mine), BATCH):
            for _ in mine[at : at + BATCH]:
                reached += 1
                if rng.random() < broken:
                    failed += 1
                else:
                    excesses.append(math.log1p(change) + rng.gauss(0, noise))
            waiting = len(mine) - min(len(mine), at + BATCH)
            progress = Progress(ring, waiting, 0, len(excesses), failed, None, tuple(excesses), 0)
            if step(plan, progress, 0.0).what == "abort":
                return End(True, ring, reached)
    return End(False, len(plan.rings) - 1, reached)


def summary(ends: list[End], boards: int) -> dict[str, float | int]:
    reached = sorted(end.reached for end in ends)
    return {
        "repeats": len(ends), "aborted": sum(end.aborted for end in ends),
        "in_first_ring": sum(end.aborted and end.ring == 0 for end in ends),
        "reached_median": round(statistics.median(reached) / boards, 3), "reached_most": reached[-1] / boards,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--boards", type=int, default=1000)
    parser.add_argument("--change", type=float, default=0.08)
    parser.add_argument("--noise", type=float, default=0.08)
    parser.add_argument("--broken", type=float, default=0.03)
    parser.add_argument("--quick", action="store_true", help="ten repeats")
    given = parser.parse_args()
    repeats = 10 if given.quick else given.repeats
    careful = Plan(rings=(0.1, 0.25, 1.0), max_failed=0.005)
    cases = {
        "neutral": (Plan(), 0.0, 0.0), "worse": (Plan(), given.change, 0.0),
        "broken": (Plan(), 0.0, given.broken), "broken, first ring 10 %, 0.5 % may fail": (careful, 0.0, given.broken),
    }  # fmt: skip
    for name, (plan, change, broken) in cases.items():
        ends = [repeat(plan, given.boards, change, given.noise, broken, seed) for seed in range(repeats)]
        print(json.dumps({"case": name, **summary(ends, given.boards)}), flush=True)


if __name__ == "__main__":
    main()
