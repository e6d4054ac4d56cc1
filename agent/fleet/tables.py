"""Tables: the fleet's database, the same in SQLite and PostgreSQL but for what `partitions` does to telemetry."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

LAYOUT = 4
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
"""Telemetry, events and gaps by their key. In PostgreSQL telemetry lies in partitions by day."""

rolled = Table(
    "qeil_rolled", metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("tenant", String(64), nullable=False), Column("board", String(64), nullable=False),
)  # fmt: skip
"""Days of PostgreSQL that are being summed up, and the last board whose rows the hours hold already."""

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
    Column("latest_boot", BigInteger), Column("latest_seq", BigInteger),
    Column("reported_boot", BigInteger), Column("reported_mono", Float),
    Column("bundle_boot", BigInteger), Column("bundle_mono", Float),
    postgresql_with=ROOM,
)  # fmt: skip
"""One row per board: last will and birth by their counters, retained documents, the newest telemetry row – each by what
orders it on the board itself, as messages overtake each other on their way here."""

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
