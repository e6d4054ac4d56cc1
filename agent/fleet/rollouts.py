"""Rollouts: carries signed offers to boards ring by ring.

State is in the database alone; a lease keeps controllers from stepping on each other, and whoever gets it next goes on
where the last one stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, func, or_, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from agent.errors import BadInput, NotFound, StorageError
from agent.fleet import ring_rule, tables
from agent.fleet.inventory import Inventory
from agent.fleet.outgoing import Outgoing, Send, write_audit
from agent.fleet.ring_rule import FAILED, Progress
from agent.fleet.withdrawals import Withdrawals
from agent.mqtt import envelope
from agent.mqtt.topics import Topics
from agent.schema.bundle import Offer
from agent.schema.fleet import Plan, RolloutRequest

LEASE_S = 30.0
AGAIN_S = 60.0
"""An offer without any report is sent again after this long; boards know it by its digest."""
ALONE = 0x7165696C
"""PostgreSQL's advisory lock while a rollout begins."""
OPEN = ("approval", "running", "paused")
_ENDS = frozenset({"kept", "reverted", "refused"})


class Rollouts:
    """`round` belongs to one thread; the rest may be called from any. Methods raise QeilError."""

    def __init__(
        self, engine: Engine, inventory: Inventory, outgoing: Outgoing, holder: str, wall_s: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._inventory = inventory
        self._outgoing = outgoing
        self._holder = holder
        self._wall_s = wall_s
        self._sent_s: dict[tuple[str, str], float] = {}
        self._withdrawals = Withdrawals(engine, wall_s)

    # ------------------------------------------------------------------ what people ask for

    def begin(self, request: RolloutRequest, who: str) -> dict[str, Any]:
        """Begin it, or wait for approvals. BadInput where it contradicts another or reaches no board."""
        offer = self._outgoing.checked(request.offer)
        if not isinstance(offer, Offer):
            raise BadInput("a rollout takes a signed bundle")
        boards = [e for e in self._inventory.boards(offer.tenant, request.plan.select) if _meant(offer, e)]
        if not boards:
            raise BadInput("no board is meant: neither the offer nor the selection leaves one")
        key, now_s = f"{offer.tenant}-{offer.name}-{offer.ver}", self._wall_s()
        table = tables.rollouts
        with self._engine.begin() as db:
            _alone(db)
            self._contradictions(db, offer, {e.board for e in boards})
            status = "running" if request.plan.approvals == 1 else "approval"
            values = {
                "id": key, "tenant": offer.tenant, "name": offer.name, "ver": offer.ver, "status": status, "ring": 0,
                "envelope": envelope.sealed(request.offer.doc, request.offer.sig).decode(),
                "plan": request.plan.model_dump_json(), "ring_s": now_s, "by_whom": who,
                "approvals": json.dumps([who]), "created_s": now_s,
            }  # fmt: skip
            try:
                db.execute(table.insert().values(values))
            except IntegrityError as error:
                raise BadInput(f"there is a rollout {key} already") from error
            db.execute(
                tables.rollout_boards.insert(),
                [
                    {"rollout": key, "board": e.board, "cohort": ring_rule.cohort(key, e.board), "status": "pending"}
                    for e in boards
                ],
            )
            write_audit(db, now_s, who, "rollout", key, {"boards": len(boards), "plan": request.plan.model_dump()})
        return self.find(key)

    def _contradictions(self, db: Connection, offer: Offer, boards: set[str]) -> None:
        table, inside = tables.rollouts, tables.rollout_boards
        newest = db.execute(select(func.max(table.c.ver)).where(table.c.tenant == offer.tenant)).scalar()
        if newest is not None and offer.ver <= newest:
            raise BadInput(f"version {offer.ver} is not above {newest}; boards would refuse it")
        query = (
            select(inside.c.board, table.c.id)
            .join(table, table.c.id == inside.c.rollout)
            .where(table.c.tenant == offer.tenant, table.c.status.in_(OPEN))
        )
        for board, other in db.execute(query):
            if board in boards:
                raise BadInput(f"rollout {other} is not over and has {board} too; abort it first")

    def steer(self, key: str, action: str, who: str) -> dict[str, Any]:
        """Pause, resume, abort or approve. BadInput where that cannot be done now."""
        allowed = {
            "pause": ("running", "paused"), "resume": ("paused", "running"), "approve": ("approval", "approval"),
        }  # fmt: skip
        now_s, table = self._wall_s(), tables.rollouts
        with self._engine.begin() as db:
            row = db.execute(select(table).where(table.c.id == key).with_for_update()).mappings().first()
            if row is None:
                raise NotFound(f"there is no rollout {key}")
            if row["status"] not in (OPEN if action == "abort" else allowed[action][:1]):
                raise BadInput(f"rollout {key} is {row['status']}")
            values: dict[str, Any] = {"status": "aborted" if action == "abort" else allowed[action][1]}
            if action == "approve":
                values = self._approved(row, who)
            if action == "abort":
                values["reason"] = f"aborted by {who}"
            db.execute(table.update().where(table.c.id == key).values(values))
            write_audit(db, now_s, who, f"rollout {action}", key, {})
        return self.find(key)

    def _approved(self, row: Any, who: str) -> dict[str, Any]:
        people = json.loads(row["approvals"])
        if who in people:
            raise BadInput(f"{who} has approved it already; it takes another person")
        people.append(who)
        enough = len(people) >= Plan.model_validate_json(row["plan"]).approvals
        return {"approvals": json.dumps(people), "status": "running" if enough else "approval"}

    def all(self) -> list[dict[str, Any]]:
        """Newest first."""
        table = tables.rollouts
        with self._engine.connect() as db:
            keys = [r[0] for r in db.execute(select(table.c.id).order_by(table.c.created_s.desc()).limit(200))]
        return [self.find(key) for key in keys]

    def find(self, key: str) -> dict[str, Any]:
        """One, with its boards by status; NotFound."""
        table, inside = tables.rollouts, tables.rollout_boards
        with self._engine.connect() as db:
            row = db.execute(select(table).where(table.c.id == key)).mappings().first()
            if row is None:
                raise NotFound(f"there is no rollout {key}")
            counts = db.execute(
                select(inside.c.status, func.count()).where(inside.c.rollout == key).group_by(inside.c.status)
            ).all()
        shown = {
            k: row[k]
            for k in ("id", "tenant", "name", "ver", "status", "ring", "reason", "by_whom", "created_s")
        }  # fmt: skip
        return {
            **shown, "plan": json.loads(row["plan"]), "approvals": json.loads(row["approvals"]),
            "boards": {c[0]: int(c[1]) for c in counts}, "offer": json.loads(row["envelope"]),
        }  # fmt: skip

    def boards_of_open(self) -> list[tuple[str, str, int]]:
        """(rollout, state of its boards, how many), of rollouts that are not over."""
        table, inside = tables.rollouts, tables.rollout_boards
        query = (
            select(inside.c.rollout, inside.c.status, func.count())
            .join(table, table.c.id == inside.c.rollout)
            .where(table.c.status.in_(OPEN))
            .group_by(inside.c.rollout, inside.c.status)
        )
        with self._engine.connect() as db:
            return [(str(r[0]), str(r[1]), int(r[2])) for r in db.execute(query)]

    # ------------------------------------------------------------------ the controller's thread

    def round(self, send: Send) -> None:
        """One step of every open rollout that this controller holds, and of aborted ones that are not settled."""
        try:
            for key in self._due():
                row = self._held(key)
                if row is not None:
                    self._step(row, send)
        except SQLAlchemyError as error:
            raise StorageError(str(getattr(error, "orig", None) or error).splitlines()[0]) from error

    def _due(self) -> list[str]:
        """What runs, and what was aborted and waits for boards."""
        table = tables.rollouts
        with self._engine.connect() as db:
            running = [r[0] for r in db.execute(select(table.c.id).where(table.c.status == "running"))]
        return running + self._withdrawals.due()

    def _held(self, key: str) -> Any | None:
        """The rollout, if this controller has or gets the lease on it."""
        table, now_s = tables.rollouts, self._wall_s()
        free = or_(table.c.holder.is_(None), table.c.holder == self._holder, table.c.lease_s < now_s)
        with self._engine.begin() as db:
            done = db.execute(
                table.update().where(table.c.id == key, free).values(holder=self._holder, lease_s=now_s + LEASE_S)
            )
            if done.rowcount != 1:
                return None
            return db.execute(select(table).where(table.c.id == key)).mappings().one()

    def _step(self, row: Any, send: Send) -> None:
        plan, now_s = Plan.model_validate_json(row["plan"]), self._wall_s()
        with self._engine.begin() as db:
            self._outcomes(db, row, plan, now_s)
        if row["status"] == "aborted":
            self._withdrawals.step(row, send)
            return
        with self._engine.begin() as db:
            progress = self._progress(db, row, plan, now_s)
        step = ring_rule.step(plan, progress, now_s)
        if step.what == "abort":
            if self._change(row["id"], status="aborted", reason=step.reason):
                self._withdrawals.step(row, send)
        elif step.what == "offer":
            self._offer(row, plan, step.offers, send)
        elif step.what == "settled":
            self._change(row["id"], settled_s=now_s)
        elif step.what == "next_ring":
            self._change(row["id"], ring=row["ring"] + 1, ring_s=now_s, settled_s=None)
        elif step.what == "done":
            self._change(row["id"], status="done")
        if ring_rule.may_offer(plan, now_s):
            self._offer_again(row, send, now_s)

    def _change(self, key: str, **values: Any) -> bool:
        """False where somebody paused or aborted it meanwhile: then nothing changes."""
        table = tables.rollouts
        running = (table.c.id == key) & (table.c.status == "running")
        with self._engine.begin() as db:
            changed = db.execute(table.update().where(running).values(values)).rowcount == 1
            if changed and ("status" in values or "ring" in values):
                write_audit(db, self._wall_s(), self._holder, "rollout step", key, values)
        return changed

    def _outcomes(self, db: Connection, row: Any, plan: Plan, now_s: float) -> None:
        """What boards have reported of this version, and who has said nothing for too long."""
        inside, boards = tables.rollout_boards, tables.boards
        query = (
            select(inside.c.board, inside.c.offered_s, inside.c.status, boards.c.bundle)
            .join(boards, (boards.c.board == inside.c.board) & (boards.c.tenant == row["tenant"]))
            .where(inside.c.rollout == row["id"], inside.c.status.in_(("offered", "silent", "withdrawing")))
        )
        for board, offered_s, status, text in db.execute(query).all():
            report = json.loads(text) if text else {}
            if report.get("ver") == row["ver"] and str(report.get("status")) in _ENDS:
                values = {"status": report["status"], "settled_s": now_s, "worse": _worse(report)}
                values["code"] = _code(report)
            elif status == "offered" and offered_s < now_s - plan.silent_s:
                values = {"status": "silent", "settled_s": now_s}
            else:
                continue
            here = (inside.c.rollout == row["id"]) & (inside.c.board == board)
            db.execute(inside.update().where(here).values(values))

    def _progress(self, db: Connection, row: Any, plan: Plan, now_s: float) -> Progress:
        inside = tables.rollout_boards
        mine = (inside.c.rollout == row["id"]) & (inside.c.cohort < ring_rule.reach(plan, row["ring"]))
        counts = {
            s: int(n)
            for s, n in db.execute(select(inside.c.status, func.count()).where(mine).group_by(inside.c.status))
        }
        worse = db.execute(select(inside.c.worse).where(mine, inside.c.worse.is_not(None)).order_by(inside.c.settled_s))
        recent = db.execute(
            select(func.count()).where(inside.c.rollout == row["id"], inside.c.offered_s > now_s - 60.0)
        ).scalar_one()
        return Progress(
            row["ring"], counts.get("pending", 0), counts.get("offered", 0), counts.get("kept", 0),
            sum(counts.get(s, 0) for s in FAILED), row["settled_s"], tuple(float(r[0]) for r in worse), int(recent),
        )  # fmt: skip

    def _offer(self, row: Any, plan: Plan, count: int, send: Send) -> None:
        inside = tables.rollout_boards
        mine = (inside.c.rollout == row["id"]) & (inside.c.cohort < ring_rule.reach(plan, row["ring"]))
        with self._engine.connect() as db:
            waiting = select(inside.c.board).where(mine, inside.c.status == "pending").order_by(inside.c.cohort)
            found = [r[0] for r in db.execute(waiting.limit(count))]
        for board in found:
            here = (inside.c.rollout == row["id"]) & (inside.c.board == board) & (inside.c.status == "pending")
            with self._engine.begin() as db:
                claimed = db.execute(inside.update().where(here).values(status="offered", offered_s=self._wall_s()))
            if claimed.rowcount == 1:
                self._deliver(row, board, send)

    def _deliver(self, row: Any, board: str, send: Send) -> None:
        """One that the link does not take is delivered again."""
        taken = send(Topics(row["tenant"], board).bundle, row["envelope"].encode(), True, None)
        self._sent_s[row["id"], board] = self._wall_s() if taken else float("-inf")

    def _offer_again(self, row: Any, send: Send, now_s: float) -> None:
        """To boards that were offered it and have not reported it: the offer may never have left a controller."""
        inside, boards = tables.rollout_boards, tables.boards
        query = (
            select(inside.c.board, inside.c.offered_s, boards.c.bundle)
            .join(boards, (boards.c.board == inside.c.board) & (boards.c.tenant == row["tenant"]))
            .where(inside.c.rollout == row["id"], inside.c.status == "offered")
        )
        with self._engine.connect() as db:
            found = db.execute(query).all()
        for board, offered_s, text in found:
            heard = bool(text) and json.loads(text).get("ver") == row["ver"]
            if not heard and self._sent_s.get((row["id"], board), offered_s) < now_s - AGAIN_S:
                self._deliver(row, board, send)


def _alone(db: Connection) -> None:
    """Until the transaction ends, no other begins a rollout: of two at once each would find nothing to contradict."""
    if db.dialect.name == "postgresql":
        db.execute(select(func.pg_advisory_xact_lock(ALONE)))
    else:  # one writer at a time
        db.execute(tables.rollouts.update().where(tables.rollouts.c.id == "").values(ring=0))


def _meant(offer: Offer, entry: Any) -> bool:
    named = offer.boards is None or entry.board in offer.boards
    return named and (offer.profiles is None or entry.profile in offer.profiles)


def _code(report: dict[str, Any]) -> str:
    """Why it ended so, in what every database can hold: a NUL from one board would stop the rollouts of all."""
    said = report.get("code")
    return said.encode("ascii", "replace").decode().replace("\0", "?")[:64] if isinstance(said, str) else ""


def _worse(report: dict[str, Any]) -> float | None:
    """Mean log ratio of joules per inference over the models of a board; None where it had nothing to compare."""
    figures = report.get("figures")
    energy = figures.get("energy") if isinstance(figures, dict) else None
    values = list(energy.values()) if isinstance(energy, dict) else []
    if not values or not all(type(v) in {int, float} and -1 < v < 1e3 for v in values):
        return None
    return sum(math.log1p(v) for v in values) / len(values)
