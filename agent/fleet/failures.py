"""Failures: whether more boards fail than is accepted, however often one looks. Pure.

The k-th failure is too many where it comes within the first so many boards. These limits are set one after the other,
so that the chance of ever meeting one – where the accepted share fails, after whichever board one looks – is at most
the risk: the first failure may take `FIRST` of it, the first k together 1 - `REST` / k (a spending function over
failures instead of time; Lan & DeMets, Biometrika 1983, doi:10.1093/biomet/70.3.659). Where less than the accepted
share fails the chance is smaller.
"""

from __future__ import annotations

import math

FIRST, REST = 0.2, 0.2
EXACT = 32
"""Failures whose limits are computed together; each later one has its own part of what is left of the risk."""
_MOST_BOARDS = 10**12
_NEGLIGIBLE = 1e-12


def too_many(boards: int, failed: int, share: float, risk: float) -> bool:
    """Whether `failed` of `boards` are more than `share` explains. `share` from 0 to 1, `risk` between 0 and 0.5."""
    unlikely = chance(boards, failed, share)
    if unlikely > risk:
        return False
    if share == 0:
        return True
    if boards <= limits(share, risk, min(failed, EXACT))[-1]:
        return True
    return failed > EXACT and unlikely <= risk * REST / (failed * (failed - 1))


def chance(boards: int, failed: int, share: float) -> float:
    """That `failed` or more of `boards` fail where `share` of all do: the upper tail of the binomial distribution.

    1 where that is no more than is to be expected.
    """
    if failed <= share * boards:
        return 1.0
    if share == 0:
        return 0.0
    ways = math.lgamma(boards + 1) - math.lgamma(failed + 1) - math.lgamma(boards - failed + 1)
    term = math.exp(ways + failed * math.log(share) + (boards - failed) * math.log1p(-share))
    total = term
    for more in range(failed + 1, boards + 1):
        term *= (boards - more + 1) / more * share / (1 - share)
        total += term
        if term < _NEGLIGIBLE * total:
            break
    return total


def limits(share: float, risk: float, failures: int) -> list[int]:
    """Within how many boards each failure, up to this many, is too many. `share` above 0 and below 1."""
    found, end, alive = [], 0, [1.0]
    for failure in range(1, failures + 1):
        budget = risk * (FIRST if failure == 1 else 1 - REST / failure)
        more = _farthest(alive, failure, share, budget)
        alive = _unstopped(alive, more, failure, share)
        end += more
        found.append(end)
    return found


def _farthest(alive: list[float], failure: int, share: float, budget: float) -> int:
    """How many boards more keep the chance of having been stopped within the budget."""
    low, high = 0, 1
    while high < _MOST_BOARDS and 1 - sum(_unstopped(alive, high, failure, share)) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if 1 - sum(_unstopped(alive, middle, failure, share)) <= budget:
            low = middle
        else:
            high = middle
    return low


def _unstopped(alive: list[float], boards: int, failure: int, share: float) -> list[float]:
    """Chances of 0, 1, … failures so far and never stopped, so many boards later; this `failure` stops."""
    ways = [math.exp(boards * math.log1p(-share))]
    for count in range(1, failure):
        ways.append(ways[-1] * (boards - count + 1) / count * share / (1 - share))
    return [
        sum(alive[before] * ways[after - before] for before in range(min(after + 1, len(alive))))
        for after in range(failure)
    ]
