"""Baselines: the stopping rules that others use, for comparison side by side."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from agent.physics.student_t import incomplete_beta
from agent.sampling.tally import Tally

BETA_CONFIDENCE = 0.95
DOUBLING_SHARE = 0.75
DOUBLING_LOOKS = (2, 4, 8)


def fixed_k(tally: Tally, k: int) -> bool:
    """Majority of k samples: stop at k."""
    return tally.samples >= k


def adaptive_consistency(tally: Tally, confidence: float = BETA_CONFIDENCE) -> bool:
    """Stop when P(p_leader > 1/2 | counts of the two leading answers) ≥ confidence under a uniform prior.

    Aggarwal et al., EMNLP 2023, arXiv 2305.11860. Looked at after every sample it does not keep 1 − confidence.
    """
    if not tally.counts:
        return False
    runner_up = tally.runner_up()
    wins = tally.counts[tally.leader()]
    losses = 0 if runner_up is None else tally.counts[runner_up]
    return incomplete_beta(losses + 1.0, wins + 1.0, 0.5) >= confidence


def doubling(tally: Tally, threshold: float = DOUBLING_SHARE, looks: Sequence[int] = DOUBLING_LOOKS) -> bool:
    """Looks at 2, 4 and 8 samples; stop when the leader has the share, or at the last look."""
    if tally.samples >= looks[-1]:
        return True
    return tally.samples in looks and tally.agreement >= threshold


def best_of_n(answers: Sequence[Hashable], mean_logprobs: Sequence[float]) -> Hashable:
    """The answer of the sample with the highest mean log-probability per token; the first where several are.

    Raises ValueError for no samples or lengths that differ.
    """
    if not answers or len(answers) != len(mean_logprobs):
        raise ValueError(f"{len(answers)} answers and {len(mean_logprobs)} log-probabilities: one of each is needed")
    return answers[max(range(len(answers)), key=lambda i: (mean_logprobs[i], -i))]
