"""Claim: what may be said of the answer that is given – of that one, which need not be the one with the most votes."""

from __future__ import annotations

from collections.abc import Hashable

from agent.records import record
from agent.sampling import csvet, majority
from agent.sampling.strategy import Certify, Strategy
from agent.sampling.tally import Tally

AGREEING = 2
"""Samples that must say the same before anything is certified of it: one of one is no agreement."""


@record(frozen=True)
class Claim:
    """`agreement`: share of the samples with an answer that gave this one. `certified`: smallest α at which it is
    certified (1: none). `certifies`: what is certified at the strategy's α; None for nothing."""

    agreement: float
    certified: float
    certifies: Certify | None
    statement: str


def claim(strategy: Strategy, tally: Tally, answer: Hashable | None, reason: str) -> Claim:
    """What the samples say of `answer` (None: none is given) where sampling ended for this reason."""
    if answer is None or answer not in tally.answers:
        counted = "no answer is given" if tally.counts else "no sample gave an answer"
        return Claim(0.0, 1.0, None, f"{counted}; nothing is certified")
    leader, alpha = tally.leader(), strategy.alpha
    index = tally.answers.index(answer)
    votes, agreement = tally.counts[index], tally.counts[index] / tally.samples
    if index != leader:
        most = f"another answer has {tally.counts[leader]}"
        if tally.counts[leader] == votes:
            most = "another answer has as many"
        said = f"{_agreeing(votes, tally.samples)} on it, {most}; not certified at {alpha:g} (stopped: {reason})"
        return Claim(agreement, 1.0, None, said)
    certified = csvet.certified_alpha(tally)
    if votes < AGREEING:
        said = f"{_agreeing(votes, tally.samples)}; not certified at {alpha:g} (stopped: {reason})"
        return Claim(agreement, certified, None, said)
    verdict = csvet.Verdict(True, "samples", leader, certified)
    said = csvet.statement(verdict, tally, alpha).replace("stopped: samples", f"stopped: {reason}")
    if reason == "majority":
        said = majority.statement(tally, strategy.max_samples, alpha)
    return Claim(
        agreement, certified, "mode" if certified <= alpha else "majority" if reason == "majority" else None, said
    )


def _agreeing(votes: int, samples: int) -> str:
    return f"{votes} of {samples} samples agree"
