"""Bulk: what a batch writes for thousands of rows, one statement per table and in each database's own words.

A statement with a value list of that length costs more to put together than to run: PostgreSQL gets each column as one
text with a line per row (no value has line breaks: names are checked, JSON escapes them), SQLite gets its rows one by
one through a prepared statement. Rows go in sorted, so that consumers beside each
other never wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection

from agent.fleet.messages import BoardKey

RowKey = tuple[str, str, int, str, int]
"""Tenant, board, boot, class, number."""


class Row(NamedTuple):
    """JSON text, the day of its partition (PostgreSQL), and when it came."""

    text: str
    day: int
    at_s: float


StreamKey = tuple[str, str, int, str]
StreamChange = tuple[int, int, int]
"""Highest number seen, rows that are new, rows told to be lost."""
Session = tuple[bool, int, int, str]
"""Whether online, boot, connection, and what the birth said; a will says nothing (empty)."""


class Newest(NamedTuple):
    """A board's newest telemetry row of a batch: its key, which orders rows, and its JSON text."""

    boot: int
    seq: int
    text: str


_BOARD_COLUMNS = (
    "tenant, board, first_s, heard_s, online, boot, conn, state_s, state, latest, latest_boot, latest_seq, labels"
)
_LATEST = ("latest", "latest_boot", "latest_seq")
_NEWER = (
    "(excluded.latest_boot, excluded.latest_seq) >="
    " (coalesce(qeil_boards.latest_boot, -1), coalesce(qeil_boards.latest_seq, -1))"
)
_HEARD = "ON CONFLICT (tenant, board) DO UPDATE SET heard_s = excluded.heard_s, " + ", ".join(
    f"{name} = CASE WHEN {_NEWER} THEN excluded.{name} ELSE qeil_boards.{name} END" for name in _LATEST
)
_ROW_COLUMNS = "tenant, board, boot, cls, seq, at_s, payload"
_STREAM_COLUMNS = "tenant, board, boot, cls, top, stored, lost, changed_s"
_NOT_OLDER = "(qeil_boards.boot, qeil_boards.conn) <= ({0}, {1})"
_MOVED = (
    "ON CONFLICT (tenant, board, boot, cls) DO UPDATE SET top = {greater}(qeil_streams.top, excluded.top),"
    " stored = qeil_streams.stored + excluded.stored, lost = qeil_streams.lost + excluded.lost,"
    " changed_s = excluded.changed_s"
)


class Bulk(Protocol):
    """All within the caller's transaction; each raises what the database raises."""

    def heard(self, db: Connection, latest: Mapping[BoardKey, Newest | None], now_s: float) -> None:
        """A row for each board, known or not: heard of now, and its newest telemetry row where it is not older than the
        one that is there: boards send what waited while they were away after what is new."""
        ...

    def rows(self, db: Connection, rows: Mapping[RowKey, Row]) -> list[RowKey]:
        """Insert what is not there yet; the keys that were new."""
        ...

    def streams(self, db: Connection, changes: Mapping[StreamKey, StreamChange], now_s: float) -> None:
        """Count rows up."""
        ...

    def sessions(self, db: Connection, found: Mapping[BoardKey, Session], now_s: float) -> None:
        """Births and wills of boards that are there; those of older sessions change nothing."""
        ...


