"""Majority: when it is known, or as good as known, which answer most of all N samples would give.

A majority vote of N samples is often settled long before the last one. The samples drawn so far are the first ones of N
that come in random order; if another answer than the leading one, i, won the vote, the most frequent of all N would be
some answer m with n_i < n_m. (Level with the most frequent is won: which of two such answers a vote gives is chance.)
Given these final counts every order of the two is equally likely, so the chance
that i is ever ahead of m by the line `boundary` draws is the share of lattice paths from (0, 0) to (n_i, n_m) that
touch it, counted step by step by

    u(x, y) = x/(x+y) · u(x−1, y) + y/(x+y) · u(x, y−1),   u = 0 on the line and beyond,

the share of paths that stay below. Added up over the wrong answers, at the counts where that is largest, it is kept at
α or less: looking after every sample is paid for, and so are answers that have not come up yet. The sum is an upper
bound of the error (a union bound): exact where two answers share all samples and only one of them can reach the line,
more than the error otherwise. In terms of sampling without replacement this is a sequential test of the margin (cf.
Waudby-Smith & Ramdas, NeurIPS 2020, arXiv 2006.04347).
"""

from __future__ import annotations

import math

from agent.sampling.tally import Tally

MAX_SAMPLES = 128
"""N beyond which no line is drawn: counting the paths takes N² steps for every line that is tried."""

Line = tuple[int, ...]
"""Wins that settle the vote against 0, 1, 2, … samples of the runner-up."""


def boundary(samples: int, alpha: float) -> Line:
    """The lowest line for votes of so many samples that is touched wrongly with a probability of at most alpha.

    Lines are those at which a leader this far ahead would be as surprising as `tail` says, for the largest surprise
    that keeps `wrong` at alpha. Raises ValueError for samples out of 1 … 128 or alpha out of (0, 1).
    """
    if not 1 <= samples <= MAX_SAMPLES:
        raise ValueError(f"a vote must be of 1 to {MAX_SAMPLES} samples, got {samples}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha:g}")
    half = samples // 2
    levels = sorted({tail(a, b, half) for b in range(half + 1) for a in range(b + 1, half + 1)})
    best, low, high = _line(half, 0.0), 0, len(levels) - 1
    while low <= high:
        middle = (low + high) // 2
        line = _line(half, levels[middle])
        if wrong(line, samples) <= alpha:
            best, low = line, middle + 1
        else:
            high = middle - 1
    return best


def tail(wins: int, losses: int, half: int) -> float:
    """P(at least `wins` of wins + losses draws are of one of two answers that have `half` samples each)."""
    drawn = wins + losses
    ways = sum(math.comb(half, k) * math.comb(half, drawn - k) for k in range(wins, min(half, drawn) + 1))
    return ways / math.comb(2 * half, drawn)


def wrong(line: Line, samples: int) -> float:
    """Upper bound, over all final counts of at most so many samples, of the chance that a wrong answer is believed.

    For m samples of the right answer the others share the rest, each of them with fewer than m; what they risk together
    is at most the rest times the largest risk per sample.
    """
    below = _below(line, samples)
    worst = 0.0
    for most in range(1, samples):
        rest = samples - most
        risk = max(((1.0 - below[x][most]) / x for x in range(1, min(most - 1, rest) + 1)), default=0.0)
        worst = max(worst, rest * risk)
    return worst


def missing(tally: Tally, line: Line, left: int) -> int:
    """Samples, all of one answer, that would settle the vote at the soonest; at most `left`.

    0 where it is settled: the leader is on the line, or too far ahead for the `left` further samples. Before that many
    are drawn nothing can be decided, so they may as well be drawn side by side.
    """
    fewest = _short(0, max(tally.counts, default=0), line, left)
    most, second = (*sorted(tally.counts, reverse=True)[:2], 0, 0)[:2]
    for count in set(tally.counts):  # who has the most has the second for a rival, all others have the most
        fewest = min(fewest, _short(count, second if count == most else most, line, left))
    return min(fewest, left)


def statement(tally: Tally, samples: int, alpha: float) -> str:
    """The sentence that goes with the answer of a settled vote. Raises ValueError without samples."""
    counted = f"{tally.counts[tally.leader()]} of {tally.samples} samples agree"
    return (
        f"{counted}; no other answer would outnumber it among {samples}, wrongly so with probability at most {alpha:g}"
    )


def _short(wins: int, losses: int, line: Line, left: int) -> int:
    """Wins missing to the line, or to a lead that the samples left after them cannot make up."""
    to_line = line[losses] - wins if losses < len(line) else left
    beyond = math.floor((left - wins + losses) / 2) + 1  # the least s with wins + s − losses > left − s
    return max(0, min(to_line, beyond))


def _line(half: int, level: float) -> Line:
    """For each count of losses the fewest wins whose tail is at most the level; more than half always win."""
    found = []
    for losses in range(half + 1):
        ahead = losses + 1
        while ahead <= half and tail(ahead, losses, half) > level:
            ahead += 1
        found.append(ahead)
    return tuple(found)


def _below(line: Line, samples: int) -> list[list[float]]:
    """u(x, y) for x + y ≤ samples."""
    below = [[1.0] * (samples + 1) for _ in range(samples + 1)]
    for x in range(samples + 1):
        for y in range(samples + 1 - x):
            if y < len(line) and x >= line[y]:
                below[x][y] = 0.0
            elif x + y > 0:
                left = below[x - 1][y] if x else 0.0
                down = below[x][y - 1] if y else 0.0
                below[x][y] = (x * left + y * down) / (x + y)
    return below
