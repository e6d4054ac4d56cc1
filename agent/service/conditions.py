"""Conditions: the lasting problems shown in status, each with since, cause, consequence and mend."""

from __future__ import annotations

from datetime import datetime, timezone

from agent.schema.snapshot import Condition

MAX_CONDITIONS = 64
SHOWN_S = 600.0
"""A condition that follows from single events is shown this long after the last one."""


def iso(wall_s: float) -> str:
    """UTC time stamp to the second."""
    return datetime.fromtimestamp(wall_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class ConditionBook:
    """Keeps `since` while a condition stays, whatever happens to its wording. Owned by one thread."""

    def __init__(self) -> None:
        self._conditions: dict[str, Condition] = {}
        self._sorted: tuple[Condition, ...] | None = ()

    def set(self, kind: str, cause: str, consequence: str, mend: str, wall_s: float) -> bool:
        """State that the condition holds; True if that changes anything that is shown."""
        old = self._conditions.get(kind)
        if old is None and len(self._conditions) >= MAX_CONDITIONS:
            return False
        if old is not None and (old.cause, old.consequence, old.mend) == (cause, consequence, mend):
            return False
        self._conditions[kind] = Condition(kind, old.since if old else iso(wall_s), cause, consequence, mend)
        self._sorted = None
        return True

    def clear(self, kind: str) -> bool:
        """State that it no longer holds; True if it did."""
        if self._conditions.pop(kind, None) is None:
            return False
        self._sorted = None
        return True

    def all(self) -> tuple[Condition, ...]:
        """In the order in which they began; the same tuple as long as nothing changes."""
        if self._sorted is None:
            self._sorted = tuple(sorted(self._conditions.values(), key=lambda c: (c.since, c.type)))
        return self._sorted
