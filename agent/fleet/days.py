"""Days: which partition a row belongs to, and when a day may be summed up. Pure.

A row that comes again must meet itself, so its day is what the row itself tells and not when it came. Events, rows
without a time and rows far from now have no day; they are few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

DAY_S, HOUR_S = 86_400, 3600
CLOCK_SET_S = 1_577_836_800.0
"""2020: a board's clock below it was never set."""
UNDATED = 0
AHEAD_DAYS = 3
"""Partitions are there that long before they are needed."""
GRACE_S = HOUR_S
"""Between the last moment at which a day takes rows and the first at which it is summed up: clocks differ."""


def kept_days(rows_days: float) -> int:
    """Whole days before today from which rows are still taken into their own day."""
    return max(1, math.ceil(rows_days))


def day_of(cls: str, row: Mapping[str, object], now_s: float, rows_days: float) -> int:
    """Days since 1970 of a telemetry row, UNDATED for anything else. `now_s`: seconds since 1970, when it came."""
    stamp = row.get("ts")
    if cls != "tlm" or row.get("tq") == "none" or not isinstance(stamp, int | float) or isinstance(stamp, bool):
        return UNDATED
    if stamp < CLOCK_SET_S or stamp > now_s + DAY_S:
        return UNDATED
    day, today = int(stamp // DAY_S), int(now_s // DAY_S)
    return day if today - kept_days(rows_days) <= day else UNDATED


def is_over(day: int, now_s: float, rows_days: float) -> bool:
    """Whether nobody stores into this day any more."""
    return now_s >= (day + kept_days(rows_days) + 1) * DAY_S + GRACE_S
