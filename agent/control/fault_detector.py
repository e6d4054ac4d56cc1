"""Fault detector: decides from a lane's vital signs whether it hangs. Crashes are seen by their end of file."""

from __future__ import annotations

from agent.records import record
from agent.schema.policy import Recovery

HEARTBEAT_LOST_S = 3.0
"""A lane writes its heartbeat five times a second; fifteen missed ones mean a stopped process, not a busy core."""


@record(frozen=True)
class LaneSigns:
    """What is known of one running lane."""

    heartbeat_age_s: float | None
    """None before the first heartbeat."""
    busy_for_s: float | None
    """Time the call in progress has taken; None while idle."""
    predicted_s: float | None
    """Predicted (or measured p99) time of that call; None while unknown."""
    loading: bool
    """Loading and compiling may legitimately take minutes and has a deadline of its own."""
    starved_s: float | None = 0.0
    """Part of `busy_for_s` in which it was ready to run and got no core; None where nobody knows."""
    stopped: bool = False
    """The kernel holds the process."""
    allowed_s: float = 0.0
    """Time given to a call of a size that nobody has timed; 0 where there is none on the lane."""


UNKNOWN_STARVATION_S = 1.0
"""Where nobody knows whether a lane waits for a core, no call is called hung earlier than this."""
UNPREDICTED_S = 5.0
"""A call of which nothing is known yet is given this long."""
UNTIMED = "hung in a request larger than any timed there"
"""How the cause begins where the request is to blame and not the lane."""


def hang_deadline_s(predicted_s: float | None, limits: Recovery, starvation_known: bool = True) -> float:
    """Time after which a call counts as hung: max(floor, factor × predicted p99)."""
    floor_s = limits.hang_floor_s if starvation_known else max(limits.hang_floor_s, UNKNOWN_STARVATION_S)
    return max(floor_s, UNPREDICTED_S if predicted_s is None else limits.hang_factor * predicted_s)


def judge(signs: LaneSigns, limits: Recovery) -> str | None:
    """The fault's cause in words, or None while the lane is well."""
    if signs.stopped:
        return "its process is stopped"
    if signs.loading:
        return None
    if signs.busy_for_s is not None:
        deadline_s = hang_deadline_s(signs.predicted_s, limits, signs.starved_s is not None)
        if signs.busy_for_s - (signs.starved_s or 0.0) > max(deadline_s, signs.allowed_s):
            if signs.allowed_s > deadline_s:
                return f"{UNTIMED}: one call takes {signs.busy_for_s:.1f} s (deadline {signs.allowed_s:.1f} s)"
            return f"hung: one call takes {signs.busy_for_s:.1f} s (deadline {deadline_s:.1f} s)"
    if signs.heartbeat_age_s is not None and signs.heartbeat_age_s > HEARTBEAT_LOST_S:
        return f"no heartbeat for {signs.heartbeat_age_s:.1f} s"
    return None
