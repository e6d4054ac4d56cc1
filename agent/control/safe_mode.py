"""Safe mode: whether a start should trust only what worked before, because the last ones ended soon after they began.

A start counts as quick until it has run for `STABLE_S` or ended in order. Three quick ends in a row mean that something
the agent does at its start ends it: then it begins with the last good policy and the host's own processor alone, so
that it can be reached and mended.
"""

from __future__ import annotations

from agent.records import record

QUICK_ENDS = 3
STABLE_S = 120.0


@record(frozen=True)
class Begun:
    """What a start is to be. `quick_ends`: starts before this one, in a row, of which nobody saw an end in order."""

    safe: bool
    quick_ends: int


def begin(quick_ends: int) -> Begun:
    """Judge a start; negative counts, which only a damaged file has, are none."""
    known = max(0, quick_ends)
    return Begun(known >= QUICK_ENDS, known)


def stable(running_s: float) -> bool:
    """Whether the present start has run long enough to be trusted."""
    return running_s >= STABLE_S
