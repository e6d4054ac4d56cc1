"""CSVET: stops repeated sampling when the leading answer is certified, or when going on does not pay.

Certified means: with probability at least 1 − α over all samples and however often one looks, the answer named is the
most likely one of the model – answers that have not come up yet included. Every other answer m would have to be at
least as likely; against it the leader i has an e-process (`e_process`) of the samples since i first appeared. Of all
rivals the runner-up speaks loudest, an unseen one not at all, so one comparison decides. Which wrong answer might lead
is not known beforehand; the r-th answer to appear therefore gets the share `_share(r)` of α, and the shares sum to 1.

It says nothing of whether the model's most likely answer is right.
"""

from __future__ import annotations

import math
from typing import Literal

from agent.records import record
from agent.sampling.e_process import log_e
from agent.sampling.tally import Tally
from agent.sampling.worth import pays

FIRST_SHARE = 0.7
"""Share of α for the answer that came first: it is the most likely one more often than not. The others share the rest
as 6/(π² k²)."""

StopReason = Literal["certified", "samples", "joules", "seconds", "temperature", "not_worth_it", "go_on"]


@record(frozen=True)
class Budget:
    """What one question may cost; None is no limit. `max_samples` is the bound that always exists."""

    max_samples: int
    joules: float | None = None
    seconds: float | None = None
    temperature_c: float | None = None


@record(frozen=True)
class Spent:
    """What it has cost so far, and what the next batch is expected to cost. Joules None: nobody knows them."""

    joules: float | None
    seconds: float
    temperature_c: float | None
    next_joules: float | None
    next_seconds: float
    next_samples: int = 1


@record(frozen=True)
class Verdict:
    """Stop or go on. `certified` is the smallest α at which the leader would be certified now (1: none)."""

    stop: bool
    reason: StopReason
    leader: int | None
    certified: float


def share(rank: int) -> float:
    """Share of α for the answer that appeared as number `rank` (0 first); they sum to 1 over all ranks."""
    if rank < 0:
        raise ValueError(f"rank must not be negative, got {rank}")
    if rank == 0:
        return FIRST_SHARE
    return (1.0 - FIRST_SHARE) * 6.0 / (math.pi * rank) ** 2


def certified_alpha(tally: Tally) -> float:
    """Smallest error probability at which the leading answer is certified; 1 where it is not at all."""
    if not tally.counts:
        return 1.0
    leader = tally.leader()
    row = tally.since(leader)
    losses = max((count for j, count in enumerate(row) if j != leader), default=0)
    return min(1.0, math.exp(-log_e(row[leader], losses)) / share(leader))


def step(
    tally: Tally, budget: Budget, spent: Spent, alpha: float, worth_j: float | None = None,
    worth_samples: float | None = None,
) -> Verdict:  # fmt: skip
    """Decide after a look.

    Args:
        tally: all samples so far; samples without an answer are not in it but are in `spent`.
        budget: limits; the first one that the next batch would pass stops.
        spent: cost so far and of the next batch.
        alpha: error probability that is asked for, in (0, 1).
        worth_j: joules that one more right answer is worth; sampling stops when no number of further samples is
            expected to improve the answer by as much as they cost (`worth.pays`). None: certification and budgets
            alone decide.
        worth_samples: the same in samples instead of joules: a right answer is worth what so many of them cost.

    Raises ValueError for an alpha out of range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha:g}")
    leader = tally.leader() if tally.counts else None
    reached = certified_alpha(tally)
    if leader is not None and reached <= alpha:
        return Verdict(True, "certified", leader, reached)
    reason = _over(tally, budget, spent)
    price = None if worth_samples is None else 1.0 / worth_samples
    if worth_j is not None and spent.next_joules is not None:
        price = spent.next_joules / spent.next_samples / worth_j
    if reason is None and price is not None:
        left = budget.max_samples - tally.samples
        reason = None if pays(tally, spent.next_samples, left, price) else "not_worth_it"
    return Verdict(reason is not None, reason or "go_on", leader, reached)


def _over(tally: Tally, budget: Budget, spent: Spent) -> StopReason | None:
    """The budget that the next batch would pass. A limit on something that nobody can read stops at once."""
    if tally.samples >= budget.max_samples:
        return "samples"
    if passes(budget.joules, spent.joules, spent.next_joules):
        return "joules"
    if passes(budget.seconds, spent.seconds, spent.next_seconds):
        return "seconds"
    limit_c, now_c = budget.temperature_c, spent.temperature_c
    return "temperature" if limit_c is not None and (now_c is None or now_c >= limit_c) else None


def passes(limit: float | None, now: float | None, more: float | None) -> bool:
    """Whether `more` beyond `now` passes the limit, which None is not; what nobody can read passes any limit."""
    if limit is None:
        return False
    return now is None or more is None or now + more > limit


def statement(verdict: Verdict, tally: Tally, alpha: float) -> str:
    """The sentence that goes with the answer: what is certified, and what is not."""
    if verdict.leader is None:
        return "no sample gave an answer; nothing is certified"
    counted = f"{tally.counts[verdict.leader]} of {tally.samples} samples agree"
    if verdict.certified <= alpha:
        return f"{counted}; it is the model's most likely answer, wrongly so with probability at most {alpha:g}"
    return f"{counted}; not certified at {alpha:g} (stopped: {verdict.reason})"
