"""Dating: when a row happened, also where its board did not know the time yet, or knew a wrong one, when it was made.

Boards tell by a `clock_set` event how much their clocks differ once they know more of the time. It dates what the same
start of the agent stamped before, and what earlier starts did while the machine ran on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from agent.fleet import tables
from agent.fleet.messages import BoardKey

MAX_REAL = 1e100
"""Beyond it a board makes things up; below it, sums over all that a row can hold stay finite."""
MAX_EVENTS = 1000


class ClockSet(NamedTuple):
    """One such event: the start of agent and machine that it is of, when by the monotonic clock, and the difference."""

    boot: int
    machine: str | None
    mono_s: float
    offset_s: float
    kept: bool
    """Whether a time service keeps the clock."""


def clocks(db: Connection, key: BoardKey, boot: int) -> list[ClockSet]:
    """Those of a board from this start of its agent on, in their order."""
    table = tables.rows
    query = (
        select(table.c.boot, table.c.payload)
        .where(table.c.tenant == key[0], table.c.board == key[1], table.c.boot >= boot, table.c.cls == "evt")
        .where(table.c.payload.contains('"event":"clock_set"'))
        .order_by(table.c.boot, table.c.seq)
        .limit(MAX_EVENTS)
    )
    found = [(int(r[0]), json.loads(r[1])) for r in db.execute(query)]
    return [made for number, row in found if (made := _clock_set(number, row)) is not None]


def _clock_set(boot: int, row: dict[str, Any]) -> ClockSet | None:
    mono_s, offset_s, machine = real(row.get("mono")), real(row.get("offset_s")), row.get("machine")
    if row.get("event") != "clock_set" or mono_s is None or offset_s is None:
        return None
    return ClockSet(boot, machine if isinstance(machine, str) else None, mono_s, offset_s, row.get("tq") == "ntp")


def when_s(row: dict[str, Any], boot: int, known: Sequence[ClockSet]) -> float | None:
    """Seconds since 1970; None where nobody knows. `known`: in their order.

    A time service's word counts for more than one that was set before it came. A clock that was merely set is corrected
    by a time service alone: one that sleeps or is set by hand steps too.
    """
    quality, mono_s, machine = row.get("tq"), real(row.get("mono")), row.get("machine")
    if quality in ("none", "rtc") and mono_s is not None:
        same = [t for t in known if t.boot == boot or (t.machine is not None and t.machine == machine)]
        later = [t for t in same if t.mono_s >= mono_s]
        trusted = [t for t in later if t.kept] or (later if quality == "none" else [])
        if trusted:
            return mono_s + trusted[0].offset_s
    return None if quality == "none" else real(row.get("ts"))


def real(value: object) -> float | None:
    """As a float; None for what is no number or beyond what anything here can mean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -MAX_REAL <= value <= MAX_REAL else None
