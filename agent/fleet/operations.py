"""Operations: what the API does, in terms of inventory, outgoing messages and rollouts; no HTTP in here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Engine, func, select

from agent.api import prometheus
from agent.errors import BadInput, NotFound
from agent.fleet import metrics, tables
from agent.fleet.inventory import Inventory
from agent.fleet.messages import BoardKey
from agent.fleet.outgoing import Outgoing, write_audit
from agent.fleet.rollouts import Rollouts
from agent.fleet.writers import Writers
from agent.ports import LinkStatus
from agent.schema.fleet import Labels, RolloutRequest, Signed
from agent.schema.metric import Metric

OVERVIEW_S = 2.0


class Operations:
    """Thread-safe; methods raise QeilError."""

    def __init__(
        self,
        engine: Engine,
        inventory: Inventory,
        outgoing: Outgoing,
        rollouts: Rollouts,
        consumer: Writers,
        link: Callable[[], LinkStatus],
        wall_s: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._inventory = inventory
        self._outgoing = outgoing
        self._rollouts = rollouts
        self._consumer = consumer
        self._link = link
        self._wall_s = wall_s
        self._overview_lock = threading.Lock()
        self._overviews: dict[str | None, tuple[float, dict[str, Any]]] = {}

    def health(self) -> dict[str, Any]:
        """Whether everything works; no secret in it."""
        status = self._link()
        well = status.connected and self._consumer.alive() and self._consumer.failing is None
        return {
            "ok": well, "broker": status.connected, "consumer": self._consumer.alive(),
            "database": self._consumer.failing is None,
        }  # fmt: skip

    def boards(self, tenant: str | None, select_text: str) -> list[dict[str, Any]]:
        """Entries."""
        return [entry.as_json() for entry in self._inventory.boards(tenant, select_text)]

    def overview(self, tenant: str | None) -> dict[str, Any]:
        """All boards in few bytes; for `OVERVIEW_S` the same, however many ask."""
        with self._overview_lock:
            now_s = self._wall_s()
            made_s, found = self._overviews.get(tenant, (-OVERVIEW_S, {}))
            if not 0 <= now_s - made_s < OVERVIEW_S:
                found = self._inventory.overview(tenant)
                self._overviews = {tenant: (now_s, found)}
            return found

    def board(self, key: BoardKey) -> dict[str, Any]:
        """Detail."""
        return self._inventory.board(key).as_json()

    def rows(self, key: BoardKey, cls: str, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        if cls not in {"tlm", "evt", "gap"}:
            raise NotFound("rows are tlm, evt or gap")
        return self._inventory.rows(key, cls, limit)

    def hours(self, key: BoardKey, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        return self._inventory.hours(key, limit)

    def label(self, key: BoardKey, labels: Labels, who: str) -> dict[str, Any]:
        """Replace the labels of a board."""
        table = tables.boards
        with self._engine.begin() as db:
            done = db.execute(
                table.update()
                .where(table.c.tenant == key[0], table.c.board == key[1])
                .values(labels=json.dumps(labels.labels))
            )
            if done.rowcount != 1:
                raise NotFound(f"there is no board {key[0]}/{key[1]}")
            write_audit(db, self._wall_s(), who, "labels", "/".join(key), dict(labels.labels))
        return {"labels": labels.labels}

    def send(self, signed: Signed, who: str) -> str:
        """Take a message on."""
        return self._outgoing.add(signed, who)

    def message(self, key: str) -> dict[str, Any]:
        """Where it stands."""
        return self._outgoing.find(key)

    def roll_out(self, request: RolloutRequest, who: str) -> dict[str, Any]:
        """Begin a rollout."""
        return self._rollouts.begin(request, who)

    def rollouts(self) -> list[dict[str, Any]]:
        """All, newest first."""
        return self._rollouts.all()

    def rollout(self, key: str) -> dict[str, Any]:
        """One."""
        return self._rollouts.find(key)

    def steer(self, key: str, action: str, who: str) -> dict[str, Any]:
        """Pause, resume, abort, approve."""
        if action not in {"pause", "resume", "abort", "approve"}:
            raise BadInput("a rollout can be paused, resumed, aborted and approved")
        return self._rollouts.steer(key, action, who)

    def audit(self, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        table = tables.audit
        with self._engine.connect() as db:
            found = db.execute(select(table).order_by(table.c.n.desc()).limit(limit)).mappings()
            return [{**{k: r[k] for k in ("at_s", "who", "action", "target")}, "detail": json.loads(r["detail"])}
                    for r in found]  # fmt: skip

    def metrics(self, requests: Mapping[tuple[str, int], int]) -> bytes:
        """Prometheus text."""
        families = metrics.counted(self._consumer.counters)
        with self._engine.connect() as db:
            table = tables.boards
            states = db.execute(select(table.c.online, func.count()).group_by(table.c.online)).all()
        samples = tuple(({"online": str(bool(s[0])).lower()}, float(s[1])) for s in states)
        families.append(Metric("qeil_fleet_boards", "gauge", "Boards by what birth and will said last", samples))
        families.append(
            Metric(
                "qeil_fleet_missing_rows", "gauge",
                "Rows that neither came nor were told to be lost, for longer than missing_s",
                (({}, float(self._inventory.missing_rows())),),
            )
        )  # fmt: skip
        going = tuple(
            ({"rollout": key, "status": status}, float(n)) for key, status, n in self._rollouts.boards_of_open()
        )
        families.append(Metric("qeil_fleet_rollout_boards", "gauge", "Boards of open rollouts by state", going))
        refusals = tuple(
            ({"board": board, "code": code}, float(n)) for (board, code), n in sorted(self._consumer.refused.items())
        )
        families.append(
            Metric("qeil_fleet_refused_messages_total", "counter", "Messages refused, by board and reason", refusals)
        )
        served = tuple(({"path": path, "status": str(s)}, float(n)) for (path, s), n in sorted(requests.items()))
        families.append(Metric("qeil_fleet_requests_total", "counter", "API requests", served))
        there = float(self._link().connected)
        families.append(Metric("qeil_fleet_broker_connected", "gauge", "1 while the broker is there", (({}, there),)))
        return prometheus.render(families)
