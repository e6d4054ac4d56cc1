"""Moving: a fleet's whole database into another one, with the counts that prove it."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, Table, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from agent.errors import BadInput, StorageError
from agent.fleet import partitions, tables

CHUNK = 1000


def move(source: Engine, target: Engine) -> dict[str, int]:
    """Copy every table in one transaction of the target; rows per table, counted in both afterwards.

    BadInput where the target holds something already; StorageError where a database fails or the counts differ (then
    nothing was copied). No controller may run on either meanwhile: what boards send is kept by them.
    """
    moved = [t for t in tables.metadata.sorted_tables if t.name not in {tables.layout.name, tables.rolled.name}]
    try:
        with source.connect() as old, target.begin() as new:
            if source.dialect.name == "postgresql":
                old.execution_options(isolation_level="REPEATABLE READ")
            for table in moved:
                if _count(new, table):
                    raise BadInput(f"the target holds rows in {table.name} already; give an empty database")
            for table in moved:
                if table is tables.rows and target.dialect.name == "postgresql":
                    partitions.copy(old, new, where=_unsummed(old))
                    continue
                wanted = select(table).where(text(_unsummed(old))) if table is tables.rows else select(table)
                found = old.execute(wanted.execution_options(stream_results=True, yield_per=CHUNK)).mappings()
                for part in found.partitions(CHUNK):
                    new.execute(insert(table), [dict(row) for row in part])
            counts = {table.name: (_count(old, table), _count(new, table)) for table in moved}
            wrong = [f"{name}: {a} here, {b} there" for name, (a, b) in counts.items() if a != b]
            if wrong:
                raise StorageError(f"{', '.join(wrong)}; stop the controllers first, then move again")
            if target.dialect.name == "postgresql":
                query = "SELECT setval(pg_get_serial_sequence('qeil_audit', 'n'), coalesce(max(n), 0) + 1, false)"
                new.execute(text(f"{query} FROM qeil_audit"))
    except SQLAlchemyError as error:
        raise StorageError(str(getattr(error, "orig", None) or error).splitlines()[0]) from error
    return {name: there for name, (_, there) in counts.items()}


def _count(db: Connection, table: Table) -> int:
    query = select(func.count()).select_from(table)
    if table is tables.rows:
        query = query.where(text(_unsummed(db)))
    return int(db.execute(query).scalar_one())


def _unsummed(db: Connection) -> str:
    """Of rows: sums of their hours do not hold them already, as those of a day that is being summed up."""
    return partitions.NOT_SUMMED if db.dialect.name == "postgresql" else "1 = 1"