class PostgresBulk:
    """Columns as texts of lines."""

    def heard(self, db: Connection, latest: Mapping[BoardKey, Newest | None], now_s: float) -> None:
        """As in `Bulk`."""
        if not latest:
            return
        statement = (
            f"INSERT INTO qeil_boards ({_BOARD_COLUMNS}) SELECT t, b, %(now)s, %(now)s, false, 0, 0, 0.0, '{{}}',"  # noqa: S608
            f" nullif(l, ''), nullif(o, '')::bigint, nullif(s, '')::bigint, '{{}}' FROM {_table('tbosl')} {_HEARD}"
        )
        lines = _lines("tbosl", [(*key, *(latest[key] or ("", "", ""))) for key in sorted(latest)])
        db.exec_driver_sql(statement, {**lines, "now": now_s})

    def rows(self, db: Connection, rows: Mapping[RowKey, Row]) -> list[RowKey]:
        """As in `Bulk`."""
        found = sorted(rows)
        if not found:
            return []
        statement = (
            f"INSERT INTO qeil_rows ({_ROW_COLUMNS}, day) SELECT t, b, o::bigint, c, s::bigint, a::float, p,"  # noqa: S608
            f" d::integer FROM {_table('tbocspda')} ON CONFLICT DO NOTHING RETURNING tenant, board, boot, cls, seq"
        )
        answer = db.exec_driver_sql(statement, _lines("tbocspda", [(*key, *rows[key]) for key in found])).all()
        return [(r[0], r[1], r[2], r[3], r[4]) for r in answer]

    def streams(self, db: Connection, changes: Mapping[StreamKey, StreamChange], now_s: float) -> None:
        """As in `Bulk`."""
        found = sorted((*key, *change) for key, change in changes.items())
        if not found:
            return
        statement = (
            f"INSERT INTO qeil_streams ({_STREAM_COLUMNS}) SELECT t, b, o::bigint, c, m::bigint, s::bigint,"  # noqa: S608
            f" l::bigint, %(now)s FROM {_table('tbocmsl')} {_MOVED.format(greater='greatest')}"
        )
        db.exec_driver_sql(statement, {**_lines("tbocmsl", found), "now": now_s})

    def sessions(self, db: Connection, found: Mapping[BoardKey, Session], now_s: float) -> None:
        """As in `Bulk`."""
        if not found:
            return
        statement = (
            "UPDATE qeil_boards SET online = x.a::boolean, boot = x.o::bigint, conn = x.c::bigint, state_s = %(now)s,"  # noqa: S608
            f" state = coalesce(nullif(x.s, ''), state) FROM {_table('tbaocs')} WHERE tenant = x.t AND board = x.b"
            f" AND {_NOT_OLDER.format('x.o::bigint', 'x.c::bigint')}"
        )
        lines = _lines("tbaocs", sorted((*key, *session) for key, session in found.items()))
        db.exec_driver_sql(statement, {**lines, "now": now_s})


class SqliteBulk:
    """Rows one by one."""

    def heard(self, db: Connection, latest: Mapping[BoardKey, Newest | None], now_s: float) -> None:
        """As in `Bulk`."""
        statement = (
            f"INSERT INTO qeil_boards ({_BOARD_COLUMNS}) VALUES (?, ?, ?, ?, 0, 0, 0, 0.0, '{{}}', ?, ?, ?, '{{}}')"  # noqa: S608
            f" {_HEARD}"
        )
        values = []
        for key in sorted(latest):
            boot, seq, text = latest[key] or (None, None, None)
            values.append((*key, now_s, now_s, text, boot, seq))
        if values:
            db.exec_driver_sql(statement, values)

    def rows(self, db: Connection, rows: Mapping[RowKey, Row]) -> list[RowKey]:
        """As in `Bulk`."""
        statement = f"INSERT OR IGNORE INTO qeil_rows ({_ROW_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
        cursor = db.connection.cursor()
        try:
            values = ((key, (*key, rows[key].at_s, rows[key].text)) for key in sorted(rows))
            return [key for key, row in values if _inserted(cursor, statement, row)]
        finally:
            cursor.close()

    def streams(self, db: Connection, changes: Mapping[StreamKey, StreamChange], now_s: float) -> None:
        """As in `Bulk`."""
        statement = (
            f"INSERT INTO qeil_streams ({_STREAM_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608
            f"{_MOVED.format(greater='max')}"
        )
        if changes:
            db.exec_driver_sql(statement, [(*key, *change, now_s) for key, change in sorted(changes.items())])

    def sessions(self, db: Connection, found: Mapping[BoardKey, Session], now_s: float) -> None:
        """As in `Bulk`."""
        statement = (
            "UPDATE qeil_boards SET online = ?, boot = ?, conn = ?, state_s = ?, state = coalesce(nullif(?, ''), state)"  # noqa: S608
            f" WHERE tenant = ? AND board = ? AND {_NOT_OLDER.format('?', '?')}"
        )
        values = [(a, o, c, now_s, text, *key, o, c) for key, (a, o, c, text) in sorted(found.items())]
        if values:
            db.exec_driver_sql(statement, values)


def _inserted(cursor: Any, statement: str, values: tuple[object, ...]) -> bool:
    cursor.execute(statement, values)
    return bool(cursor.rowcount == 1)


def _table(names: str) -> str:
    """The table that `_lines` gives, in SQL; a column for each letter."""
    columns = ", ".join(f"string_to_array(%({name})s::text, E'\\n')" for name in names)
    return f"unnest({columns}) AS x({', '.join(names)})"


def _lines(names: str, found: Sequence[tuple[Any, ...]]) -> dict[str, str]:
    return {name: "\n".join(map(str, column)) for name, column in zip(names, zip(*found, strict=True), strict=True)}
