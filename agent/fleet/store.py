"""Store: what consumers write, in one transaction per batch, idempotent by key; any number of them at once.

Online is what the board's birth and last will say, ordered by boot and connection counters, so that an old will that
comes late changes nothing.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Float,
    bindparam,
    create_engine,
    event,
    func,
    or_,
    tuple_,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, SQLAlchemyError

from agent.errors import BadInput, ConfigError, StorageError
from agent.fleet import layouts, tables
from agent.fleet.bulk import Bulk, Newest, PostgresBulk, Row, RowKey, Session, SqliteBulk, StreamChange, StreamKey
from agent.fleet.days import day_of
from agent.fleet.messages import MAX_NUMBER, BoardKey, Rows, Told, gap, is_number
from agent.records import record
from agent.schema.fleet import Retention

FINAL = ("ok", "failed", "rejected", "expired")
STATES = ("accepted", "running", *FINAL)
"""What a board may say of a command; anything else would have controllers send it once more."""
AGAIN = frozenset({"storage", "clock_unset", "not_yet"})
"""Why a board refuses a command now and may take it later: it remembers none of them, so none is the end."""
NO_ANSWER, SUPERSEDED = '{"code":"no_answer"}', '{"code":"superseded"}'
"""Ends that a controller gave a message; what its board says of it counts for more, however late."""

Dated = tuple[int, float, str]
"""A document of a board: its boot, seconds of its monotonic clock, and its JSON text."""


@record(frozen=True)
class Stored:
    """What became of a batch."""

    rows: int
    duplicates: int


def open_engine(url: str) -> Engine:
    """The database: sqlite:///FILE, or postgresql+psycopg://…  ConfigError, StorageError say what is wrong."""
    try:
        made = make_url(url)
    except SQLAlchemyError as error:
        raise ConfigError("database: no URL; expected sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME") from error
    if made.drivername in {"postgresql", "postgres"}:
        made = made.set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(made, pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _sqlite_durable)
        layouts.prepare(engine)
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise StorageError(f"{made.render_as_string(hide_password=True)}: {cause}") from error
    return engine


