"""Withdrawals: takes the offers of aborted rollouts back from boards that have not begun, until there is none left.

What a link had in hand when it broke never left it, and a board that comes back much later would find the offer: so
each is taken back twice, with time between. Boards that have begun end by themselves, and how is recorded; some never
come back, so an aborted rollout is looked at ever more rarely, and no more once every board is settled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, select

from agent.fleet import tables
from agent.fleet.outgoing import Send
from agent.mqtt.topics import Topics

AGAIN_S, MAX_PAUSE_S = 60.0, 3600.0
"""Between the two messages to a board, and at first between two looks at a rollout; at most between two looks."""
UNSETTLED = ("pending", "offered", "silent", "withdrawing")
"""Of the boards of an aborted rollout: with others there is nothing left to do."""


class Withdrawals:
    """Used by one thread. Methods raise what the database raises."""

    def __init__(self, engine: Engine, wall_s: Callable[[], float]) -> None:
        self._engine = engine
        self._wall_s = wall_s
        self._looks: dict[str, tuple[float, float]] = {}
        """By rollout: when to look at it next, and the pause after that."""

    def due(self) -> list[str]:
        """Aborted rollouts to look at now."""
        table, inside, now_s = tables.rollouts, tables.rollout_boards, self._wall_s()
        waits = select(inside.c.board).where(inside.c.rollout == table.c.id, inside.c.status.in_(UNSETTLED)).exists()
        with self._engine.connect() as db:
            found = [str(r[0]) for r in db.execute(select(table.c.id).where(table.c.status == "aborted", waits))]
        self._looks = {key: look for key, look in self._looks.items() if key in found}
        return [key for key in found if key not in self._looks or not 0 < self._looks[key][0] - now_s <= MAX_PAUSE_S]

    def step(self, row: Any, send: Send) -> None:
        """Send what is to be sent now; where the link does not take everything, the next round goes on."""
        now_s = self._wall_s()
        if all(self._one(row, board, now_s, send) for board in self._unsettled(row)):
            _, pause_s = self._looks.get(row["id"], (0.0, AGAIN_S))
            self._looks[row["id"]] = (now_s + pause_s, min(MAX_PAUSE_S, 2 * pause_s))

    def _unsettled(self, row: Any) -> list[Any]:
        """Boards and where they are."""
        inside, boards = tables.rollout_boards, tables.boards
        query = (
            select(inside.c.board, inside.c.status, inside.c.settled_s, boards.c.bundle)
            .join(boards, (boards.c.board == inside.c.board) & (boards.c.tenant == row["tenant"]))
            .where(inside.c.rollout == row["id"], inside.c.status.in_(UNSETTLED))
        )
        with self._engine.connect() as db:
            return list(db.execute(query).all())

    def _one(self, row: Any, found: Any, now_s: float, send: Send) -> bool:
        """False where the link did not take it."""
        report = json.loads(found.bundle) if found.bundle else {}
        if report.get("ver") == row["ver"] and report.get("phase") != "waiting":
            return True
        again = found.status == "withdrawing"
        if again and 0 <= now_s - found.settled_s < AGAIN_S:
            return True
        nothing_there = found.status == "pending" or self._offered_since(row, found.board)
        if not nothing_there and not send(Topics(row["tenant"], found.board).bundle, b"", True, None):
            return False
        inside = tables.rollout_boards
        here = (inside.c.rollout == row["id"]) & (inside.c.board == found.board) & (inside.c.status == found.status)
        after = "withdrawn" if nothing_there or again else "withdrawing"
        with self._engine.begin() as db:
            db.execute(inside.update().where(here).values(status=after, settled_s=now_s))
        return True

    def _offered_since(self, row: Any, board: str) -> bool:
        """Whether a newer rollout was offered to it: what is retained for it is that one.

        Asked right before each message, as another controller may offer while a round over thousands goes on.
        """
        table, inside = tables.rollouts, tables.rollout_boards
        newer = (table.c.tenant == row["tenant"]) & (table.c.ver > row["ver"]) & (inside.c.board == board)
        query = select(inside.c.board).join(table, table.c.id == inside.c.rollout)
        with self._engine.connect() as db:
            return db.execute(query.where(newer, inside.c.offered_s.is_not(None)).limit(1)).first() is not None
