"""Layouts: how a database gets its tables, and how an older layout becomes this one."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, insert, inspect, select, text, update

from agent.errors import StorageError
from agent.fleet import partitions
from agent.fleet.tables import LAYOUT, ROOM, layout, metadata, rows

LOCK = 0x7165696C


def prepare(engine: Engine) -> None:
    """Make the tables, or bring those that are there to this layout, one controller at a time.

    StorageError for a newer layout. Where nothing is to be done no right to change tables is needed.
    """
    if inspect(engine).has_table(layout.name):
        with engine.connect() as db:
            if _found(db) == LAYOUT:
                return
    postgres = engine.dialect.name == "postgresql"
    with engine.begin() as db:
        if postgres:
            db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            if not inspect(db).has_table(rows.name):
                partitions.create(db)
        else:  # SQLite's driver begins no transaction for changes of tables: each would stand alone
            db.exec_driver_sql("BEGIN IMMEDIATE")
        metadata.create_all(db)  # tables that are there stay as they are
        found = _found(db)
        if found is None:
            db.execute(insert(layout).values(version=LAYOUT))
            return
        for step in range(found, LAYOUT):
            for change in _CHANGES.get(step, {}).get(engine.dialect.name, ()):
                db.execute(text(change))
        if postgres and not partitions.is_partitioned(db):
            partitions.migrate(db)
        db.execute(update(layout).values(version=LAYOUT))


_ORDERS = (
    "latest_boot BIGINT", "latest_seq BIGINT", "reported_boot BIGINT", "reported_mono FLOAT", "bundle_boot BIGINT",
    "bundle_mono FLOAT",
)  # fmt: skip
_CHANGES: dict[int, dict[str, tuple[str, ...]]] = {
    1: {
        "postgresql": (
            f"ALTER TABLE qeil_boards SET (fillfactor = {ROOM['fillfactor']})",
            f"ALTER TABLE qeil_streams SET (fillfactor = {ROOM['fillfactor']})",
        )
    },
    3: {
        name: tuple(f"ALTER TABLE qeil_boards ADD COLUMN {column}" for column in _ORDERS)
        for name in ("sqlite", "postgresql")
    },
}
"""From each layout to the next, what beside new tables and partitions is to be done."""


def _found(db: Connection) -> int | None:
    found = db.execute(select(layout.c.version)).scalar_one_or_none()
    if found is not None and found > LAYOUT:
        raise StorageError(f"the database has layout {found}, this version knows {LAYOUT}; install a newer one")
    return found
