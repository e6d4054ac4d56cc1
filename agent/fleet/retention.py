"""Retention: rows go after their time, telemetry leaves sums per board and hour; any number of controllers may do it.

A chunk is deleted and added to its hours in one transaction, so a row counts once whoever is killed when. PostgreSQL's
days are summed up likewise, and dropped whole instead of deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, delete, literal_column, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from agent.errors import StorageError
from agent.fleet import tables
from agent.fleet.days import DAY_S, UNDATED
from agent.fleet.hours import add_hours
from agent.fleet.partitions import Partitions
from agent.schema.fleet import Retention

CHUNK = 2000
CHUNKS_IN_A_ROUND = 20


class Keeper:
    """Thread-safe through the engine's pool. Methods raise StorageError."""

    def __init__(self, engine: Engine, rules: Retention, wall_s: Callable[[], float]) -> None:
        self._engine = engine
        self._rules = rules
        self._wall_s = wall_s
        self._days = Partitions(engine, rules.rows_days) if engine.dialect.name == "postgresql" else None
        self.counters = {"rolled_up": 0, "deleted": 0}

    def round(self) -> int:
        """At most `CHUNKS_IN_A_ROUND` chunks; how many rows went. Call again soon while that is not 0."""
        now_s, gone = self._wall_s(), 0
        try:
            if self._days is not None:
                self._days.keep(now_s)
            for _ in range(CHUNKS_IN_A_ROUND):
                summed = None if self._days is None else self._days.step(now_s)
                rolled = (summed or 0) + self._roll_up(now_s - DAY_S * self._rules.rows_days)
                old = self._forget(now_s - DAY_S * self._rules.events_days)
                if summed is None and not rolled + old:
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
            return add_hours(db, found)

    def _forget(self, before_s: float) -> int:
        with self._engine.begin() as db:
            return len(self._take(db, before_s, tables.rows.c.cls != "tlm"))

    def _take(self, db: Connection, before_s: float, wanted: Any) -> list[Any]:
        """Delete the oldest of a chunk, and give them; rows that another controller deletes are left to it."""
        table = tables.rows
        key = (table.c.tenant, table.c.board, table.c.boot, table.c.cls, table.c.seq)
        oldest = select(*key).where(table.c.at_s < before_s, wanted).order_by(table.c.at_s).limit(CHUNK)
        gone = delete(table)
        if self._days is not None:
            undated = literal_column("qeil_rows.day") == UNDATED
            oldest, gone = oldest.where(undated).with_for_update(skip_locked=True), gone.where(undated)
        gone = gone.where(tuple_(*key).in_(oldest))
        return list(db.execute(gone.returning(*key[:2], table.c.at_s, table.c.payload)).all())
