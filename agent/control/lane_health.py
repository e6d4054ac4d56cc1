"""Lane health: when a dead lane is started again, when it is quarantined, and how it returns to service.

One state machine per lane. Restarts back off exponentially; deaths in quick succession open a circuit breaker;
after a pause one probe start is allowed; a returning lane begins at a share of its capacity and ramps up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from agent.records import record
from agent.schema.policy import Recovery

Phase = Literal["starting", "ready", "waiting", "open", "probing", "stopped"]


@record(frozen=True)
class LaneHealth:
    """Memory of one lane."""

    phase: Phase = "starting"
    since_s: float = 0.0
    next_start_s: float = 0.0
    deaths_s: tuple[float, ...] = ()
    """Times of the deaths inside the breaker's window."""
    consecutive: int = 0
    """Deaths since the lane was last at full capacity."""
    restarts: int = 0
    last_fault: str | None = None
    ramping: bool = False
    """False only for a lane that has not died yet: it starts at full capacity."""


@record(frozen=True)
class Ready:
    """The lane started, loaded its models and passed its canary."""


@record(frozen=True)
class Died:
    """The process ended, or starting it or its canary failed."""

    cause: str
    blameless: bool = False
    """A request is to blame: the lane begins anew and is not counted out for it."""


@record(frozen=True)
class Tick:
    """Time passes."""


LaneEvent = Ready | Died | Tick
Action = Literal["start"]


def step(state: LaneHealth, event: LaneEvent, limits: Recovery, now_s: float) -> tuple[LaneHealth, tuple[Action, ...]]:
    """Next state and what to do. Times are monotonic seconds."""
    if isinstance(event, Ready):
        if state.phase in {"starting", "probing"}:
            return replace(state, phase="ready", since_s=now_s), ()
        return state, ()
    if isinstance(event, Died):
        return _died(state, event, limits, now_s), ()
    if state.phase == "waiting" and now_s >= state.next_start_s:
        return replace(state, phase="starting", since_s=now_s, restarts=state.restarts + 1), ("start",)
    if state.phase == "open" and now_s >= state.next_start_s:
        return replace(state, phase="probing", since_s=now_s, restarts=state.restarts + 1), ("start",)
    if state.phase == "ready" and state.consecutive and capacity_share(state, limits, now_s) >= 1.0:
        return replace(state, consecutive=0), ()
    return state, ()


def capacity_share(state: LaneHealth, limits: Recovery, now_s: float) -> float:
    """Share of its capacity the lane is given now: 0 unless ready, then ramped from `ramp_start_share` to 1."""
    if state.phase != "ready":
        return 0.0
    if not state.ramping or limits.ramp_s == 0:
        return 1.0
    progress = min(1.0, max(0.0, (now_s - state.since_s) / limits.ramp_s))
    return limits.ramp_start_share + (1.0 - limits.ramp_start_share) * progress


UNKNOWN_BRING_UP_S = 5.0
"""A lane of which nothing is known yet is expected to be up after this long."""


def back_in_s(state: LaneHealth, now_s: float, bring_up_s: float | None) -> float | None:
    """Time until the lane is expected to serve: 0 while it does, None where it does not come back by itself.

    bring_up_s: what it takes from the start of its process until it serves; None: nobody knows. One that takes longer
    is expected to take as long again as it is over time.
    """
    if state.phase == "ready":
        return 0.0
    if state.phase == "stopped":
        return None
    takes_s = UNKNOWN_BRING_UP_S if bring_up_s is None else bring_up_s
    if state.phase in {"waiting", "open"}:
        return max(0.0, state.next_start_s - now_s) + takes_s
    return abs(takes_s - (now_s - state.since_s))


def _died(state: LaneHealth, event: Died, limits: Recovery, now_s: float) -> LaneHealth:
    if state.phase in {"waiting", "open", "stopped"}:
        return state
    cause = event.cause
    if event.blameless:
        next_s = now_s + limits.restart_backoff_s
        return replace(state, phase="waiting", since_s=now_s, next_start_s=next_s, last_fault=cause, ramping=True)
    recent = tuple(t for t in state.deaths_s if now_s - t < limits.breaker_window_s)
    deaths = (*recent, now_s)[-limits.breaker_failures :]
    consecutive = state.consecutive + 1
    base = replace(state, since_s=now_s, deaths_s=deaths, consecutive=consecutive, last_fault=cause, ramping=True)
    if state.phase == "probing" or len(deaths) >= limits.breaker_failures:
        return replace(base, phase="open", next_start_s=now_s + limits.breaker_open_s)
    pause_s = min(limits.max_backoff_s, limits.restart_backoff_s * 2.0 ** min(consecutive - 1, 30))
    return replace(base, phase="waiting", next_start_s=now_s + pause_s)
