"""Claims: somebody's published change beside ours, averaged over the cases of a board."""

from __future__ import annotations

from statistics import fmean

from agent.records import record
from agent.schema.scenario import Claim
from agent.simulation.comparison import REQUEST, BoardResult


@record(frozen=True)
class Mean:
    """Relative changes of requests over cases: their mean, smallest and largest, and how many there are."""

    mean: float
    low: float
    high: float
    count: int


@record(frozen=True)
class Verdict:
    """A claim beside the modelled changes; `ours` is None where no case has both placements."""

    claim: Claim
    ours: Mean | None
    bound: Mean | None

    @property
    def met(self) -> bool | None:
        """Whether ours goes at least as far as the claim, in its direction; None without ours."""
        return None if self.ours is None else reaches(self.ours.mean, self.claim.change)

    @property
    def reachable(self) -> bool | None:
        """Whether the end of the front for this quantity goes as far; None without one."""
        return None if self.bound is None else reaches(self.bound.mean, self.claim.change)


def reaches(change: float, claimed: float) -> bool:
    """Whether a change goes at least as far as the claimed one, in its direction."""
    return change <= claimed if claimed < 0 else change >= claimed


def mean_change(board: BoardResult, placement: str, baseline: str, quantity: str, phase: str = REQUEST) -> Mean | None:
    """Mean relative change over the cases that have both placements; None without any."""
    changes = board.changes(phase, placement, baseline, quantity)
    return Mean(fmean(changes), min(changes), max(changes), len(changes)) if changes else None


def verdicts(board: BoardResult, claims: tuple[Claim, ...]) -> tuple[Verdict, ...]:
    """Every claim beside what the model gives on this board."""
    return tuple(
        Verdict(
            claim,
            mean_change(board, claim.placement, claim.relative_to, claim.quantity),
            mean_change(board, f"least-{claim.quantity}", claim.relative_to, claim.quantity),
        )
        for claim in claims
    )
