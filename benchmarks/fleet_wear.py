"""Bytes that an outbox writes to flash in a day, as the kernel counts them; each row is acknowledged after its commit.

    python benchmarks/fleet_wear.py                 # telemetry as agents write it, at default settings
    python benchmarks/fleet_wear.py --row 1000      # rows of 1000 characters at random, which nothing makes smaller

All commits of a day (`--share`: of a part of it, multiplied), one after the other without the waits between them, on
the disk of `--folder`. `--nobody`: no backend ever acknowledges, so that all of it stays.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.schema.settings import FLUSH_S
from agent.schema.snapshot import AcceleratorStatus, AgentInfo, AgentSnapshot, ModelStatus
from agent.service.remote.telemetry import next_window
from agent.storage.outbox import Outbox

DAY_S = 86_400.0
TICK_S = 1.0
COUNTERS = ("published", "callback_errors", "takeovers", "disconnects", "attempts", "batches", "rows", "resent", "acks")


class Time:
    """A day without its waits."""

    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s + 1.8e9


def noise(characters: int) -> Iterator[dict[str, Any]]:
    """Rows that no packing makes smaller."""
    rng = random.Random(1)
    while True:
        yield {"p": base64.b85encode(rng.randbytes(characters)).decode()[: max(0, characters - 8)]}


def telemetry(lanes: int, models: int, period_s: float) -> Iterator[dict[str, Any]]:
    """Windows of a board at work: temperatures, powers, latencies, joules and counts that never stand still."""
    rng = random.Random(1)
    info = AgentInfo("1", "ready", "2026-01-01T00:00:00Z", "balanced", "4940a621" * 8, 1, "edge-01", "board")
    now_s, requests, joules = 0.0, [0] * models, [0.0] * models

    def snapshot() -> AgentSnapshot:
        seen = tuple(
            AcceleratorStatus(
                f"npu{i}", "simulated", "npu", "ready", True,
                round(55 + 10 * math.sin(now_s / 3000 + i) + rng.gauss(0, 0.2), 3), round(rng.uniform(2, 9), 3),
                0, None,
            )
            for i in range(lanes)
        )  # fmt: skip
        served = tuple(
            ModelStatus(
                f"model-{i}", "ready", "auto", f"npu{i % lanes}", 1.0, f"npu{i % lanes}", rng.uniform(8, 12),
                rng.uniform(20, 40), None, "modelled", requests[i], requests[i] // 5000,
            )
            for i in range(models)
        )  # fmt: skip
        return AgentSnapshot(info, seen, served)

    window = next_window(snapshot(), {}, now_s)
    counted = dict.fromkeys(COUNTERS, 0)
    while True:
        for _ in range(round(period_s / TICK_S)):
            now_s += TICK_S
            requests = [count + rng.randrange(20) for count in requests]
            joules = [total + rng.uniform(0, 3) for total in joules]
            window.add(snapshot())
        energies_j = {f"model-{i}": total for i, total in enumerate(joules)}
        row = window.close(snapshot(), energies_j, now_s, 1.8e9 + now_s)
        window = next_window(snapshot(), energies_j, now_s)
        counted = {name: count + rng.randrange(2) for name, count in counted.items()}
        yield {"tq": "ntp", **row, "rails": {}, "outbox": counted, "link": counted}


def written(
    folder: Path, rows: Iterator[dict[str, Any]], period_s: float, window_s: float, share: float, acknowledged: bool
) -> dict[str, float]:
    """A row each period, committed each window; what came before is acknowledged by then."""
    clock = Time()
    outbox = Outbox(folder / "outbox.db", 1, 1 << 26, window_s, clock)
    next_s, number, size = 0.0, 0, 0
    while clock.now_s < DAY_S * share:
        clock.now_s += window_s
        if number and acknowledged:
            outbox.acknowledge(1, "tlm", number - 1)
        while next_s < clock.now_s:
            row = next(rows)
            outbox.append("tlm", row)
            next_s, number, size = next_s + period_s, number + 1, size + len(json.dumps(row))
        outbox.flush()
    counted = outbox.counters
    outbox.stop()
    return {
        "row_bytes": round(size / number), "period_s": period_s, "window_s": window_s, "rows": counted["committed"],
        "acknowledged": acknowledged, "mb_per_day": round(counted["written_bytes"] / share / 1e6, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", type=int, help="bytes at random instead of telemetry")
    parser.add_argument("--lanes", type=int, default=3)
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--period", type=float, default=10.0)
    parser.add_argument("--window", type=float, default=FLUSH_S, help="between commits; default: as with a broker")
    parser.add_argument("--share", type=float, default=1.0, help="of a day")
    parser.add_argument("--nobody", action="store_true", help="no backend acknowledges")
    parser.add_argument("--folder", help="on the disk that is meant")
    parser.add_argument("--quick", action="store_true", help="a hundredth of a day")
    given = parser.parse_args()
    rows = telemetry(given.lanes, given.models, given.period) if given.row is None else noise(given.row)
    with tempfile.TemporaryDirectory(prefix="qeil-wear-", dir=given.folder) as name:
        share = 0.01 if given.quick else given.share
        found = written(Path(name), rows, given.period, given.window, share, not given.nobody)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
