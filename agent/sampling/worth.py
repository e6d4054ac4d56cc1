"""What more samples are worth: how much the answer is expected to improve by them.

The value of an answer is its share, the probability that a fresh sample gives it too. After m more samples one answers
with whichever of the two leading answers is ahead then, and the expected rise of the value is

    s · Σ_x P(x) · max(0, 1 − 2 θ'(x)),   θ'(x) = (a + 1 + x)/(a + b + 2 + m),

with a and b samples of the two, P the beta-binomial predictive of x of m for the leader, and s the share of samples
that go to either: the expected value of sample information (Raiffa & Schlaifer 1961) under a uniform prior. It is near
0 both where all samples agree and where each says something else, and largest for two answers that are close.
"""

from __future__ import annotations

import math

from agent.sampling.tally import Tally

MAX_HORIZON = 256
"""Samples looked ahead at most; the sum has that many terms."""


def gain(tally: Tally, more: int) -> float:
    """Expected rise of the answer's value by `more` further samples, in [0, 1]; 1 before the first one."""
    if more < 1:
        raise ValueError(f"the number of further samples must be positive, got {more}")
    if not tally.counts:
        return 1.0
    runner_up = tally.runner_up()
    ahead = tally.counts[tally.leader()]
    behind = 0 if runner_up is None else tally.counts[runner_up]
    pair = (ahead + behind) / (tally.samples + 1.0)  # the one more: an answer not seen yet
    informative = min(MAX_HORIZON, max(1, round(more * pair)))
    total = ahead + behind + 2.0 + informative
    rise = 0.0
    for wins in range(informative + 1):
        share = (ahead + 1.0 + wins) / total
        chance = math.exp(_log_predictive(wins, informative, ahead + 1.0, behind + 1.0))
        rise += chance * max(0.0, 1.0 - 2.0 * share)
    return pair * rise


def pays(tally: Tally, next_samples: int, left: int, price: float) -> bool:
    """Whether the next batch, or a longer run of them up to `left` samples, is worth more than it costs.

    price: what one sample costs, in the value of one certain answer (for instance joules of a sample over the joules
    that a right answer is worth). One batch may be too short to change anything while four of them pay.
    """
    horizon = max(1, next_samples)
    while True:
        samples = min(horizon, max(1, left))
        if gain(tally, samples) > price * samples:
            return True
        if samples >= left:
            return False
        horizon *= 2


def _log_predictive(wins: int, trials: int, a: float, b: float) -> float:
    choose = math.lgamma(trials + 1) - math.lgamma(wins + 1) - math.lgamma(trials - wins + 1)
    return choose + _log_beta(a + wins, b + trials - wins) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
