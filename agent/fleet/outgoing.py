"""Outgoing: signed messages on their way to boards. Any controller may carry them; none is sent by two at once.

A message waits in the database until one controller has claimed it. What was sent and not answered is sent again while
it is good: boards know a command by its id and never run one twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Engine, or_, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from agent.errors import BadInput, NotFound, StorageError
from agent.fleet import tables
from agent.fleet.store import FINAL
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
                .values(status="expired", changed_s=now_s, answer=json.dumps({"code": "no_answer"}))
            )
            again = (table.c.status == "sent") & (table.c.kind == "command") & (table.c.sent_s < now_s - AGAIN_S)
            query = select(table).where(or_(table.c.status == "waiting", again)).order_by(table.c.created_s)
            return list(db.execute(query.limit(BATCH)).mappings())

    def _one(self, row: Any, send: Send) -> bool:
        """Claim it, then hand it over; where the link cannot take it, it waits again."""
        table, now_s = tables.messages, self._wall_s()
        same = table.c.sent_s.is_(None) if row["sent_s"] is None else table.c.sent_s == row["sent_s"]
        with self._engine.begin() as db:
            claimed = db.execute(
                table.update()
                .where(table.c.id == row["id"], table.c.status == row["status"], same)
                .values(status="sent", sent_s=now_s, changed_s=now_s)
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
                .where(table.c.id == row["id"], table.c.status.not_in(FINAL), table.c.sent_s == now_s)
                .values(status="waiting", sent_s=None)
            )
        return False


def write_audit(db: Any, now_s: float, who: str, action: str, target: str, detail: dict[str, Any]) -> None:
    """Who did what, in the transaction that does it."""
    db.execute(
        tables.audit.insert().values(at_s=now_s, who=who, action=action, target=target[:200], detail=json.dumps(detail))
    )
