"""How often a rollout that changes nothing is aborted, and how many boards one that costs more joules reaches.

`python benchmarks/fleet_rollouts.py [--repeats 200] [--boards 1000] [--change 0.08] [--noise 0.08]`: the rule that
controllers follow, with its default plan, over boards of paper. Each board's excess is its joules per inference after
over before: the change, times noise of its own (a log normal of `--noise`). Boards settle one after the other, and the
rule is asked after each, later after each twentieth part of those that settled. The same for boards of which a share
breaks (`--broken`), and for fleets in which boards fail now and then whatever they are given: `--flaky`, and the share
that the plan accepts.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from bisect import bisect_left
from dataclasses import dataclass

from agent.fleet.ring_rule import Progress, cohort, reach, step
from agent.schema.fleet import Plan


@dataclass(frozen=True)
class End:
    """How one repeat ended."""

    aborted: bool
    ring: int
    reached: int


def repeat(plan: Plan, boards: int, change: float, noise: float, broken: float, seed: int) -> End:
    rng = random.Random(seed)
    cohorts = sorted(cohort(f"r{seed}", f"board-{i}") for i in range(boards))
    excesses: list[float] = []
    failed = reached = ring = under_way = 0
    while True:
        waiting = bisect_left(cohorts, reach(plan, ring)) - reached
        progress = Progress(ring, waiting, under_way, len(excesses), failed, 0.0, tuple(excesses), 0)
        found = step(plan, progress, plan.soak_s)
        if found.what in {"abort", "done"}:
            return End(found.what == "abort", ring, reached)
        if found.what == "next_ring":
            ring += 1
        elif found.what == "offer":
            reached, under_way = reached + found.offers, under_way + found.offers
        else:
            ends = min(under_way, 1 + (len(excesses) + failed) // 20)
            under_way -= ends
            for _ in range(ends):
                if rng.random() < broken:
                    failed += 1
                else:
                    excesses.append(math.log1p(change) + rng.gauss(0, noise))


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
    parser.add_argument("--flaky", type=float, default=0.001)
    parser.add_argument("--quick", action="store_true", help="ten repeats")
    given = parser.parse_args()
    repeats = 10 if given.quick else given.repeats
    cases = {
        "neutral": (0.0, 0.0), "neutral, flaky boards": (0.0, given.flaky),
        "neutral, as many fail as may": (0.0, Plan().max_failed), "worse": (given.change, 0.0),
        "broken": (0.0, given.broken),
    }  # fmt: skip
    for name, (change, broken) in cases.items():
        ends = [repeat(Plan(), given.boards, change, given.noise, broken, seed) for seed in range(repeats)]
        print(json.dumps({"case": name, **summary(ends, given.boards)}), flush=True)


if __name__ == "__main__":
    main()
