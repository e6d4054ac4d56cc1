"""E-process for "answer i is at most as likely as answer j", from the samples that gave either.

Among such samples, i comes up with a probability θ ≤ 1/2 under the hypothesis. Betting on θ uniform in (1/2, 1) gives

    E(a, b) = 2 ∫_{1/2}^{1} (2θ)^a (2(1−θ))^b dθ = 2^{a+b+1} · B(a+1, b+1) · P(Beta(a+1, b+1) > 1/2)

for a samples of i and b of j, a non-negative supermartingale with E(0, 0) = 1. By Ville's inequality it ever exceeds
1/α with a probability of at most α, however often one looks (Ramdas, Grünwald, Vovk, Shafer, Statistical Science 38(4)
2023, doi:10.1214/23-STS894; for the mode of a discrete distribution: Jain et al., AISTATS 2022, arXiv 2109.05047).
"""

from __future__ import annotations

import math

from agent.physics.student_t import incomplete_beta

LOG_TINY = -745.0
"""Logarithm of the smallest positive float; what underflows is bounded by it, which errs on the safe side."""


def log_e(wins: int, losses: int) -> float:
    """Natural logarithm of E(wins, losses). Raises ValueError for a negative count."""
    if wins < 0 or losses < 0:
        raise ValueError(f"counts must not be negative, got {wins} and {losses}")
    a, b = wins + 1.0, losses + 1.0
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    upper = incomplete_beta(b, a, 0.5)  # P(Beta(a, b) > 1/2) = P(Beta(b, a) < 1/2)
    log_upper = math.log(upper) if upper > 0 else LOG_TINY
    return (a + b - 1.0) * math.log(2.0) + log_beta + log_upper


def wins_needed(losses: int, alpha: float) -> int:
    """Fewest wins that certify against so many losses at error probability alpha in (0, 1)."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha:g}")
    target = -math.log(alpha)
    high = losses + 1
    while log_e(high, losses) < target:
        high *= 2
    low = losses
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if log_e(middle, losses) >= target else (middle, high)
    return high
