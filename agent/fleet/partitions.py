"""Partitions: telemetry in PostgreSQL by day – made ahead, summed up when their time is over, and dropped whole.

A controller's role may change no table, so two functions of the owner's make and drop days. Rows for which there is no
partition wait in the default one until there is: nothing is refused for want of a table.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Engine, text

from agent.fleet.bulk import PostgresBulk, Row
from agent.fleet.days import AHEAD_DAYS, DAY_S, UNDATED, day_of, is_over
from agent.fleet.hours import add_hours
from agent.schema.fleet import Retention

LOCK = 0x7165696D
LOCK_WAIT = "5s"
"""Who stores waits behind who changes tables, so that one does not wait long itself."""
BOARD_ROWS = 2000
"""Rows in a step of summing up, and what the last of their boards has beside them."""
COPIED_ROWS = 5000

_COLUMNS = "tenant, board, boot, cls, seq, at_s, payload"
_PARTITIONED = (
    """CREATE TABLE qeil_rows (
        tenant varchar(64) NOT NULL, board varchar(64) NOT NULL, boot bigint NOT NULL, cls varchar(8) NOT NULL,
        seq bigint NOT NULL, at_s double precision NOT NULL, payload text NOT NULL, day integer NOT NULL,
        PRIMARY KEY (tenant, board, boot, cls, seq, day)) PARTITION BY LIST (day)""",
    f"CREATE TABLE qeil_rows_undated PARTITION OF qeil_rows FOR VALUES IN ({UNDATED})",
    "CREATE INDEX qeil_rows_undated_at ON qeil_rows_undated (at_s)",
    "CREATE TABLE qeil_rows_rest PARTITION OF qeil_rows DEFAULT",
)
_NAME = "'qeil_rows_' || to_char(date '1970-01-01' + of_day, 'YYYYMMDD')"
_FUNCTION = (
    "CREATE OR REPLACE FUNCTION {name}(of_day integer) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER"
    " SET search_path FROM CURRENT AS $$ DECLARE part text := {part}; BEGIN"
    " IF of_day NOT BETWEEN 18262 AND 99999 THEN RAISE EXCEPTION 'no day of telemetry: %', of_day; END IF; {body}"
    " END $$"
)
_KEEP = (
    f"PERFORM pg_advisory_xact_lock({LOCK}); IF to_regclass(part) IS NOT NULL THEN RETURN false; END IF;"  # noqa: S608
    " EXECUTE format('CREATE TABLE %I (LIKE qeil_rows INCLUDING ALL)', part);"
    " EXECUTE format('WITH moved AS (DELETE FROM qeil_rows_rest WHERE day = %s RETURNING *)"
    " INSERT INTO %I SELECT * FROM moved', of_day, part);"
    " EXECUTE format('ALTER TABLE qeil_rows ATTACH PARTITION %I FOR VALUES IN (%s)', part, of_day); RETURN true;"
)
_DROP = "EXECUTE format('DROP TABLE IF EXISTS %I', part); RETURN true;"

NOT_SUMMED = (
    "NOT EXISTS (SELECT FROM qeil_rolled AS r WHERE r.day = qeil_rows.day"
    " AND (qeil_rows.tenant, qeil_rows.board) <= (r.tenant, r.board))"
)
"""Of rows: the hours do not hold them yet."""


def create(db: Connection) -> None:
    """The table of rows and its functions, where there is none of it yet."""
    for statement in _PARTITIONED:
        db.execute(text(statement))
    # The owner's functions find the owner's tables, whatever a caller's own schema holds.
    db.exec_driver_sql("SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)")
    for name, body in (("qeil_keep_day", _KEEP), ("qeil_drop_day", _DROP)):
        db.exec_driver_sql(_FUNCTION.format(name=name, part=_NAME, body=body).replace("%", "%%"))
        db.exec_driver_sql(f"REVOKE ALL ON FUNCTION {name}(integer) FROM PUBLIC")
    db.exec_driver_sql(
        f"SELECT qeil_keep_day(floor(extract(epoch FROM now()) / {DAY_S})::integer + n)"  # noqa: S608
        f" FROM generate_series(-1, {AHEAD_DAYS}) AS n"
    )


def is_partitioned(db: Connection) -> bool:
    """Whether the table of rows, which is there, has partitions."""
    kind = db.exec_driver_sql("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('qeil_rows')")
    return bool(kind.scalar_one())


def migrate(db: Connection) -> None:
    """Rows from before there were partitions into their days; takes as long as storing them once more."""
    for statement in (
        "ALTER TABLE qeil_rows RENAME TO qeil_rows_whole",
        "ALTER INDEX qeil_rows_pkey RENAME TO qeil_rows_whole_pkey",
    ):
        db.exec_driver_sql(statement)
    create(db)
    copy(db, db, "qeil_rows_whole")
    db.exec_driver_sql("DROP TABLE qeil_rows_whole")


def copy(source: Connection, target: Connection, name: str = "qeil_rows", where: str = "true") -> None:
    """Rows of any database into the days of this one."""
    query = text(f"SELECT {_COLUMNS} FROM {name} WHERE {where}")  # noqa: S608  (names and conditions are our own)
    found = source.execute(query.execution_options(stream_results=True, yield_per=COPIED_ROWS))
    bulk, known, days = PostgresBulk(), set[int](), Retention().rows_days
    for part in found.partitions(COPIED_ROWS):
        rows = {
            (r[0], r[1], r[2], r[3], r[4]): Row(r[6], day_of(r[3], json.loads(r[6]), r[5], days), r[5]) for r in part
        }
        for day in sorted({row.day for row in rows.values()} - {UNDATED} - known):
            target.exec_driver_sql("SELECT qeil_keep_day(%(day)s)", {"day": day})
            known.add(day)
        bulk.rows(target, rows)


class Partitions:
    """Of one PostgreSQL; thread-safe through its pool, one controller at a time does each thing. Methods raise what
    SQLAlchemy raises."""

    def __init__(self, engine: Engine, rows_days: float) -> None:
        self._engine = engine
        self._rows_days = rows_days

    def keep(self, now_s: float) -> int:
        """Make what will be needed, and what rows wait for in the default partition; how many that were."""
        today, made = int(now_s // DAY_S), 0
        with self._engine.connect() as db:
            waiting = {int(r[0]) for r in db.exec_driver_sql("SELECT DISTINCT day FROM qeil_rows_rest")}
            there = self._there(db)
        for day in sorted((waiting | set(range(today, today + AHEAD_DAYS + 1))) - there):
            with self._engine.begin() as db:
                db.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
                made += bool(db.exec_driver_sql("SELECT qeil_keep_day(%(day)s)", {"day": day}).scalar_one())
        return made

    def step(self, now_s: float) -> int | None:
        """Sum up some boards of the oldest day that is over, and drop it with its last; how many rows that were.

        None where no day is over, or another controller is at it.
        """
        with self._engine.begin() as db:
            if not db.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({LOCK})").scalar_one():
                return None
            over = sorted(day for day in self._there(db) if is_over(day, now_s, self._rows_days))
            return self._sum_up(db, over[0]) if over else None

    def _there(self, db: Connection) -> set[int]:
        query = (
            "SELECT to_date(right(c.relname, 8), 'YYYYMMDD') - date '1970-01-01' FROM pg_inherits AS i"
            " JOIN pg_class AS c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = to_regclass('qeil_rows') AND c.relname ~ '^qeil_rows_[0-9]{8}$'"
        )
        return {int(r[0]) for r in db.exec_driver_sql(query)}

    def _sum_up(self, db: Connection, day: int) -> int:
        values: dict[str, Any] = {"day": day, "tenant": "", "board": ""}
        done = db.exec_driver_sql("SELECT tenant, board FROM qeil_rolled WHERE day = %(day)s", values).first()
        if done is not None:
            values |= {"tenant": done[0], "board": done[1]}
        rest = "FROM qeil_rows WHERE day = %(day)s AND (tenant, board) > (%(tenant)s, %(board)s)"
        last = db.exec_driver_sql(
            f"SELECT tenant, board {rest} ORDER BY tenant, board OFFSET {BOARD_ROWS} LIMIT 1",
            values,
        ).first()
        if last is None:
            count = add_hours(db, db.exec_driver_sql(f"SELECT tenant, board, at_s, payload {rest}", values))
            db.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
            db.exec_driver_sql("SELECT qeil_drop_day(%(day)s)", values)
            db.exec_driver_sql("DELETE FROM qeil_rolled WHERE day = %(day)s", values)
            return count
        values |= {"to_tenant": last[0], "to_board": last[1]}
        some = f"{rest} AND (tenant, board) <= (%(to_tenant)s, %(to_board)s)"
        count = add_hours(db, db.exec_driver_sql(f"SELECT tenant, board, at_s, payload {some}", values))
        db.exec_driver_sql(
            "INSERT INTO qeil_rolled (day, tenant, board) VALUES (%(day)s, %(to_tenant)s, %(to_board)s)"
            " ON CONFLICT (day) DO UPDATE SET tenant = excluded.tenant, board = excluded.board",
            values,
        )
        return count
