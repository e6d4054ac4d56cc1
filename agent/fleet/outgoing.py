"""Outgoing: signed messages on their way to boards. Any controller may carry them; none is sent by two at once.

A message waits in the database until one controller has claimed it. What was sent and has no end is sent again: boards
know a command by its id, never run one twice and say once more what became of it. A desired state is sent again to a
board that was heard of since, as what a controller had in hand when it was killed never left it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, or_, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from agent.errors import BadInput, NotFound, StorageError
from agent.fleet import tables
from agent.fleet.store import NO_ANSWER, SUPERSEDED
from agent.mqtt import envelope
from agent.mqtt.minisign import PublicKey, SignatureRefused
from agent.mqtt.topics import Topics
from agent.schema.bundle import Offer
from agent.schema.command import Command
from agent.schema.desired import Desired
from agent.schema.fleet import Signed
from agent.storage import yaml_files
from agent.storage.yaml_text import Document

AGAIN_S = 60.0
ASKED_S = 7 * 86_400.0
"""Boards are asked for this long after a command's expiry what became of it; they remember it no longer."""
BATCH = 200
_KINDS: dict[object, type[Command | Desired | Offer]] = {"command": Command, "desired": Desired, "bundle": Offer}

Send = Callable[[str, bytes, bool, int | None], bool]
"""(topic, payload, retain, expires_s) to the link; False if it cannot take it now."""


class Outgoing:
    """Thread-safe through the engine's pool. Methods raise StorageError."""

    def __init__(self, engine: Engine, keys: Sequence[PublicKey], wall_s: Callable[[], float]) -> None:
        self._engine = engine
        self._keys = tuple(keys)
        self._wall_s = wall_s

    def checked(self, signed: Signed) -> Command | Desired | Offer:
        """The document, if a pinned key signed it and a board could take it. BadInput, ConfigError say why not."""
        try:
            document, _ = envelope.opened(envelope.sealed(signed.doc, signed.sig), self._keys)
        except SignatureRefused as refused:
            raise BadInput(f"{refused.code}: {refused.message}") from refused
        schema = _KINDS.get(str(document.get("kind")) if isinstance(document, dict) else "")
        if schema is None:
            raise BadInput("neither a command, a desired state nor a bundle")
        return yaml_files.validate(Document(document, {}), schema, "doc")

    def add(self, signed: Signed, who: str) -> str:
        """Take a command or desired state on for its board; its id, the same for the same message."""
        found = self.checked(signed)
        if isinstance(found, Offer):
            raise BadInput("a bundle goes out as a rollout")
        kind, name = ("command", found.command) if isinstance(found, Command) else ("desired", f"version {found.ver}")
        number = found.id if isinstance(found, Command) else f"{found.board}/desired/{found.ver}"
        exp = found.exp if isinstance(found, Command) else None
        return self._insert(found.tenant, found.board, f"{found.tenant}/{number}", kind, name, signed, who, exp)

    def _insert(
        self, tenant: str, board: str, key: str, kind: str, name: str, signed: Signed, who: str, exp: float | None
    ) -> str:
        now_s, table = self._wall_s(), tables.messages
        text = envelope.sealed(signed.doc, signed.sig).decode()
        try:
            with self._engine.begin() as db:
                known = db.execute(
                    select(tables.boards.c.board).where(
                        tables.boards.c.tenant == tenant, tables.boards.c.board == board
                    )
                ).first()
                if known is None:
                    raise NotFound(f"there is no board {tenant}/{board}")
                if kind == "desired":
                    _supersede(db, tenant, board, name, now_s)
                db.execute(
                    table.insert().values(
                        id=key, tenant=tenant, board=board, kind=kind, name=name, envelope=text, by_whom=who,
                        created_s=now_s, exp=exp, status="waiting", changed_s=now_s,
                    )
                )  # fmt: skip
                write_audit(db, now_s, who, kind, f"{tenant}/{board}", {"id": key, "name": name})
        except IntegrityError:
            with self._engine.begin() as db:
                before = db.execute(select(table.c.envelope).where(table.c.id == key)).scalar_one()
            if before != text:
                raise BadInput(f"{key} said something else before; ids and versions are used once") from None
        except SQLAlchemyError as error:
            raise StorageError(str(getattr(error, "orig", None) or error).splitlines()[0]) from error
        return key

    def find(self, key: str) -> dict[str, Any]:
        """Where a message stands; NotFound."""
        with self._engine.begin() as db:
            row = db.execute(select(tables.messages).where(tables.messages.c.id == key)).mappings().first()
        if row is None:
            raise NotFound(f"there is no message {key}")
        shown = {k: row[k] for k in ("id", "tenant", "board", "kind", "name", "by_whom", "created_s", "sent_s")}
        return {
            **shown,
            "status": row["status"],
            "answer": None if row["answer"] is None else json.loads(row["answer"]),
        }

    def round(self, send: Send) -> int:
        """Send what waits, and again what was not answered; how many that were."""
        try:
            return sum(self._one(row, send) for row in self._due())
        except SQLAlchemyError as error:
            raise StorageError(str(getattr(error, "orig", None) or error).splitlines()[0]) from error

    def _due(self) -> list[Any]:
        table, now_s = tables.messages, self._wall_s()
        with self._engine.begin() as db:
            db.execute(
                table.update()
                .where(table.c.status.in_(("waiting", "sent")), table.c.exp < now_s)
                .values(status="expired", changed_s=now_s, answer=NO_ANSWER)
            )
            query = select(table).where(or_(table.c.status == "waiting", _again(now_s))).order_by(table.c.created_s)
            return list(db.execute(query.limit(BATCH)).mappings())

    def _one(self, row: Any, send: Send) -> bool:
        """Claim it, then hand it over; where the link cannot take it, it is as before."""
        table, now_s = tables.messages, self._wall_s()
        same = table.c.sent_s.is_(None) if row["sent_s"] is None else table.c.sent_s == row["sent_s"]
        status = "sent" if row["status"] == "waiting" else row["status"]
        with self._engine.begin() as db:
            claimed = db.execute(
                table.update()
                .where(table.c.id == row["id"], table.c.status == row["status"], same)
                .values(status=status, sent_s=now_s, changed_s=now_s)
            ).rowcount
        if claimed != 1:
            return False
        topics = Topics(row["tenant"], row["board"])
        command = row["kind"] == "command"
        expires_s = max(1, int(row["exp"] - now_s)) if command else None
        topic = topics.command(row["name"]) if command else topics.desired
        if send(topic, row["envelope"].encode(), not command, expires_s):
            return True
        with self._engine.begin() as db:
            db.execute(
                table.update()
                .where(table.c.id == row["id"], table.c.status == status, table.c.sent_s == now_s)
                .values(status=row["status"], sent_s=row["sent_s"], changed_s=row["changed_s"])
            )
        return False


