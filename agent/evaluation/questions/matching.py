"""Matching: what Beta stopping costs where it errs as often as a certified majority does, on the same pools.

Beta's nominal confidence does not hold when one looks after every sample, so that it is set to what its measured error
asks for. An error is an answer that another one outnumbers in the whole pool. Both rules are lines of wins against
losses, and both also stop where the samples left cannot change the vote; each is followed through several orders of
every pool, all as likely as the one it was drawn in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agent.evaluation.questions.scoring import Answered
from agent.physics.student_t import incomplete_beta
from agent.records import record
from agent.sampling import majority
from agent.sampling.strategy import Sample

ALPHAS = (0.05, 0.1, 0.2, 0.3)
THRESHOLDS = (*(per_mille / 1000 for per_mille in range(700, 1000, 5)), 0.999)
"""Of Beta, in steps fine enough that it is not held to a higher one than it needs."""
ORDERS = 20


@record(frozen=True)
class _Path:
    """One order of one pool, sample by sample: the two largest counts, tokens so far, whether the leader has won."""

    ahead: tuple[int, ...]
    behind: tuple[int, ...]
    tokens: tuple[int, ...]
    won: tuple[bool, ...]


@record(frozen=True)
class _Spent:
    error: float
    samples: float
    tokens: float


def matched(results: Sequence[Answered], seed: int = 0) -> list[dict[str, Any]]:
    """For each alpha: errors, samples and tokens of the certified majority, and of Beta at no larger error.

    Beta takes the lowest of its thresholds, which stops soonest; its columns are None where none of them errs so
    rarely. Empty for pools that are too large to certify a majority of.
    """
    size = len(results[0].pool)
    if size > majority.MAX_SAMPLES:
        return []
    rng = np.random.default_rng(seed)
    paths = [
        _path([result.pool[i] for i in order])
        for result in results
        for order in [range(size), *(rng.permutation(size) for _ in range(ORDERS - 1))]
    ]
    lines = {threshold: _beta_line(threshold, size) for threshold in THRESHOLDS}
    spent = {line: _follow(paths, line, size) for line in dict.fromkeys(lines.values())}
    found = []
    for alpha in ALPHAS:
        own = _follow(paths, majority.boundary(size, alpha), size)
        threshold = next((t for t in THRESHOLDS if spent[lines[t]].error <= own.error), None)
        beta = None if threshold is None else spent[lines[threshold]]
        found.append({
            "alpha": alpha, "error": own.error, "samples": own.samples, "tokens": own.tokens,
            "beta_threshold": threshold, "beta_error": beta and beta.error, "beta_samples": beta and beta.samples,
            "beta_tokens": beta and beta.tokens,
        })  # fmt: skip
    return found


def _beta_line(threshold: float, samples: int) -> majority.Line:
    """Wins at which P(share > 1/2) reaches the threshold, as in adaptive consistency."""
    line = []
    for losses in range(samples + 1):
        wins = losses
        while wins <= samples and incomplete_beta(losses + 1.0, wins + 1.0, 0.5) < threshold:
            wins += 1
        line.append(wins)
    return tuple(line)


def _path(pool: Sequence[Sample]) -> _Path:
    whole: dict[object, int] = {}
    for sample in pool:
        if sample.answer is not None:
            whole[sample.answer] = whole.get(sample.answer, 0) + 1
    most = max(whole.values(), default=0)
    counts: dict[object, int] = {}
    tokens = 0
    rows = []
    for sample in pool:
        tokens += sample.tokens
        if sample.answer is not None:
            counts[sample.answer] = counts.get(sample.answer, 0) + 1
        leader = max(counts, key=lambda a: counts[a], default=None)
        behind = max((c for a, c in counts.items() if a != leader), default=0)
        rows.append((counts.get(leader, 0), behind, tokens, whole.get(leader, 0) == most))
    ahead, behind_all, tokens_all, won = zip(*rows, strict=True)
    return _Path(ahead, behind_all, tokens_all, won)


def _follow(paths: Sequence[_Path], line: majority.Line, size: int) -> _Spent:
    """Stop each path on the line or where the samples left cannot change the vote."""
    stops = []
    for path in paths:
        pairs = enumerate(zip(path.ahead, path.behind, strict=True), start=1)
        stops.append(next(
            (
                n for n, (a, b) in pairs
                if (b < len(line) and a and a >= line[b]) or a - b > size - n
            ),
            size,
        ))  # fmt: skip
    count = len(paths)
    return _Spent(
        sum(not path.won[n - 1] for path, n in zip(paths, stops, strict=True)) / count,
        sum(stops) / count,
        sum(path.tokens[n - 1] for path, n in zip(paths, stops, strict=True)) / count,
    )
