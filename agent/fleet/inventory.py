"""Inventory: what is known of every board – and whether that is still so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, field
from typing import Any, Literal

from sqlalchemy import Connection, Engine, RowMapping, func, select
from sqlalchemy.exc import SQLAlchemyError

from agent.errors import NotFound, StorageError
from agent.fleet import tables
from agent.fleet.dating import clocks, real, when_s
from agent.fleet.messages import BoardKey
from agent.fleet.selection import selection
from agent.records import record

Status = Literal["online", "silent", "offline", "unknown"]
MAX_ROWS = 1000
COLUMNS = (
    "tenant", "board", "status", "heard_s", "profile", "policy", "mode", "temperature_c", "energy_j", "provenance",
    "missing", "bundle_ver", "bundle_status", "conditions",
)  # fmt: skip


@record(frozen=True)
class BoardEntry:
    """One board as lists show it. Times are seconds since 1970 by the controller's clock; None: never told.

    energy_j: joules per inference of the newest window, over all models, with the weakest provenance of any;
    temperature_c: of the hottest accelerator; missing: rows that neither came nor were told to be lost.
    """

    tenant: str
    board: str
    status: Status
    heard_s: float
    agent: str | None
    profile: str | None
    policy: str | None
    labels: dict[str, str]
    mode: str | None
    temperature_c: float | None
    energy_j: float | None
    provenance: str
    missing: int
    conditions: tuple[dict[str, str], ...] = ()
    bundle_ver: int | None = None
    bundle_status: str | None = None

    def facts(self) -> dict[str, str]:
        """What selections ask about."""
        own = {
            "tenant": self.tenant, "board": self.board, "status": self.status, "agent": self.agent,
            "profile": self.profile, "policy": self.policy, "mode": self.mode,
            "bundle": None if self.bundle_ver is None else str(self.bundle_ver),
        }  # fmt: skip
        return {**self.labels, **{key: value for key, value in own.items() if value is not None}}

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@record(frozen=True)
class BoardDetail:
    """Everything that is known of one board."""

    entry: BoardEntry
    state: dict[str, Any]
    reported: dict[str, Any] | None
    bundle: dict[str, Any] | None
    latest: dict[str, Any] | None
    streams: tuple[dict[str, Any], ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.entry.as_json(), **{k: v for k, v in asdict(self).items() if k != "entry"}}


class Inventory:
    """Reads only; thread-safe through the engine's pool. Methods raise StorageError."""

    def __init__(self, engine: Engine, silent_s: float, missing_s: float, wall_s: Callable[[], float]) -> None:
        self._engine = engine
        self._silent_s, self._missing_s = silent_s, missing_s
        self._wall_s = wall_s

    def boards(self, tenant: str | None = None, select_text: str = "") -> list[BoardEntry]:
        """Boards that the selection wants, by name."""
        wanted = selection(select_text)
        table = tables.boards
        query = select(table).order_by(table.c.tenant, table.c.board)
        if tenant is not None:
            query = query.where(table.c.tenant == tenant)
        with _reading(self._engine) as db:
            found = db.execute(query).mappings().all()
            missing = self._missing(db)
        entries = [self._entry(row, missing.get((row["tenant"], row["board"]), 0)) for row in found]
        return [entry for entry in entries if wanted(entry.facts())]

    def overview(self, tenant: str | None) -> dict[str, Any]:
        """Every board in few bytes, for pages that show all: columns, and a list of values for each board."""
        entries = self.boards(tenant)
        values = [[*(getattr(e, name) for name in COLUMNS[:-1]), len(e.conditions)] for e in entries]
        return {"now_s": self._wall_s(), "columns": list(COLUMNS), "boards": values}

    def board(self, key: BoardKey) -> BoardDetail:
        """One board; NotFound."""
        table, streams = tables.boards, tables.streams
        with _reading(self._engine) as db:
            row = db.execute(select(table).where(table.c.tenant == key[0], table.c.board == key[1])).mappings().first()
            if row is None:
                raise _unknown(key)
            missing = self._missing(db).get(key, 0)
            kept = db.execute(
                select(streams)
                .where(streams.c.tenant == key[0], streams.c.board == key[1])
                .order_by(streams.c.boot.desc(), streams.c.cls)
                .limit(64)
            ).mappings()
            shown = tuple({**{k: v for k, v in r.items() if k not in {"tenant", "board"}}} for r in kept)
        return BoardDetail(
            self._entry(row, missing), _plain(row["state"]) or {}, _plain(row["reported"]), _plain(row["bundle"]),
            _plain(row["latest"]), shown,
        )  # fmt: skip

    def rows(self, key: BoardKey, cls: str, limit: int) -> list[dict[str, Any]]:
        """The newest rows of a class, newest first; NotFound."""
        table = tables.rows
        with _reading(self._engine) as db:
            _must_be_known(db, key)
            found = db.execute(
                select(table)
                .where(table.c.tenant == key[0], table.c.board == key[1], table.c.cls == cls)
                .order_by(table.c.boot.desc(), table.c.seq.desc())
                .limit(min(MAX_ROWS, limit))
            ).mappings()
            shown = [
                {"boot": r["boot"], "seq": r["seq"], "at_s": r["at_s"], "row": json.loads(r["payload"])} for r in found
            ]
            unsure = [r["boot"] for r in shown if r["row"].get("tq") in ("none", "rtc")]
            known = clocks(db, key, min(unsure)) if unsure else []
        return [{**r, "when_s": when_s(r["row"], r["boot"], known)} for r in shown]

    def hours(self, key: BoardKey, limit: int) -> list[dict[str, Any]]:
        """What telemetry left of the newest hours that are no longer kept as rows, newest first; NotFound."""
        table = tables.hours
        with _reading(self._engine) as db:
            _must_be_known(db, key)
            found = db.execute(
                select(table)
                .where(table.c.tenant == key[0], table.c.board == key[1])
                .order_by(table.c.hour_s.desc())
                .limit(min(MAX_ROWS, limit))
            ).mappings()
            return [{k: v for k, v in r.items() if k not in {"tenant", "board"}} for r in found]

    def missing_rows(self) -> int:
        """Of all boards together."""
        with self._engine.connect() as db:
            return sum(self._missing(db).values())

    def _missing(self, db: Connection) -> dict[BoardKey, int]:
        """Rows that did not come although later ones did, long enough ago that they should have been sent again."""
        table = tables.streams
        lacking = table.c.top + 1 - table.c.stored - table.c.lost
        total = func.sum(lacking * 1.0)  # of integers, SQLite ends the query for all boards where one's are too large
        query = (
            select(table.c.tenant, table.c.board, total)
            .where(lacking > 0, table.c.changed_s < self._wall_s() - self._missing_s)
            .group_by(table.c.tenant, table.c.board)
        )
        return {(r[0], r[1]): int(r[2]) for r in db.execute(query)}

    def _entry(self, row: RowMapping, missing: int) -> BoardEntry:
        state, latest, bundle = _plain(row["state"]) or {}, _plain(row["latest"]) or {}, _plain(row["bundle"]) or {}
        energy_j, provenance = energy(latest)
        said = state.get("cond")
        conditions = [c for c in said if isinstance(c, dict)] if isinstance(said, list) else []
        if missing:
            conditions.append({"type": "rows_missing", "since": "", "cause": f"{missing} rows never came"})
        policy = state.get("policy")
        return BoardEntry(
            row["tenant"], row["board"], self._status(row), row["heard_s"], _word(state.get("agent")),
            _word(state.get("profile")), _word(policy.get("name")) if isinstance(policy, dict) else None,
            _labels(row["labels"]), _word(latest.get("mode")), hottest(latest), energy_j, provenance, missing,
            tuple({str(k): str(v) for k, v in c.items()} for c in conditions[:64]),
            bundle.get("in_force_ver") if isinstance(bundle.get("in_force_ver"), int) else None,
            _word(bundle.get("status")),
        )  # fmt: skip

    def _status(self, row: RowMapping) -> Status:
        if row["state_s"] == 0.0:
            return "unknown"
        if not row["online"]:
            return "offline"
        return "silent" if row["heard_s"] < self._wall_s() - self._silent_s else "online"


