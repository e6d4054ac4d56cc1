"""Tables: the fleet's database, the same in SQLite and PostgreSQL, and how an older layout becomes this one."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
    update,
)

from agent.errors import StorageError

LAYOUT = 2
metadata = MetaData()
ROOM = {"fillfactor": 40}
"""Rows that every batch changes: room in their page spares PostgreSQL new entries in every index."""

layout = Table("qeil_layout", metadata, Column("version", Integer, nullable=False))

rows = Table(
    "qeil_rows", metadata,
    Column("tenant", String(64), primary_key=True), Column("board", String(64), primary_key=True),
    Column("boot", BigInteger, primary_key=True), Column("cls", String(8), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("at_s", Float, nullable=False), Column("payload", Text, nullable=False),
    Index("qeil_rows_at", "at_s"),
)  # fmt: skip
"""Telemetry, events and gaps by their key."""

hours = Table(
    "qeil_hours", metadata,
    Column("tenant", String(64), primary_key=True), Column("board", String(64), primary_key=True),
    Column("hour_s", BigInteger, primary_key=True),
    Column("windows", BigInteger, nullable=False), Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False), Column("energy_j", Float, nullable=False),
    Column("energy_answers", BigInteger, nullable=False), Column("modelled", Boolean, nullable=False),
    Column("hottest_c", Float), Index("qeil_hours_hour", "hour_s"),
)  # fmt: skip
"""What is left of telemetry rows after their time: sums per board and hour; joules of `energy_answers` answers."""

streams = Table(
    "qeil_streams", metadata,
    Column("tenant", String(64), primary_key=True), Column("board", String(64), primary_key=True),
    Column("boot", BigInteger, primary_key=True), Column("cls", String(8), primary_key=True),
    Column("top", BigInteger, nullable=False), Column("stored", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False), Column("changed_s", Float, nullable=False),
    postgresql_with=ROOM,
)  # fmt: skip
"""Per boot and class: highest number seen, how many rows are stored, how many a gap row told to be lost."""

boards = Table(
    "qeil_boards", metadata,
    Column("tenant", String(64), primary_key=True), Column("board", String(64), primary_key=True),
    Column("first_s", Float, nullable=False), Column("heard_s", Float, nullable=False),
    Column("online", Boolean, nullable=False), Column("boot", BigInteger, nullable=False),
    Column("conn", BigInteger, nullable=False), Column("state_s", Float, nullable=False),
    Column("state", Text, nullable=False), Column("reported", Text), Column("bundle", Text),
    Column("latest", Text), Column("labels", Text, nullable=False),
    postgresql_with=ROOM,
)  # fmt: skip
"""One row per board: last will and birth by their counters, retained documents, the newest telemetry row."""

messages = Table(
    "qeil_messages", metadata,
    Column("id", String(200), primary_key=True), Column("tenant", String(64), nullable=False),
    Column("board", String(64), nullable=False), Column("kind", String(16), nullable=False),
    Column("name", String(64), nullable=False), Column("envelope", Text, nullable=False),
    Column("by_whom", String(120), nullable=False), Column("created_s", Float, nullable=False),
    Column("exp", Float), Column("sent_s", Float), Column("status", String(16), nullable=False),
    Column("answer", Text), Column("changed_s", Float, nullable=False),
    Index("qeil_messages_board", "tenant", "board", "created_s"), Index("qeil_messages_status", "status"),
)  # fmt: skip
"""Signed commands, desired states and offers, on their way and what became of them."""

audit = Table(
    "qeil_audit", metadata,
    Column("n", Integer, primary_key=True, autoincrement=True), Column("at_s", Float, nullable=False),
    Column("who", String(120), nullable=False), Column("action", String(64), nullable=False),
    Column("target", String(200), nullable=False), Column("detail", Text, nullable=False),
)  # fmt: skip

rollouts = Table(
    "qeil_rollouts", metadata,
    Column("id", String(80), primary_key=True), Column("tenant", String(64), nullable=False),
    Column("name", String(64), nullable=False), Column("ver", BigInteger, nullable=False),
    Column("envelope", Text, nullable=False), Column("plan", Text, nullable=False),
    Column("status", String(16), nullable=False), Column("ring", Integer, nullable=False),
    Column("ring_s", Float), Column("settled_s", Float), Column("reason", Text),
    Column("by_whom", String(120), nullable=False), Column("approvals", Text, nullable=False),
    Column("created_s", Float, nullable=False), Column("holder", String(120)), Column("lease_s", Float),
)  # fmt: skip
rollout_boards = Table(
    "qeil_rollout_boards", metadata,
    Column("rollout", String(80), primary_key=True), Column("board", String(64), primary_key=True),
    Column("cohort", Integer, nullable=False), Column("status", String(16), nullable=False),
    Column("offered_s", Float), Column("settled_s", Float), Column("worse", Float), Column("code", String(64)),
    Index("qeil_rollout_boards_status", "rollout", "status"),
)  # fmt: skip


def prepare(engine: Engine) -> None:
    """Make the tables, or bring those that are there to this layout, one controller at a time.

    StorageError for a newer layout. Where nothing is to be done no right to change tables is needed.
    """
    if inspect(engine).has_table(layout.name):
        with engine.connect() as db:
            if _found(db) == LAYOUT:
                return
    with engine.begin() as db:
        if engine.dialect.name == "postgresql":
            db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        metadata.create_all(db)  # tables that are there stay as they are
        found = _found(db)
        if found is None:
            db.execute(insert(layout).values(version=LAYOUT))
            return
        for step in range(found, LAYOUT):
            for change in _CHANGES[step].get(engine.dialect.name, ()):
                db.execute(text(change))
        db.execute(update(layout).values(version=LAYOUT))


_LOCK = 0x7165696C
_CHANGES: dict[int, dict[str, tuple[str, ...]]] = {
    1: {
        "postgresql": (
            f"ALTER TABLE qeil_boards SET (fillfactor = {ROOM['fillfactor']})",
            f"ALTER TABLE qeil_streams SET (fillfactor = {ROOM['fillfactor']})",
        )
    },
}
"""From each layout to the next, what beside new tables is to be done."""


def _found(db: Connection) -> int | None:
    found = db.execute(select(layout.c.version)).scalar_one_or_none()
    if found is not None and found > LAYOUT:
        raise StorageError(f"the database has layout {found}, this version knows {LAYOUT}; install a newer one")
    return found
