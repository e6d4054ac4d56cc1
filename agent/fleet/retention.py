"""Retention: rows go after their time, telemetry leaves sums per board and hour; any number of controllers may do it.

A chunk is deleted and added to its hours in one transaction, so a row counts once whoever is killed when.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, case, delete, func, or_, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from agent.errors import StorageError
from agent.fleet import tables
from agent.fleet.inventory import energy, hottest
from agent.schema.fleet import Retention

CHUNK = 2000
CHUNKS_IN_A_ROUND = 20
HOUR_S, DAY_S = 3600, 86_400.0
CLOCK_SET_S = 1_577_836_800.0
"""2020: a board's clock below it was never set."""

HourKey = tuple[str, str, int]


@dataclass
class _Sums:
    """Of one board and hour."""

    windows: int = 0
    requests: int = 0
    failed: int = 0
    energy_j: float = 0.0
    energy_answers: int = 0
    modelled: bool = False
    hottest_c: float | None = None

    def add(self, row: dict[str, Any]) -> None:
        self.windows += 1
        requests, failed = _count(row, "requests"), _count(row, "failed")
        self.requests, self.failed = self.requests + requests, self.failed + failed
        joules, provenance = energy(row)
        answers = requests - failed
        if joules is not None and answers > 0:
            self.energy_j, self.energy_answers = self.energy_j + joules * answers, self.energy_answers + answers
            self.modelled = self.modelled or provenance == "modelled"
        seen = hottest(row)
        if seen is not None:
            self.hottest_c = seen if self.hottest_c is None else max(self.hottest_c, seen)


class Keeper:
    """Thread-safe through the engine's pool. Methods raise StorageError."""

    def __init__(self, engine: Engine, rules: Retention, wall_s: Callable[[], float]) -> None:
        self._engine = engine
        self._rules = rules
        self._wall_s = wall_s
        self.counters = {"rolled_up": 0, "deleted": 0}

    def round(self) -> int:
        """At most `CHUNKS_IN_A_ROUND` chunks; how many rows went. Call again soon while that is not 0."""
        now_s, gone = self._wall_s(), 0
        try:
            for _ in range(CHUNKS_IN_A_ROUND):
                rolled = self._roll_up(now_s - DAY_S * self._rules.rows_days)
                old = self._forget(now_s - DAY_S * self._rules.events_days)
                if not rolled + old:
                    break
                gone += rolled + old
                self.counters["rolled_up"] += rolled
                self.counters["deleted"] += old
            with self._engine.begin() as db:
                before_s = int(now_s - DAY_S * self._rules.hours_days)
                db.execute(delete(tables.hours).where(tables.hours.c.hour_s < before_s))
        except SQLAlchemyError as error:
            raise StorageError(str(getattr(error, "orig", None) or error).splitlines()[0]) from error
        return gone

    def _roll_up(self, before_s: float) -> int:
        with self._engine.begin() as db:
            found = self._take(db, before_s, tables.rows.c.cls == "tlm")
            self._add(db, found)
            return len(found)

    def _forget(self, before_s: float) -> int:
        with self._engine.begin() as db:
            return len(self._take(db, before_s, tables.rows.c.cls != "tlm"))

    def _take(self, db: Connection, before_s: float, wanted: Any) -> list[Any]:
        """Delete the oldest of a chunk, and give them; rows that another controller deletes are left to it."""
        table = tables.rows
        key = (table.c.tenant, table.c.board, table.c.boot, table.c.cls, table.c.seq)
        oldest = select(*key).where(table.c.at_s < before_s, wanted).order_by(table.c.at_s).limit(CHUNK)
        if self._engine.dialect.name == "postgresql":
            oldest = oldest.with_for_update(skip_locked=True)
        gone = delete(table).where(tuple_(*key).in_(oldest)).returning(*key[:2], table.c.at_s, table.c.payload)
        return list(db.execute(gone).all())

    def _add(self, db: Connection, found: Iterable[Any]) -> None:
        hours: dict[HourKey, _Sums] = {}
        for tenant, board, at_s, payload in found:
            row = json.loads(payload)
            hour_s = int(_when_s(row, at_s)) // HOUR_S * HOUR_S
            hours.setdefault((tenant, board, hour_s), _Sums()).add(row)
        if not hours:
            return
        table = tables.hours
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        made = insert(table).values(
            [{"tenant": k[0], "board": k[1], "hour_s": k[2], **vars(sums)} for k, sums in sorted(hours.items())]
        )
        new = made.excluded
        summed = ("windows", "requests", "failed", "energy_j", "energy_answers")
        hotter = case((new.hottest_c > func.coalesce(table.c.hottest_c, -1e9), new.hottest_c), else_=table.c.hottest_c)
        changes = {
            **{name: table.c[name] + new[name] for name in summed},
            "modelled": or_(table.c.modelled, new.modelled),
            "hottest_c": hotter,
        }
        db.execute(made.on_conflict_do_update(index_elements=["tenant", "board", "hour_s"], set_=changes))


def _when_s(row: dict[str, Any], at_s: float) -> float:
    """When it happened by the board's clock; when it came, where that was never set or is ahead."""
    stamp = row.get("ts")
    if row.get("tq") == "none" or not isinstance(stamp, int | float) or isinstance(stamp, bool):
        return at_s
    return float(stamp) if CLOCK_SET_S < stamp <= at_s + HOUR_S else at_s


def _count(row: dict[str, Any], name: str) -> int:
    models = row.get("models")
    found = [m.get(name) for m in models.values() if isinstance(m, dict)] if isinstance(models, dict) else []
    return sum(n for n in found if type(n) is int and 0 <= n < 2**53)