class _reading:  # noqa: N801  (used as a function)
    """A connection for one read; StorageError where the database does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Connection:
        try:
            self._db = self._engine.connect()
        except SQLAlchemyError as error:
            raise StorageError(str(getattr(error, "orig", None) or error).splitlines()[0]) from error
        return self._db

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._db.close()
        if isinstance(error, SQLAlchemyError):
            raise StorageError(str(getattr(error, "orig", None) or error).splitlines()[0]) from error


def _plain(text: str | None) -> dict[str, Any] | None:
    found = None if text is None else json.loads(text)
    return found if isinstance(found, dict) else None


def _word(value: object) -> str | None:
    return value[:128] if isinstance(value, str) else None


def _must_be_known(db: Connection, key: BoardKey) -> None:
    table = tables.boards
    if db.execute(select(table.c.board).where(table.c.tenant == key[0], table.c.board == key[1])).first() is None:
        raise _unknown(key)


def _unknown(key: BoardKey) -> NotFound:
    return NotFound(f"there is no board {key[0]}/{key[1]}")


def _labels(text: str) -> dict[str, str]:
    return {str(k): str(v) for k, v in (_plain(text) or {}).items()}


def _parts(latest: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = latest.get(key)
    return [v for v in found.values() if isinstance(v, dict)] if isinstance(found, dict) else []


def hottest(latest: dict[str, Any]) -> float | None:
    """°C of the hottest accelerator of a telemetry row."""
    found = [a.get("temperature_c") for a in _parts(latest, "accelerators")]
    values = [real(t.get("last")) for t in found if isinstance(t, dict)]
    return max((v for v in values if v is not None), default=None)


def energy(latest: dict[str, Any]) -> tuple[float | None, str]:
    """Joules per inference over all models of a window; None where any that served gives none."""
    total_j, answers, weakest = 0.0, 0.0, "measured"
    for model in _parts(latest, "models"):
        requests, failed = real(model.get("requests")) or 0.0, real(model.get("failed")) or 0.0
        energy_j, provenance = real(model.get("energy_j")), model.get("provenance")
        if requests - failed <= 0:
            continue
        if energy_j is None or provenance not in ("measured", "modelled"):
            return None, "unknown"
        total_j, answers = total_j + energy_j, answers + requests - failed
        weakest = "modelled" if provenance == "modelled" else weakest
    each_j = real(total_j / answers) if answers else None
    return (None, "unknown") if each_j is None else (each_j, weakest)
