"""Bytes that an outbox writes to flash in a day, as the kernel counts them; each row is acknowledged after its commit.

`python benchmarks/fleet_wear.py [--row 1000] [--period 10] [--window 60] [--share 1.0]`: all commits of a day, one
after the other without the waits between them, on the disk of `--folder`; `--share` makes a part of the day and
multiplies.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from agent.storage.outbox import Outbox

DAY_S = 86_400.0


class Time:
    """A day without its waits."""

    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


def written(folder: Path, row_bytes: int, period_s: float, window_s: float, share: float) -> dict[str, float]:
    """Rows of that size each period, committed each window; what came before is acknowledged by then."""
    clock = Time()
    outbox = Outbox(folder / "outbox.db", 1, 1 << 24, window_s, clock)
    row, next_s, number = {"p": "x" * max(0, row_bytes - 8)}, 0.0, 0
    while clock.now_s < DAY_S * share:
        clock.now_s += window_s
        if number:
            outbox.acknowledge(1, "tlm", number - 1)
        while next_s < clock.now_s:
            outbox.append("tlm", row)
            next_s, number = next_s + period_s, number + 1
        outbox.flush()
    counted = outbox.counters
    outbox.stop()
    return {
        "row_bytes": row_bytes, "period_s": period_s, "window_s": window_s, "rows": counted["committed"],
        "mb_per_day": round(counted["written_bytes"] / share / 1e6, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", type=int, default=1000)
    parser.add_argument("--period", type=float, default=10.0)
    parser.add_argument("--window", type=float, default=60.0)
    parser.add_argument("--share", type=float, default=1.0, help="of a day")
    parser.add_argument("--folder", help="on the disk that is meant")
    parser.add_argument("--quick", action="store_true", help="a hundredth of a day")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qeil-wear-", dir=given.folder) as name:
        share = 0.01 if given.quick else given.share
        print(json.dumps(written(Path(name), given.row, given.period, given.window, share)))


if __name__ == "__main__":
    main()
