"""Worse: whether something got worse than its own past, judged after every comparison without a fixed sample size.

Test martingale by betting (Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B
2024, doi:10.1093/jrsssb/qkad009): while the mean excess is at most the margin, the wealth of whoever bets on more is a
supermartingale, and exceeds 1/alpha at any time with probability alpha at most (Ville's inequality). One comparison
is one value after against one value before, so that what is random in both cancels in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from agent.records import record

STAKES = (0.05, 0.15, 0.3, 0.6, 0.9)
"""Shares of the largest bet that cannot ruin. The mean of their wealths is a bet itself, good for any excess."""


@record(frozen=True)
class Evidence:
    """What the comparisons so far say. `logs` has the log wealth at each stake."""

    pairs: int = 0
    total: float = 0.0
    logs: tuple[float, ...] = (0.0,) * len(STAKES)

    @property
    def mean_excess(self) -> float:
        """Mean of the clipped excesses, 0 without any."""
        return self.total / self.pairs if self.pairs else 0.0

    @property
    def log_wealth(self) -> float:
        """Natural log of the mean wealth; the evidence that it is worse."""
        top = max(self.logs)
        return top + math.log(sum(math.exp(value - top) for value in self.logs) / len(self.logs))

    def proves(self, alpha: float) -> bool:
        """Whether it is worse, at a risk of at most `alpha` in (0, 1) of saying so wrongly at any time."""
        return self.log_wealth >= -math.log(alpha)


def weighed(evidence: Evidence, excess: float, margin: float, bound: float) -> Evidence:
    """The evidence after one more comparison.

    `excess`: log ratio or difference of after and before, above 0 where after is worse; clipped to ±`bound` > 0, so
    that no single value decides. `margin` in [0, bound): an excess that is still accepted.
    """
    if not 0 <= margin < bound or math.isnan(excess):
        raise ValueError(f"expected 0 <= margin < bound and a number; got {excess}, {margin}, {bound}")
    clipped = min(bound, max(-bound, excess))
    gain = (clipped - margin) / (bound + margin)
    logs = tuple(log + math.log1p(stake * gain) for log, stake in zip(evidence.logs, STAKES, strict=True))
    return Evidence(evidence.pairs + 1, evidence.total + clipped, logs)


def weighed_all(excesses: Sequence[float], margin: float, bound: float) -> Evidence:
    """The evidence of many comparisons, in their order."""
    evidence = Evidence()
    for excess in excesses:
        evidence = weighed(evidence, excess, margin, bound)
    return evidence
