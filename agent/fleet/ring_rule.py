"""Ring rule: what a rollout does next – offer, wait, go on, abort. Pure.

Boards fall into rings by a hash of rollout and name, so that nobody chooses who goes first, and it is the same boards
whichever controller asks. Within the rings offers grow as boards settle: a fault is found while few have it, and a ring
may be large enough to find rare ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

from agent.control.worse import Evidence, weighed_all
from agent.fleet.failures import too_many
from agent.records import record
from agent.schema.fleet import DAYS, MaintenanceWindow, Plan

COHORTS = 10_000
MINUTE_S, DAY_S = 60, 86_400
EPOCH_DAY = 3
"""1970 began on a Thursday."""
BOUND = 0.25
"""Largest rise of joules per inference, as a log ratio, that one board may count for."""
FAILED = frozenset({"reverted", "refused", "silent"})
SETTLED = FAILED | {"kept"}


@record(frozen=True)
class Progress:
    """Where a rollout is. Times in seconds by one clock.

    waiting: boards of the rings so far that were not offered it; under_way: offered and not settled; kept, failed:
    settled; settled_s: since when the ring has nothing to wait for; excesses: log ratios of joules per inference, in
    the order in which boards settled; offered_last_minute: for the rate limit.
    """

    ring: int
    waiting: int
    under_way: int
    kept: int
    failed: int
    settled_s: float | None
    excesses: tuple[float, ...]
    offered_last_minute: int


@record(frozen=True)
class Step:
    """What to do. `offers`: how many boards to offer it to now."""

    what: Literal["offer", "wait", "settled", "next_ring", "done", "abort"]
    offers: int = 0
    reason: str = ""


def cohort(rollout: str, board: str) -> int:
    """0 to COHORTS - 1."""
    return int.from_bytes(hashlib.sha256(f"{rollout}/{board}".encode()).digest()[:8], "big") % COHORTS


def reach(plan: Plan, ring: int) -> int:
    """Cohorts below this number belong to the rings up to `ring`."""
    return round(plan.rings[min(ring, len(plan.rings) - 1)] * COHORTS)


def evidence(plan: Plan, excesses: Sequence[float]) -> Evidence:
    """That boards need more joules per inference than before."""
    return weighed_all(excesses, math.log1p(plan.max_worse), BOUND)


def step(plan: Plan, progress: Progress, now_s: float) -> Step:
    """The next step. `now_s`: seconds since 1970; offers leave within the plan's windows only."""
    reason = _abort(plan, progress)
    if reason:
        return Step("abort", reason=reason)
    if progress.waiting and not may_offer(plan, now_s):
        return Step("wait")
    if progress.waiting:
        settled = progress.kept + progress.failed
        rate = plan.per_minute - progress.offered_last_minute
        ramp = max(plan.ramp_boards, settled) - progress.under_way
        offers = max(0, min(progress.waiting, rate, ramp))
        return Step("offer", offers) if offers else Step("wait")
    if progress.under_way:
        return Step("wait")
    last = progress.ring >= len(plan.rings) - 1
    if last:
        return Step("done")
    if progress.failed and not progress.kept:
        return Step("abort", reason=f"all {progress.failed} boards of the first rings failed or fell silent")
    if progress.settled_s is None:
        return Step("settled")
    return Step("next_ring") if now_s - progress.settled_s >= plan.soak_s else Step("wait")


def may_offer(plan: Plan, now_s: float) -> bool:
    """Whether it is inside a maintenance window, or there is none. `now_s`: seconds since 1970."""
    return not plan.windows or any(_inside(window, now_s) for window in plan.windows)


def _inside(window: MaintenanceWindow, now_s: float) -> bool:
    day, second = divmod(now_s, DAY_S)
    begins_s, ends_s = _second(window.begins), _second(window.ends)
    if begins_s < ends_s:
        return begins_s <= second < ends_s and _on(window, int(day))
    return (second >= begins_s and _on(window, int(day))) or (second < ends_s and _on(window, int(day) - 1))


def _on(window: MaintenanceWindow, day: int) -> bool:
    return DAYS[(day + EPOCH_DAY) % len(DAYS)] in window.days


def _second(minute: str) -> int:
    return int(minute[:2]) * 60 * MINUTE_S + int(minute[3:]) * MINUTE_S


def _abort(plan: Plan, progress: Progress) -> str:
    settled = progress.kept + progress.failed
    enough = min(plan.min_boards, settled + progress.waiting + progress.under_way)
    if settled >= enough and too_many(settled, progress.failed, plan.max_failed, plan.risk):
        share = progress.failed / settled
        return f"{progress.failed} of {settled} boards failed or fell silent ({share:.1%}; {plan.max_failed:.1%} may)"
    found = evidence(plan, progress.excesses)
    if found.proves(plan.risk):
        change = math.expm1(found.mean_excess)
        return f"{change:+.1%} joules per inference over {found.pairs} boards, each against its own past"
    return ""
