"""What a fleet of a given size takes, computed from figures measured elsewhere: consumers, bytes, waiting times.

`python benchmarks/fleet_plan.py --boards 1000000 --window 60`: the steady state by multiplication, waiting times and
the time after an outage by simulating one consumer (Poisson arrivals, batches of at most 1000, a commit each). Nothing
here is measured at that size: it says what follows from the figures given.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass

BATCH = 1000
DAY_S = 86_400


@dataclass(frozen=True)
class Service:
    """Seconds that a batch of n messages takes: commit_s + n · each_s."""

    commit_s: float
    each_s: float

    def of(self, messages: int) -> float:
        return self.commit_s + messages * self.each_s


def waits(per_s: float, service: Service, for_s: float, outage_s: float, seed: int) -> tuple[list[float], float]:
    """Seconds from arrival to commit, and when the backlog of an outage at the beginning is gone."""
    rng = random.Random(seed)
    arrived, now_s = [], 0.0
    while now_s < for_s:
        now_s += rng.expovariate(per_s)
        arrived.append(now_s)
    found, first, free_s, recovered_s = [], 0, outage_s, 0.0
    while first < len(arrived):
        begun_s = max(free_s, arrived[first])
        last = first
        while last < len(arrived) and last - first < BATCH and arrived[last] <= begun_s:
            last += 1
        free_s = begun_s + service.of(last - first)
        found += [free_s - at_s for at_s in arrived[first:last]]
        if last - first == BATCH:
            recovered_s = free_s
        first = last
    return sorted(found), recovered_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=1_000_000)
    parser.add_argument("--window", type=float, default=60.0, help="seconds between two rows of a board")
    parser.add_argument("--row-bytes", type=int, default=1000)
    parser.add_argument("--stored-bytes", type=int, default=1130, help="of a row in PostgreSQL, indexes included")
    parser.add_argument("--rate", type=float, default=5100.0, help="messages/s of one consumer: the least measured")
    parser.add_argument("--commit", type=float, default=0.01, help="seconds of a commit")
    parser.add_argument("--load", type=float, default=0.6, help="share of its rate that a consumer should have")
    parser.add_argument("--rows-days", type=float, default=30.0)
    parser.add_argument("--connection-kb", type=float, default=27.0, help="of the broker, with TLS")
    parser.add_argument("--outage", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="the same: this only calculates")
    given = parser.parse_args()
    per_s = given.boards / given.window
    consumers = max(2, math.ceil(per_s / (given.rate * given.load)))
    service = Service(given.commit, max(0.0, 1 / given.rate - given.commit / BATCH))
    each_per_s = per_s / consumers
    steady, _ = waits(each_per_s, service, 60.0, 0.0, 1)
    _, back_s = waits(each_per_s, service, 5 * given.outage, given.outage, 2)
    hours_bytes = given.boards * 24 * 150
    print(json.dumps({
        "boards": given.boards, "messages_per_s": round(per_s), "mbit_per_s": round(per_s * given.row_bytes * 8e-6, 1),
        "consumers": consumers, "load_of_each": round(each_per_s / given.rate, 2),
        "commit_wait_p50_ms": round(1e3 * steady[len(steady) // 2], 1),
        "commit_wait_p99_ms": round(1e3 * steady[len(steady) * 99 // 100], 1),
        "after_outage_s": given.outage, "caught_up_after_s": round(back_s - given.outage, 1),
        "rows_gb_per_day": round(per_s * DAY_S * given.stored_bytes / 1e9, 1),
        "rows_kept_tb": round(per_s * DAY_S * given.stored_bytes * given.rows_days / 1e12, 2),
        "hours_gb_per_day": round(hours_bytes / 1e9, 1),
        "broker_memory_gb": round(given.boards * given.connection_kb / 1e6, 1),
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