def _again(now_s: float) -> ColumnElement[bool]:
    """Sent long ago, and nothing was heard of it since."""
    table, boards = tables.messages, tables.boards
    silent = (table.c.sent_s < now_s - AGAIN_S) & (table.c.changed_s < now_s - AGAIN_S)
    begun = table.c.status.in_(("accepted", "running")) & (table.c.exp > now_s - ASKED_S)
    command = (table.c.kind == "command") & or_(table.c.status == "sent", begun)
    here = (boards.c.tenant == table.c.tenant) & (boards.c.board == table.c.board)
    heard = select(boards.c.board).where(here, boards.c.heard_s > table.c.sent_s).exists()
    return silent & or_(command, (table.c.kind == "desired") & (table.c.status == "sent") & heard)


def _supersede(db: Connection, tenant: str, board: str, name: str, now_s: float) -> None:
    """Older desired states end; BadInput where a newer one is there: boards would refuse this one, and those that are
    away find only the last one sent."""
    table = tables.messages
    mine = (table.c.tenant == tenant) & (table.c.board == board) & (table.c.kind == "desired")
    names = [str(n) for (n,) in db.execute(select(table.c.name).where(mine))]
    if name in names:  # the same once more
        return
    newest = max(map(_version, names), default=0)
    if _version(name) < newest:
        raise BadInput(f"{name} is older than {newest}, which was sent already; give the old content a new version")
    older = mine & table.c.status.in_(("waiting", "sent"))
    db.execute(table.update().where(older).values(status="expired", changed_s=now_s, answer=SUPERSEDED))


def _version(name: str) -> int:
    return int(name.removeprefix("version "))


def write_audit(db: Any, now_s: float, who: str, action: str, target: str, detail: dict[str, Any]) -> None:
    """Who did what, in the transaction that does it."""
    db.execute(
        tables.audit.insert().values(at_s=now_s, who=who, action=action, target=target[:200], detail=json.dumps(detail))
    )