def _sqlite_durable(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class Store:
    """Thread-safe through its engine's pool. Methods raise StorageError, or BadInput for what the database cannot hold;
    a batch is then not stored at all."""

    def __init__(self, engine: Engine, rules: Retention | None = None) -> None:
        self.engine = engine
        self._rows_days = (rules or Retention()).rows_days
        self._bulk: Bulk = PostgresBulk() if engine.dialect.name == "postgresql" else SqliteBulk()

    def take(self, batch: Sequence[Rows | Told], now_s: float) -> Stored:
        """Store everything or nothing. What is there already is counted and changes nothing."""
        said = [m for m in batch if isinstance(m, Rows)]
        told = [m for m in batch if isinstance(m, Told)]
        try:
            with self.engine.begin() as db:
                wanted = sum(len(r.payloads) for r in said)
                new, streams = self._rows(db, said, now_s)
                # Last, as others wait for what is changed here until the commit.
                self._bulk.heard(db, {**{m.board: None for m in batch}, **_newest(said)}, now_s)
                self._bulk.streams(db, streams, now_s)
                self._answers(db, said, told, now_s)
                self._told(db, told, now_s)
        except (DataError, UnicodeError, OverflowError) as error:
            raise BadInput(str(getattr(error, "orig", None) or error).splitlines()[0]) from error
        except SQLAlchemyError as error:
            raise StorageError(str(getattr(error, "orig", None) or error).splitlines()[0]) from error
        return Stored(new, wanted - new)

    def _rows(self, db: Connection, said: Sequence[Rows], now_s: float) -> tuple[int, dict[StreamKey, StreamChange]]:
        unique: dict[RowKey, Row] = {}
        for rows in said:
            for i, (text, document) in enumerate(zip(rows.payloads, rows.documents, strict=True)):
                day = day_of(rows.cls, document, now_s, self._rows_days)
                unique.setdefault((*rows.board, rows.boot, rows.cls, rows.first + i), Row(text, day, now_s))
        new = set(self._bulk.rows(db, unique))
        fresh = Counter(key[:4] for key in new)
        lost = _lost(said, new)
        top: dict[StreamKey, int] = defaultdict(lambda: -1)
        for key in unique:
            top[key[:4]] = max(top[key[:4]], key[4])
        return len(new), {key: (top.get(key, -1), fresh.get(key, 0), lost.get(key, 0)) for key in {*top, *lost}}

    def _set(self, db: Connection, column: str, found: Mapping[BoardKey, Dated]) -> None:
        """Documents that are not older than those that are there."""
        if not found:
            return
        table = tables.boards
        order = tuple_(*(func.coalesce(table.c[f"{column}_{part}"], -1) for part in ("boot", "mono")))
        statement = (
            table.update()
            .where(table.c.tenant == bindparam("of_tenant"), table.c.board == bindparam("of_board"))
            .where(order <= tuple_(bindparam("now_boot", type_=BigInteger), bindparam("now_mono", type_=Float)))
            .values({column: bindparam("text"), f"{column}_boot": bindparam("now_boot"),
                     f"{column}_mono": bindparam("now_mono")})
        )  # fmt: skip
        db.execute(
            statement,
            [
                {"of_tenant": t, "of_board": b, "now_boot": boot, "now_mono": mono_s, "text": text}
                for (t, b), (boot, mono_s, text) in sorted(found.items())
            ],
        )

    # ------------------------------------------------------------------ documents

    def _told(self, db: Connection, told: Iterable[Told], now_s: float) -> None:
        states: dict[BoardKey, dict[str, Any]] = {}
        others: dict[str, dict[BoardKey, Dated]] = {"reported": {}, "bundle": {}}
        columns = {"rep": "reported", "bundle": "bundle"}
        for message in told:
            if message.kind == "state":
                before = states.get(message.board)
                if before is None or _age(before) <= _age(message.document):
                    states[message.board] = message.document
            elif message.kind in columns:
                if message.kind == "rep":
                    self._settled(db, message, now_s)
                found, dated = others[columns[message.kind]], _dated(message.document)
                if message.board not in found or found[message.board][:2] <= dated[:2]:
                    found[message.board] = dated
        for column, documents in others.items():
            self._set(db, column, documents)
        self._bulk.sessions(db, {board: _session(document) for board, document in states.items()}, now_s)

    def _settled(self, db: Connection, message: Told, now_s: float) -> None:
        """What became of a desired state that was sent from here."""
        ends = {"applied": "ok", "rejected": "failed"}
        status, ver = ends.get(str(message.document.get("status"))), message.document.get("des_ver")
        if status is not None and isinstance(ver, int):
            key, table = f"{message.board[0]}/{message.board[1]}/desired/{ver}", tables.messages
            db.execute(
                table.update()
                .where(table.c.id == key, _unanswered())
                .values(status=status, answer=_text(message.document), changed_s=now_s)
            )

    def _answers(self, db: Connection, said: Sequence[Rows], told: Sequence[Told], now_s: float) -> None:
        """Where commands stand, from responses and, for sure, from event rows."""
        answers = [(m.board, m.document) for m in told if m.kind == "res"]
        for rows in said:
            if rows.cls == "evt":
                answers += [(rows.board, row) for row in rows.documents if row.get("event") == "command"]
        table = tables.messages
        for board, document in answers:
            key = _message(board, document)
            if key is None or document.get("status") not in STATES:
                continue
            values: dict[str, Any] = {"status": document["status"], "answer": _text(document), "changed_s": now_s}
            open_ones = _unanswered()
            if document["status"] == "rejected" and str(document.get("code")) in AGAIN:
                values.pop("status")
                open_ones = table.c.status.not_in(FINAL)
            mine = (table.c.id == key) & (table.c.tenant == board[0]) & (table.c.board == board[1])
            db.execute(table.update().where(mine, open_ones).values(values))


def _unanswered() -> ColumnElement[bool]:
    """Messages of which the board has not told the end."""
    table = tables.messages
    return or_(table.c.status.not_in(FINAL), table.c.answer.in_((NO_ANSWER, SUPERSEDED)))


def _message(board: BoardKey, document: Mapping[str, Any]) -> str | None:
    """Which message an answer is of; None where it is of none, or the board will try it again by itself."""
    number = document.get("id")
    if not isinstance(number, str):
        return None
    if document.get("command") != "desired":
        return f"{board[0]}/{number}"
    return None if document.get("code") == "storage" else f"{board[0]}/{board[1]}/desired/{number}"


def _lost(said: Sequence[Rows], new: set[RowKey]) -> Counter[StreamKey]:
    """Per stream, what the gap rows that are new tell to be lost."""
    lost: Counter[StreamKey] = Counter()
    for rows in said:
        for i, row in enumerate(rows.documents if rows.cls == "gap" else ()):
            told = gap(row) if (*rows.board, rows.boot, "gap", rows.first + i) in new else None
            if told is not None:
                stream: StreamKey = (*rows.board, told[1], told[0])
                lost[stream] += told[2]
    return lost


def _newest(said: Sequence[Rows]) -> dict[BoardKey, Newest]:
    """The newest telemetry row of each board, for the inventory."""
    newest: dict[BoardKey, Newest] = {}
    for rows in said:
        last = Newest(rows.boot, rows.first + len(rows.payloads) - 1, rows.payloads[-1])
        if rows.cls == "tlm" and (rows.board not in newest or newest[rows.board][:2] < last[:2]):
            newest[rows.board] = last
    return newest


def _dated(document: Mapping[str, Any]) -> Dated:
    """What orders a board's documents: its start, and the monotonic clock within it; 0 where it tells none."""
    boot, mono_s = document.get("boot"), document.get("mono")
    if isinstance(mono_s, bool) or not isinstance(mono_s, int | float) or not 0 <= mono_s <= MAX_NUMBER:
        mono_s = 0.0
    return boot if is_number(boot) else 0, float(mono_s), _text(document)


def _age(document: Mapping[str, Any]) -> tuple[int, int, bool]:
    return int(document["boot"]), int(document["conn"]), not document["online"]


def _session(document: Mapping[str, Any]) -> Session:
    """A will keeps what the birth said of the board."""
    online = bool(document["online"])
    return online, int(document["boot"]), int(document["conn"]), _text(document) if online else ""


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
