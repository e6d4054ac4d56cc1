"""Store: what consumers write, in one transaction per batch, idempotent by key; any number of them at once.

Online is what the board's birth and last will say, ordered by boot and connection counters, so that an old will that
comes late changes nothing.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, create_engine, event, func, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from agent.errors import ConfigError, StorageError
from agent.fleet import tables
from agent.fleet.messages import BoardKey, Rows, Told, gap

StreamKey = tuple[str, str, int, str]
FINAL = ("ok", "failed", "rejected", "expired")


@dataclass(frozen=True)
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
        tables.prepare(engine)
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise StorageError(f"{made.render_as_string(hide_password=True)}: {cause}") from error
    return engine


def _sqlite_durable(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class Store:
    """Thread-safe through its engine's pool. Methods raise StorageError; a batch is then not stored at all."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert

    def take(self, batch: Sequence[Rows | Told], now_s: float) -> Stored:
        """Store everything or nothing. What is there already is counted and changes nothing."""
        said = [m for m in batch if isinstance(m, Rows)]
        told = [m for m in batch if isinstance(m, Told)]
        try:
            with self.engine.begin() as db:
                self._known(db, {m.board for m in batch}, now_s)
                wanted = sum(len(r.payloads) for r in said)
                new = self._rows(db, said, now_s)
                self._latest(db, said)
                self._answers(db, said, told, now_s)
                self._told(db, told, now_s)
        except SQLAlchemyError as error:
            raise StorageError(str(getattr(error, "orig", None) or error).splitlines()[0]) from error
        return Stored(new, wanted - new)

    def _known(self, db: Connection, found: set[BoardKey], now_s: float) -> None:
        """A row for each board; sorted, so that consumers never wait for each other in a circle."""
        values = [
            {
                "tenant": tenant, "board": board, "first_s": now_s, "heard_s": now_s, "online": False, "boot": 0,
                "conn": 0, "state_s": 0.0, "state": "{}", "labels": "{}",
            }
            for tenant, board in sorted(found)
        ]  # fmt: skip
        if values:
            made = self.insert(tables.boards).values(values)
            db.execute(
                made.on_conflict_do_update(index_elements=["tenant", "board"], set_={"heard_s": made.excluded.heard_s})
            )

    def _rows(self, db: Connection, said: Sequence[Rows], now_s: float) -> int:
        unique: dict[tuple[str, str, int, str, int], str] = {}
        for rows in said:
            for i, text in enumerate(rows.payloads):
                unique.setdefault((*rows.board, rows.boot, rows.cls, rows.first + i), text)
        if not unique:
            return 0
        new = set(self._new(db, unique, now_s))
        fresh = Counter(key[:4] for key in new)
        lost: Counter[StreamKey] = Counter()
        for rows in said:
            for i, row in enumerate(rows.documents if rows.cls == "gap" else ()):
                told = gap(row) if (*rows.board, rows.boot, "gap", rows.first + i) in new else None
                if told is not None:
                    stream = (*rows.board, told[1], told[0])
                    lost[stream] += told[2]
        top: dict[StreamKey, int] = defaultdict(lambda: -1)
        for key in unique:
            top[key[:4]] = max(top[key[:4]], key[4])
        self._streams(db, top, fresh, lost, now_s)
        return len(new)

    def _new(
        self, db: Connection, unique: Mapping[tuple[str, str, int, str, int], str], now_s: float
    ) -> list[tuple[str, str, int, str, int]]:
        table = tables.rows
        columns = ("tenant", "board", "boot", "cls", "seq")
        values = [
            {**dict(zip(columns, key, strict=True)), "at_s": now_s, "payload": text}
            for key, text in sorted(unique.items())
        ]
        made = self.insert(table).on_conflict_do_nothing(index_elements=list(columns))
        found = db.execute(made.returning(*(table.c[name] for name in columns)), values)
        return [(str(r[0]), str(r[1]), int(r[2]), str(r[3]), int(r[4])) for r in found]

    def _streams(
        self,
        db: Connection,
        top: Mapping[StreamKey, int],
        fresh: Mapping[StreamKey, int],
        lost: Mapping[StreamKey, int],
        now_s: float,
    ) -> None:
        table = tables.streams
        values = [
            {
                "tenant": key[0], "board": key[1], "boot": key[2], "cls": key[3], "top": top.get(key, -1),
                "stored": fresh.get(key, 0), "lost": lost.get(key, 0), "changed_s": now_s,
            }
            for key in sorted({*top, *lost})
        ]  # fmt: skip
        made = self.insert(table).values(values)
        greater = "greatest" if self.engine.dialect.name == "postgresql" else "max"
        db.execute(
            made.on_conflict_do_update(
                index_elements=["tenant", "board", "boot", "cls"],
                set_={
                    "top": getattr(func, greater)(table.c.top, made.excluded.top),
                    "stored": table.c.stored + made.excluded.stored,
                    "lost": table.c.lost + made.excluded.lost,
                    "changed_s": made.excluded.changed_s,
                },
            )
        )

    def _latest(self, db: Connection, said: Sequence[Rows]) -> None:
        """The newest telemetry row of each board, for the inventory; order within a batch decides."""
        newest: dict[BoardKey, tuple[tuple[int, int], str]] = {}
        for rows in said:
            key = (rows.boot, rows.first + len(rows.payloads) - 1)
            if rows.cls == "tlm" and (rows.board not in newest or newest[rows.board][0] < key):
                newest[rows.board] = (key, rows.payloads[-1])
        self._set(db, "latest", {board: text for board, (_, text) in newest.items()})

    def _set(self, db: Connection, column: str, texts: Mapping[BoardKey, str]) -> None:
        if not texts:
            return
        table = tables.boards
        statement = (
            table.update()
            .where(table.c.tenant == bindparam("of_tenant"), table.c.board == bindparam("of_board"))
            .values({column: bindparam("text")})
        )
        db.execute(statement, [{"of_tenant": t, "of_board": b, "text": text} for (t, b), text in sorted(texts.items())])

    # ------------------------------------------------------------------ documents

    def _told(self, db: Connection, told: Iterable[Told], now_s: float) -> None:
        states: dict[BoardKey, dict[str, Any]] = {}
        others: dict[str, dict[BoardKey, str]] = {"reported": {}, "bundle": {}}
        columns = {"rep": "reported", "bundle": "bundle"}
        for message in told:
            if message.kind == "state":
                before = states.get(message.board)
                if before is None or _age(before) <= _age(message.document):
                    states[message.board] = message.document
            elif message.kind in columns:
                if message.kind == "rep":
                    self._settled(db, message, now_s)
                others[columns[message.kind]][message.board] = _text(message.document)
        for column, texts in others.items():
            self._set(db, column, texts)
        for board, document in sorted(states.items()):
            self._state(db, board, document, now_s)

    def _settled(self, db: Connection, message: Told, now_s: float) -> None:
        """What became of a desired state that was sent from here."""
        ends = {"applied": "ok", "rejected": "failed"}
        status, ver = ends.get(str(message.document.get("status"))), message.document.get("des_ver")
        if status is not None and isinstance(ver, int):
            key, table = f"{message.board[0]}/{message.board[1]}/desired/{ver}", tables.messages
            db.execute(
                table.update()
                .where(table.c.id == key, table.c.status.not_in(FINAL))
                .values(status=status, answer=_text(message.document), changed_s=now_s)
            )

    def _state(self, db: Connection, board: BoardKey, document: dict[str, Any], now_s: float) -> None:
        """Birth or will; of an older session it changes nothing. A will keeps what the birth said of the board."""
        table = tables.boards
        age, online = _age(document)[:2], bool(document["online"])
        not_older = tuple_(table.c.boot, table.c.conn) <= tuple_(*age)
        values: dict[str, Any] = {"online": online, "boot": age[0], "conn": age[1], "state_s": now_s}
        if online:
            values["state"] = _text(document)
        db.execute(
            table.update().where(table.c.tenant == board[0], table.c.board == board[1], not_older).values(values)
        )

    def _answers(self, db: Connection, said: Sequence[Rows], told: Sequence[Told], now_s: float) -> None:
        """Where commands stand, from responses and, for sure, from event rows."""
        answers = [(m.board, m.document) for m in told if m.kind == "res"]
        for rows in said:
            if rows.cls == "evt":
                answers += [(rows.board, row) for row in rows.documents if row.get("event") == "command"]
        table = tables.messages
        for board, document in answers:
            if not isinstance(document.get("id"), str):
                continue
            db.execute(
                table.update()
                .where(
                    table.c.id == f"{board[0]}/{document['id']}", table.c.tenant == board[0],
                    table.c.board == board[1], table.c.status.not_in(FINAL),
                )
                .values(status=str(document.get("status"))[:16], answer=_text(document), changed_s=now_s)
            )  # fmt: skip


def _age(document: Mapping[str, Any]) -> tuple[int, int, bool]:
    return int(document["boot"]), int(document["conn"]), not document["online"]


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
