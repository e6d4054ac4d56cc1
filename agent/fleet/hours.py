"""Hours: what telemetry rows leave behind – sums per board and hour."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, case, func, or_
from sqlalchemy.dialects import postgresql, sqlite

from agent.fleet import tables
from agent.fleet.days import CLOCK_SET_S, HOUR_S
from agent.fleet.inventory import energy, hottest
from agent.records import record

MAX_COUNT, MAX_J = 10**9, 1e12
"""Of one window: what a hostile board says above it is not counted, and a board's hour stays a number."""

HourKey = tuple[str, str, int]


@record
class Sums:
    """Of one board and hour."""

    windows: int = 0
    requests: int = 0
    failed: int = 0
    energy_j: float = 0.0
    energy_answers: int = 0
    modelled: bool = False
    hottest_c: float | None = None

    def add(self, row: dict[str, Any]) -> None:
        """One window."""
        self.windows += 1
        requests, failed = _count(row, "requests"), _count(row, "failed")
        self.requests, self.failed = self.requests + requests, self.failed + failed
        joules, provenance = energy(row)
        answers = requests - failed
        if joules is not None and answers > 0 and 0 <= joules * answers <= MAX_J:
            self.energy_j, self.energy_answers = self.energy_j + joules * answers, self.energy_answers + answers
            self.modelled = self.modelled or provenance == "modelled"
        seen = hottest(row)
        if seen is not None:
            self.hottest_c = seen if self.hottest_c is None else max(self.hottest_c, seen)


def add_hours(db: Connection, found: Iterable[Any]) -> int:
    """Add rows of (tenant, board, at_s, payload) to their hours, in the caller's transaction; how many they were."""
    hours: dict[HourKey, Sums] = {}
    count = 0
    for tenant, board, at_s, payload in found:
        row = json.loads(payload)
        hour_s = int(_when_s(row, at_s)) // HOUR_S * HOUR_S
        hours.setdefault((tenant, board, hour_s), Sums()).add(row)
        count += 1
    if not hours:
        return count
    table = tables.hours
    insert = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    made = insert(table)
    new = made.excluded
    summed = ("windows", "requests", "failed", "energy_j", "energy_answers")
    hotter = case((new.hottest_c > func.coalesce(table.c.hottest_c, -1e9), new.hottest_c), else_=table.c.hottest_c)
    changes = {
        **{name: table.c[name] + new[name] for name in summed},
        "modelled": or_(table.c.modelled, new.modelled),
        "hottest_c": hotter,
    }
    db.execute(
        made.on_conflict_do_update(index_elements=["tenant", "board", "hour_s"], set_=changes),
        [{"tenant": k[0], "board": k[1], "hour_s": k[2], **vars(sums)} for k, sums in sorted(hours.items())],
    )
    return count


def _when_s(row: dict[str, Any], at_s: float) -> float:
    """When it happened by the board's clock; when it came, where that was never set or is ahead."""
    stamp = row.get("ts")
    if row.get("tq") == "none" or not isinstance(stamp, int | float) or isinstance(stamp, bool):
        return at_s
    return float(stamp) if CLOCK_SET_S < stamp <= at_s + HOUR_S else at_s


def _count(row: dict[str, Any], name: str) -> int:
    models = row.get("models")
    found = [m.get(name) for m in models.values() if isinstance(m, dict)] if isinstance(models, dict) else []
    return sum(n for n in found if type(n) is int and 0 <= n <= MAX_COUNT)
